// Package xfs reads XFS volumes of versions 4 and 5: it implements filesys.FS
// over an io.ReaderAt and never writes.
//
//	fsys, err := xfs.Open(volume, size, filesys.Options{})
//	ino, err := fsys.Lookup(fsys.Root(), "etc")
//
// mount/volume opens volumes with it. It imports mount/xfslog, which lays the log
// over the volume and knows nothing of files, and mount/filesys, and nothing else
// of Cairn.
//
// # How a volume is laid out
//
// A volume is a row of allocation groups of equal length (the last may be
// shorter). The first four sectors of each are its headers; the superblock of
// group 0 is the one that counts, the others are copies of it:
//
//	┌────┬─────┬─────┬──────┬──────────────────────────────┐
//	│ SB │ AGF │ AGI │ AGFL │ blocks …                     │  × agcount
//	└────┴─────┴─────┴──────┴──────────────────────────────┘
//	 copy  free  inode free-
//	       space btree list
//
// All numbers are big-endian, but for checksums. Blocks of the volume have
// numbers whose upper part is the group and whose lower part, of agblklog bits,
// the block in it. Inode numbers go on in the same way with inopblog bits for
// the place in the block, so that an inode is found by arithmetic:
//
//	inode number   │ group │ block in group │ inode in block │
//	                        agblklog bits    inopblog bits
//
// Which of these places are inodes the inode btree of each group tells, in
// records of 64. This reader asks it before it believes what looks like an
// inode: freed chunks may hold old inodes, and files may hold anything.
//
// An inode is a core of 100 bytes (version 5: 176) and behind it two forks, one
// for content and one for extended attributes, each in one of three forms:
//
//	local    the bytes themselves   (small directories, symlinks, attributes)
//	extents  records of 16 bytes:   1 bit unwritten, 54 offset, 52 block, 21 length
//	btree    the root of a btree of such records
//
// A directory's fork is an address space of three parts: entries from 0, hash
// index from 32 GiB, free space from 64 GiB. It comes in four forms:
//
//	short   entries within the inode
//	block   one block of entries, with their hashes at its end
//	leaf    many blocks of entries, one block of hashes
//	node    many of both, under a btree of hashes
//
// Attributes are the same, less the separate entries: short, one leaf, or leaves
// under a btree of hashes. Large values are in blocks of their own.
//
// # What holds
//
//   - Everything read is checked before it is used: ranges, counts, order,
//     levels; and on version 5 the checksum, the volume's UUID, the block's own
//     number and its owner, of every inode and every block of metadata. A
//     contradiction is filesys.ErrCorrupt with the inode or block.
//   - Blocks that are not mapped, or mapped as unwritten, read as zeros.
//   - Memory is bounded: metadata passes through one cache of fixed size, and
//     no structure is held whole. Work per call is bounded as well: walks go
//     down levels that must decrease, or forward along hashes, keys and offsets
//     that must increase.
//   - What is damaged costs no more than it must: the entries behind a damaged
//     block of a directory are still listed (the error comes last), a lookup
//     whose hash index is damaged reads the entries, and inodes are reached by
//     arithmetic where the inode btree is damaged.
//   - An FS is immutable once opened, but for that cache, and safe for
//     concurrent use.
//   - The answers are those of Linux's own read-only mount of the same volume,
//     st_blocks, holes and statfs included.
//
// # Names from below
//
// Names tells the names of an inode where the volume has parent pointers (an
// option of mkfs since 2024). On all others SearchNames looks through directories,
// those nearest to the inode first. ChangedInodes names what may differ between
// two states of a volume, from its inode btrees.
//
// # Differences from Linux
//
// Linux refuses a volume that is marked as in need of repair, with or without
// its log; here IgnoreLog opens it with a warning. Linux stops at the first
// damaged block of a directory. And after the replay of a log it frees what was
// set aside for copies of shared blocks, which is not counted as free here.
//
// # What is not read
//
// Files on a real-time device: the volume opens, their attributes are shown, and
// opening them gives ErrUnsupported. Volumes with a log on another device, of
// which it cannot be known whether it is empty, are refused unless the log is to
// be ignored.
//
// # Sources
//
// "XFS Algorithms & Data Structures" (the kernel's xfs-documentation, 3rd
// edition): chapters "Allocation Groups", "On-disk Inode", "Data Extents",
// "Directories", "Extended Attributes", "Symbolic Links"; offsets in this package
// are those of its structures. Where it is silent (64-bit extent counters, big
// time stamps, parent pointers, metadata directories), what Linux 6.18 and
// xfsprogs write was observed.
package xfs
