// Package ext4 reads ext2, ext3 and ext4 volumes: it implements filesys.FS over
// an io.ReaderAt and never writes.
//
//	fsys, err := ext4.Open(volume, size, filesys.Options{})
//	ino, err := fsys.Lookup(fsys.Root(), "etc")
//
// # How a volume is laid out
//
// A volume is a row of block groups. The superblock (1024 bytes in) tells the
// sizes; a table of group descriptors tells where each group keeps its part of
// the inode table; inode numbers index that table. An inode holds what stat
// tells and, in 60 bytes called i_block, the way to its content:
//
//	superblock ─► group descriptor ─► inode ─┬─► extent tree  ─► data blocks
//	                                         ├─► indirect blocks (ext2, ext3)
//	                                         └─► the bytes themselves (inline)
//
// A directory is a file of variable-length entries; large ones keep a tree of
// name hashes (htree) inside the same file, disguised as empty entries, so that
// a reader may ignore it. Extended attributes live behind the inode's fixed
// part, in one block of their own, or in inodes of their own.
//
// A journal (package jbd2) holds blocks that were committed but not written to
// their place yet. When the superblock asks for recovery, the journal's blocks
// are laid over the volume and everything is read through that overlay: the
// reader sees what the kernel would see after its own replay.
//
// # What holds
//
//   - Everything read is checked before it is used: ranges, counts, depths,
//     and the checksums of metadata_csum and uninit_bg where the volume has
//     them. A contradiction is filesys.ErrCorrupt with the inode or block.
//   - Blocks that are not mapped, or mapped as unwritten, read as zeros.
//   - Memory is bounded: metadata passes through one cache of fixed size, and
//     no structure is held whole (directories are streamed, extent trees are
//     walked node by node). Work per call is bounded as well: tree depths are
//     limited, and a walk through a tree only ever moves forward.
//   - An FS is immutable once opened, but for that cache, and safe for
//     concurrent use.
//   - The answers are those of Linux's own read-only mount of the same volume,
//     st_blocks, holes and statfs included; see orphan.go for the one place
//     where the kernel would write (unlinked and half-truncated files).
//
// Where Linux asks for a key (encryption), names are reported as the kernel
// reports them without one, and contents are refused with ErrUnsupported.
// Names in directories that ignore case are matched exactly.
//
// The on-disk format is described in the kernel's documentation ("ext4 Data
// Structures and Algorithms"); offsets in this package are those of its tables.
//
// The package imports jbd2 and filesys, and nothing else of Cairn.
package ext4
