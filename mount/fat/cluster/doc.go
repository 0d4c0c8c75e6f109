// Package cluster holds what FAT and exFAT have in common below the level of
// names: a volume of which small pieces are kept, the table that links clusters
// into chains, the content along such a chain, the slots of a directory, an
// index of names, and the way from a directory up to the root.
//
//	table ─► Chain ─┬─► Content   bytes of a file
//	                └─► Slots     32-byte entries of a directory
//
// Both formats store files in clusters that are numbered from 2. The table has
// an entry for each, which names the cluster that follows in the same file:
// finding byte n of a file would mean a walk over n entries. A Chain is made by
// one walk and answers from then on in bounded time, with bounded memory,
// however fragmented the file is; see chain.go.
//
// # What holds
//
//   - All is read-only, and safe for concurrent use except where a type says
//     otherwise (Window, Cursor).
//   - A volume is hostile. Numbers are checked before they are used, a walk
//     ends after a bounded number of steps, and all caches have a limit in
//     bytes. Contradictions wrap filesys.ErrCorrupt.
//   - A chain that runs in circles is found before any byte is read through it:
//     each byte of a Content comes from a cluster that the chain passes once.
//
// The package is used by mount/fat and mount/exfat; it imports filesys and
// nothing else of Cairn.
package cluster
