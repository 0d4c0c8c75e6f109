// Package blockstore keeps deduplicated blocks and the recovery points made of
// them, in vaults on disk.
//
// A vault is a directory with two Pebble databases: blocks/ has the blocks by
// number, index/ finds the number of a digest and has everything else. A Store
// is an open vault. An Upload brings blocks in and ends with a recovery point, a
// set of disk maps (package diskmap) whose pages are blocks like any other.
//
//	s, err := blockstore.Open(dir, blockstore.Options{Resources: shared})
//	u, err := s.StartUpload("…")
//	missing, err := u.FindMissing(ctx, digests)   // the others stay while u is open
//	ack, err := u.Put(ctx, blocks)                // decoded and re-hashed; <-ack.Done(): durable
//	b, err := diskmap.NewBuilder(size, s.Info().BlockSize, base, u, u)
//	m, err := b.Finish(ctx)                       // its pages went through u
//	err = u.Commit(ctx, blockstore.Point{ID: id, Disks: …})
//	plain, err := s.Reader(id).ReadBlocks(ctx, digests)
//	report, err := s.Reclaim(ctx, blockstore.ReclaimOptions{})
//
// # What holds
//
//  1. Order of durability: blocks, then their index entries, then pages, then the
//     point. A crash leaves garbage, never a hole.
//  2. The index has a page only if it has all that the page names. Put sees to it,
//     and a table that fails takes down all that is queued behind it. So a point
//     whose roots are there is whole.
//  3. A point and the records that go with it appear in one synced batch, or not
//     at all.
//  4. What ReadBlocks returns was re-hashed. What is damaged is a CorruptError that
//     names block and point. No digest of a client is believed.
//  5. Ids grow and are never used twice, whatever was lost.
//  6. What an open upload found or put, and what a held point needs, stays: whoever
//     removes blocks takes Store.pins for writing, and leaves alone what the data
//     pins of the uploads name, and everything that can be reached from their
//     pages, from points and from holds.
//  7. A page's id is greater than those of all that it names, as an entry keeps its
//     id as long as it is there. Entries of pages are removed by descending id, and
//     those of data after them: so invariant 2 holds wherever that ends.
//
// Put returns when blocks are queued. Acknowledgements come table by table: a
// client must be ready to have two tables' worth (128 MiB) on the way, or flush, or
// it waits for a table to grow old, a second each time.
//
// # Why it is built this way
//
// Blocks are written with sstable.Writer into tables and ingested. As ids only
// grow no table overlaps another, so every table goes to the bottom level and is
// never compacted: a byte is written once. Only tables that flushes made small are
// written again, eight as one (merge.go). All uploads share one pipeline, one
// table being built while the last one is synced; pipeline.go says why there are
// no id ranges per upload. The index is another database because a table with
// both kinds of keys would drag blocks through compactions. Nothing assumes that
// tables are local: Pebble's objstorage may have them elsewhere.
//
// blocks/ has no WAL, as nothing but tables is written there. index/ syncs every
// batch. A guard (guard.go) keeps Pebble from ending the process when a disk
// fails. The reserve Options.MinFree is given away in steps: new blocks leave all
// of it, committing what is under way may use half, small records and deleting
// three quarters, opening for writing seven eighths. Behind that a vault opens
// read-only.
//
// Memory is the caches of Resources, some MiB per open vault (a 2 MiB memtable,
// twice tableEntries flights of some 200 bytes, four queued Puts), a kilobyte per
// table, and 2 bytes or less per block that an upload pins. An index filter takes
// 1.25 bytes per block: absent digests are told at full speed as long as
// ResourceOptions.IndexCache holds them, 64 MiB for 50 million blocks or 3 TiB.
//
// # Giving space back
//
// Deleted points and abandoned uploads leave garbage, and so do crashes. Reclaim
// marks what is needed in a bitmap of ids and removes the rest, while everything
// else goes on; reclaim.go has the rules by which it and the uploads agree. First
// go index entries, in synced batches. Then blocks/: what no entry names is garbage
// there, whoever left it, so a Reclaim that was stopped needs no record of how far
// it came. A table of which nothing is needed is dropped; one with a fifth or more
// of garbage is replaced, in one step, by a table of the rest, together with small
// neighbours. No deletion is ever written to blocks/: Pebble would keep it above
// the bottom level and rewrite what it covers at a time of its own choice. So
// tables stay at the bottom, never overlap, and new ones are written once, as
// before. Garbage below the threshold stays in its table until there is more.
//
// It works on a full disk: dropping tables needs next to nothing and comes first,
// removing entries may use three quarters of the reserve, and so may replacing a
// table, which needs room for what is kept of it, and is put off otherwise. If
// a page that is needed cannot be read, or the index lacks a block that a page
// names, nothing is removed: delete the points that Verify names first.
//
// # On disk: format 1
//
// This is a promise: a program that knows format 1 reads vaults laid out like
// this. testdata/ has a vault and records in this format.
//
//	DIR/FORMAT      says what this is; renamed into place last when a vault is made
//	DIR/LOCK        empty; locked with fcntl(2) while the vault is open
//	DIR/index/      Pebble database
//	DIR/blocks/     Pebble database
//	DIR/incoming/   tables being built; removed when the vault is opened
//
// FORMAT is text, each line ended by a newline. Its first two lines never change
// in kind. A program that finds a version greater than it knows opens nothing.
//
//	cairn vault
//	version: 1
//	uuid: 0193f4c2-7a1e-4b6f-9d3c-5e8f7a6b5c4d
//	block-size: 65536
//
// Both databases have Pebble's format major version 21 (FormatTableFormatV6) or
// older, the default comparer (bytewise), and no block compression. The major
// version is named here, not left to Pebble, so that a new Pebble does not make
// vaults unreadable to the Cairn of the day before; 21 brings checksummed table
// footers and a WAL in which a torn end differs from a damaged middle.
//
// Numbers: u64 is big endian, 8 bytes. uvarint is the base-128 varint of
// encoding/binary and Protocol Buffers.
//
// blocks/ has one kind of key:
//
//	┌───────────────┐     ┌──────────────────────────────────────────┐
//	│ id, u64       │  →  │ stored block (package block)             │
//	└───────────────┘     └──────────────────────────────────────────┘
//	ids begin at 1 and grow in the order of writing; a failed table leaves a gap,
//	and so does what was reclaimed. Ids that no 'd' entry names are garbage. There
//	are no deletions, and the tables' ranges of ids do not overlap.
//
// index/ has four, told apart by their first byte:
//
//	'd' digest of a block
//	┌─────┬─────────────────────┐     ┌─────────────┬──────────────────────────────┐
//	│ 'd' │ digest, 32 bytes    │  →  │ id, uvarint │ 2·stored length + page,      │
//	└─────┴─────────────────────┘     │             │ uvarint                      │
//	                                  └─────────────┴──────────────────────────────┘
//	page is 1 for a map page (8192 plain bytes), 0 for data (block-size plain bytes)
//
//	'm' state of the vault
//	┌─────┐     ┌────────┬──────────────────┬─────────┬────────────────────┬───────────────────┐
//	│ 'm' │  →  │ byte 1 │ next id, uvarint │ entries │ their stored bytes │ their plain bytes │
//	└─────┘     └────────┴──────────────────┴─────────┴────────────────────┴───────────────────┘
//	all uvarints; absent in a new vault; ids at and above next id, and above all in
//	blocks/, were never used
//
//	'p' recovery point
//	┌─────┬───────────┐     ┌────────┬──────────────────────┬─────────┬──────────────────────┬──────┐
//	│ 'p' │ id, UTF-8 │  →  │ byte 1 │ disk count, uvarint  │ disks … │ meta length, uvarint │ meta │
//	└─────┴───────────┘     └────────┴──────────────────────┴─────────┴──────────────────────┴──────┘
//	the first byte is the record's version; each disk is
//	┌──────────────────────┬─────────────┬──────────────────────────┬─────────────────────┬────────────────┐
//	│ name length, uvarint │ name, UTF-8 │ size in bytes, uvarint   │ block size, uvarint │ root, 32 bytes │
//	└──────────────────────┴─────────────┴──────────────────────────┴─────────────────────┴────────────────┘
//
//	'r' record of the server
//	┌─────┬────────────────┐     ┌────────────────┐
//	│ 'r' │ key, UTF-8     │  →  │ anything       │
//	└─────┴────────────────┘     └────────────────┘
//
// # Getting data back
//
// A stored block says how to decode it, and its digest follows from its content.
// So if index/ is lost, every 'd' entry can be made again by reading blocks/ once,
// in order (Verify reads it in just this way), and 'm' from what was found. Points
// are then found as the pages that no other page names: they are roots, of points
// or of what a crash or a deletion left. Their depth shows, as data has no page's
// length; lost are ids, disk names and sizes (up to a block), and meta. Entries
// whose children are not all there are garbage of a reclaim, and must not be made
// again. If
// blocks/ has lost tables, Verify lists blocks and points that need them.
//
// The server opens vaults, the benchmarks do. The package imports block, diskmap
// and Pebble; never proto, gRPC, client or server.
package blockstore
