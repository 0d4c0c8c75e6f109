// Package jbd2 reads the log that ext3 and ext4 keep of their metadata and lays
// what it holds over the volume, in memory, as the kernel does on disk when it
// mounts a file system that was not unmounted. A disk copied from under a
// running guest is only consistent with that log applied: without it a reader
// shows directories without their newest entries and inodes that point at blocks
// which now hold something else.
//
// mount/ext4 is the caller: it hands the content of the journal inode to Load
// and reads everything else through Overlay. The package imports mount/filesys
// for its sentinels and nothing else of Cairn; it never writes.
//
// # Invariants
//
//   - A transaction is applied as a whole or not at all: only when its commit
//     record stands in the log and, where the log has checksums, holds.
//   - No block of the log is kept in memory, only where it is: 24 bytes per
//     logged block. Everything in the log is untrusted; the walk passes each
//     block of the ring at most once, so it ends.
//   - With checksums of version 2 or 3 a logged block is verified each time it
//     is read. One that fails is filesys.ErrCorrupt for the reads that touch it,
//     and its older content on the volume is never shown instead.
//   - Log and overlay are immutable after Load and safe for concurrent use if
//     the readers below them are.
//
// # Where this differs from the kernel
//
// The kernel refuses to mount when the checksum of one logged block fails,
// having replayed all the others. Here the volume opens and that block alone
// gives errors: no read ever shows wrong bytes, opening costs one read per
// descriptor instead of the whole log, and files that do not depend on the
// damaged block can still be brought back. Everything else that makes the kernel
// refuse (a commit or descriptor record that fails its checksum in the middle of
// the log, a malformed revoke record) is filesys.ErrCorrupt from Load, and what
// makes it end the replay early and go on ends it here at the same transaction.
// Two damaged commit records in one log with asynchronous commit and checksum
// version 2 or 3 end it at the first one, not at the second.
//
// A log that runs in circles, on which the kernel would loop, ends where it
// meets its own beginning.
//
// # Format
//
// Sources: "Journal (jbd2)" in the kernel's ext4 disk-layout documentation, and
// what kernels and e2fsprogs write. All numbers are big-endian, except in the
// fast-commit area.
//
// The journal is an array of blocks of the file system's size, a ring behind
// one superblock:
//
//	block 0   s_first                s_start                        s_maxlen
//	┌─────────┬──────────────────────┬─────────────────────┬───────┬────────┐
//	│ super-  │ … end of newest      │ oldest transaction, │ older │ fast   │
//	│ block   │ transaction │ free   │ its successors …  ──┼▶ wraps│ commit │
//	└─────────┴──────────────────────┴─────────────────────┴───────┴────────┘
//	The fast-commit area exists with that feature only: the last
//	s_num_fc_blks blocks, which the ring then leaves out.
//
// A transaction, all of whose records carry its sequence number (a 32-bit
// counter that wraps):
//
//	┌──────────┬────────────┬──────┬──────┬───┬────────────┬──────┬───┬────────┐
//	│ revoke * │ descriptor │ data │ data │ … │ descriptor │ data │ … │ commit │
//	└──────────┴────────────┴──────┴──────┴───┴────────────┴──────┴───┴────────┘
//	one data block per tag of the descriptor before it, in the order of the
//	tags; revoke records may stand anywhere between
//
// Every record begins with a header:
//
//	 0        4      8          12
//	┌────────┬──────┬──────────┐   magic 0xC03B3998
//	│ magic  │ type │ sequence │   type  1 descriptor   2 commit   5 revoke
//	└────────┴──────┴──────────┘         3 superblock v1   4 superblock v2
//
// Superblock, 1024 bytes, those behind offset 36 only in version 2:
//
//	12 blocksize   16 maxlen   20 first     24 sequence: the transaction
//	expected at    28 start    (0: the log is empty)      32 errno
//	36 compat      40 incompat 44 ro_compat 48 uuid[16]   64 nr_users
//	80 checksum type (4: crc32c)   84 num_fc_blks   88 head
//	252 checksum: crc32c of the 1024 bytes with this field zero
//
//	compat   0x01 checksum (version 1)
//	incompat 0x01 revoke   0x02 64bit   0x04 async_commit
//	         0x08 checksum v2   0x10 checksum v3   0x20 fast_commit
//
// Descriptor: the header, then tags until one says that it is the last or the
// next one would not fit; with checksum v2 or v3 the block's last four bytes are
// the crc32c of the block with them zero. Tags come in five sizes:
//
//	              0       4       6       8         10/12/14
//	none          │ block │ 0     │ flags │                      8 bytes
//	64bit         │ block │ 0     │ flags │ block high │        12
//	v2            │ block │ crc16 │ flags │ pad(2) │            10
//	v2, 64bit     │ block │ crc16 │ flags │ block high │ pad(2)│ 14
//	v3            │ block │ flags (4)     │ block high │ crc32 │ 16
//	then 16 bytes of UUID unless flag SAME_UUID is set
//
//	flags  1 ESCAPE: the block began with the magic number, which the log
//	         replaces by zeros   2 SAME_UUID   4 DELETED (never acted on)
//	       8 LAST_TAG
//
// The checksum in a tag is the crc32c of the sequence number and the block as
// it stands in the log; version 2 keeps its low half.
//
// Revoke: the header, at 12 the number of bytes in use (counted from the start
// of the block), then block numbers of 4 bytes, or 8 with 64bit; the same tail
// as a descriptor. It cancels all that transactions up to and including its own
// have logged for that block, because the block has been freed and may hold
// file data since.
//
// Commit:
//
//	12 checksum type   13 checksum size   16 checksum[8]   48 seconds (8)
//	56 nanoseconds
//
// Version 1: checksum[0] is a CRC-32, most significant bit first, not inverted
// at the end, over the transaction's descriptors and data in log order; all
// zero means there is none. Versions 2 and 3: the crc32c of the commit block
// with checksum[0] zero. All crc32c here begin with that of the journal's UUID,
// except the superblock's, which begins with all ones, and none is inverted.
//
// The fast-commit area is described in fastcommit.go.
package jbd2
