// Package xfslog reads the log that XFS keeps of its metadata and lays what it
// holds over the volume, in memory, as the kernel does on disk when it mounts a
// file system that was not unmounted. XFS writes metadata back late: of a disk
// copied from under a running guest, a reader without the log may see none of
// the files of the last half minute, and inodes whose blocks hold something else.
//
// mount/xfs is the caller:
//
//	g, err := xfslog.ParseGeometry(superblock) // sector 0, verified
//	log, err := xfslog.Load(volume, g)
//	volume = log.Overlay(volume)
//	warnings = append(warnings, log.Report().Warnings()...)
//
// and everything, the superblock too, is then read (again) through the overlay.
// The superblock's counters of free space and inodes are not in the log; the
// kernel adds them up from the headers of the groups, and so must the caller.
// The package imports mount/filesys for its sentinels and nothing else of Cairn;
// it never writes.
//
// # Invariants
//
//   - A transaction is replayed as a whole or not at all: only when its commit
//     stands in the log.
//   - What is logged is not kept in memory, only where it is: 32 bytes for each
//     piece of a buffer or inode, of which later ones that say the same replace
//     earlier ones, at most 20 MiB. A log that needs more is
//     filesys.ErrUnsupported; one of up to 64 MiB cannot. Blocks that are
//     changed beyond what is logged are kept, at most 8 MiB, and so are records
//     that were last used, 4 MiB until Forget.
//   - Everything in the log is untrusted. The scan passes each record at most
//     once; looking for the head costs a binary search, and 4 MiB of reads if the
//     log is not clean.
//   - A block or inode that cannot be replayed is an error for the reads that
//     touch it, and its older content is never shown instead.
//   - Log and overlay are immutable after Load, but for the cache of records, and
//     safe for concurrent use if the reader below them is.
//
// # The log
//
// Sources: "XFS Algorithms & Data Structures" (kernel.org, xfs-documentation),
// chapter "Journaling Log"; the kernel's description of its delayed logging
// ("XFS Delayed Logging Design"), and what kernels write. A number in the
// headers of records and operations is big-endian; what items hold is the memory
// of the machine that wrote it, whose byte order the header of the record tells
// (both are read; the item of an inode comes in the padding of 32-bit and of
// 64-bit machines).
//
// The log is a ring of sectors of 512 bytes. The first word of each holds the
// number of the round in which it was written, the cycle, and the word that
// belongs there is in the header of the record. Positions with their cycle are
// log sequence numbers (LSN), cycle<<32 | sector:
//
//	       head            tail
//	┌──────┬───────────────┬────────────────────┐
//	│ … 7 7│6 6 … written  │6 6 … to be replayed┼─▶ wraps
//	└──────┴───────────────┴────────────────────┘
//
// A record: one header or more, then a body of whole sectors:
//
//	 0 magic 0xFEEDBABE   4 cycle        8 version (1, 2)   12 length of the body
//	16 LSN of the record  24 LSN of the tail, the first record not yet on disk
//	32 checksum (little-endian)   36 record before   40 operations
//	44 first words of 64 sectors (256)   300 machine: 1 little-endian Linux,
//	2 big-endian Linux, 3 IRIX   304 UUID (16)   320 size of the kernel's buffers
//
// A version 2 log whose buffers are larger than 32 KiB has further headers, for
// each 32 KiB more one sector: 0 cycle, 4 first words (256). The checksum is the
// crc32c of the first 328 bytes with it zero (324 if a 32-bit x86 wrote it), of
// 260 of each further header in use, and of the body as it stands in the log.
// Zero is none. UUID is that of the file system, sb_uuid.
//
// The body is a row of operations that belong to transactions, which may be
// interleaved and go on in later records:
//
//	 0 transaction   4 length   8 client   9 flags   10 zero (2)   12 data
//	flags  1 start   2 commit   4 goes on in the next operation
//	       8 goes on from the last   16 that ends   32 unmount
//
// The data of the first is the transaction's header ("TRAN"), of the others a
// region each: the format of an item, which says how many follow, then those.
// Items are in item.go and intent.go: buffers by their changed chunks of 128
// bytes, inodes, chunks of new inodes, intents. Quota items limit writers and
// are passed over; every other type is filesys.ErrUnsupported.
//
// # Replay
//
// Items count in the order in which their transactions were committed; in one
// transaction buffers come first, then inodes, then links of the list of unlinked
// inodes, then cancellations. A cancelled buffer was freed, and nothing that was
// logged of it before is replayed, nor of inodes in it, because it may hold file
// data since.
//
// A block of version 5 has the LSN of its last change. What it says is not older
// than the transaction is not replayed: the block may depend on later changes
// that are no longer in the log. What has been replayed gets the LSN of its
// transaction (the record in which that began) and the checksum that fits. Blocks
// without either (version 4, and blocks that something else was in) are always
// replayed; inodes of version 4 by the count of their writes.
//
// The order of replay is the kernel's only where it can be told from the
// outside: each buffer and inode is replayed alone, when it is read. That is
// the same because an item changes nothing but its own buffer or inode, and
// whether it is applied depends on nothing else; buffers of different lengths
// that overlap, for which it would not be, are filesys.ErrCorrupt.
//
// What is not in the log comes after the replay, as with the kernel:
//
//   - An exchange of all extents of two inodes (xfs_fsr) leaves blocks of their
//     mappings that name the other inode. The number is put right (tree.go).
//   - An intent without its done item is the rest of an operation that took
//     several transactions. A mapping intent (BUI) decides what a file holds and
//     is finished here (mapping.go); a mapping that needs more blocks for that
//     gets them from the space of the log, which nobody reads through the
//     overlay (rebuild.go).
//     One to change extended attributes (ATTRI, with parent pointers) or to
//     exchange ranges of files (XMI) is filesys.ErrUnsupported by name.
//   - Intents to free extents (EFI), and to update owners (RUI) and reference
//     counts (CUI) of blocks may be left as they are: what they announce is the
//     change of the groups' trees of free space, owners and counts, which say
//     nothing about names, inodes or contents. The kernel logs them only together
//     with the change of the mapping that causes them, so that the blocks they
//     would free belong to no file in the replayed state. Space that they would
//     free counts as used; Report.Unfinished has their number.
//   - Inodes on the list of unlinked ones have no name and cannot be seen; only
//     the count of free inodes and blocks differs until the kernel has freed them.
//
// # Where this differs from the kernel
//
// The kernel refuses to mount when one block that the log changes cannot be
// verified; here that block alone gives errors. A record of version 4 that fails
// its checksum in the middle of the log is refused, where the kernel only warns,
// and so is one that does not stand where its LSN says. A directory's block that
// is larger than the file system's blocks and lies in several pieces cannot be
// replayed, because each piece is logged alone and the checksum is that of all.
//
// Kernels that can be had today write version 5 and log version 2 on 64-bit
// little-endian machines. The tests make the other forms (log version 1, file
// system version 4, big-endian and 32-bit items) by hand from the sources above.
package xfslog
