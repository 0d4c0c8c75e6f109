// Package btrfs reads btrfs file systems, of one device or several: it
// implements filesys.FS over io.ReaderAt and never writes.
//
//	fsys, err := btrfs.Open(devices, filesys.Options{})
//	ino, err := fsys.Lookup(fsys.Root(), "etc")
//
// # How a file system is laid out
//
// Everything but the superblock has a logical address. Chunks map ranges of
// these to one device or several, by a profile: once (single, RAID0), more than
// once (DUP, RAID1, RAID1C3, RAID1C4, RAID10) or with parity (RAID5, RAID6).
//
// All metadata is in trees of one form: items with a key of object, type and
// offset, sorted, in leaves; nodes above them name each child by its address
// and the generation it was written in. Nothing is overwritten in place, and
// trees share what is equal, so that a snapshot is a second root.
//
//	superblock ─┬─► chunk tree ─► where logical addresses are
//	            ├─► root tree ─┬─► top level and subvolumes: inodes, names,
//	            │              │   attributes, extents
//	            │              ├─► checksum tree: one for every sector of data
//	            │              └─► extent tree, from which free space is counted
//	            └─► log tree: what was synced after the last commit
//
// The superblock leads to the chunk tree by a few chunks that it has itself.
//
// A directory has each entry twice: by the hash of its name, for Lookup, and by
// an index that only grows, for ReadDir. A file has extents: inline in the item,
// or at a logical address, plain or compressed (zlib, LZO, zstd), of which it
// may use a part; files share extents.
//
// # Subvolumes
//
// A subvolume is a tree with a root directory of its own. Open shows the default
// subvolume at Root, as a plain mount does, and those that hang in it as
// directories. What is not below the default subvolume (the top level where a
// guest boots from a snapshot, @home next to @) is a matter of Subvolumes, which
// lists all, and Sub, which shows any of them, the top level (TopLevel)
// included, as an FS of its own that shares devices and caches.
//
// Inode numbers are unique in an FS: see number in fs.go.
//
// # The log
//
// Between two commits, Linux writes what programs sync to a log tree per
// subvolume: whole items of the inodes concerned. Open replays it as Linux does
// when it mounts, in memory: the result is an overlay of items over the tree
// (overlay.go), through which everything is read (cursor in tree.go). With
// Options.IgnoreLog the last commit is shown instead. Where a name is removed,
// Linux's replay sets times to its own; here they stay those of the guest.
//
// # What holds
//
//   - Every tree block is verified (checksum, address, level, generation and
//     first key as its parent has them, order of keys) and so is every sector
//     of data that has a checksum. Where the first copy is not right, others
//     are tried. What no copy has right is filesys.ErrCorrupt.
//   - Holes and preallocated extents read as zeros.
//   - Memory is bounded by caches of fixed size for nodes and for decompressed
//     extents, by the number of chunks, and by that of the log's items; limits
//     stand beside the structures.
//   - Work per call is bounded but for ReadDir, Xattrs and Names, which stream
//     or have limits.
//   - The answers are those of Linux's own read-only mount, st_blocks, holes and
//     statfs included. Entries of subvolumes that a snapshot has but does not
//     contain are empty directories; Linux makes up inode number 2 for them.
//
// Devices may be given in any order. Those that are missing are done without
// where every byte has a copy elsewhere; one that was away while the others
// were written is read last, and never for data without checksums.
//
// The format is described in the kernel's documentation and in that of
// btrfs-progs ("On-disk Format"); offsets here are those of the structures in
// the kernel's public header uapi/linux/btrfs_tree.h.
//
// The package imports filesys, and nothing else of Cairn.
package btrfs
