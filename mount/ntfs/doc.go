// Package ntfs reads NTFS volumes of versions 1.2 to 3.1: it implements
// filesys.FS over an io.ReaderAt and never writes.
//
//	fsys, err := ntfs.Open(volume, size, filesys.Options{})
//	ino, err := fsys.Lookup(fsys.Root(), "Users")
//
// # How a volume is laid out
//
// Everything is a file, and a file is a row of attributes. The boot sector tells
// the sizes and where the first one is: $MFT, a table of records of 1 to 4 KiB.
// The number of a record is the inode number. Records 0 to 15 are the file
// system's own: the MFT, a copy of its beginning ($MFTMirr), the log, the root
// directory (5), the bitmap of clusters (6), and so on.
//
//	boot sector ─► $MFT ─► record ─┬─ standard information: times, attributes
//	                               ├─ file names, each with its directory
//	                               ├─ data, of any number of names
//	                               ├─ index root ─► index blocks (a directory)
//	                               └─ attribute list ─► more records
//
// An attribute's value stands in the record (resident) or in runs of clusters,
// whose places the record keeps in a compact form (mapping pairs). A file that
// has more attributes or runs than a record has room for keeps a list of them,
// which says what stands in which other record; the pieces of one attribute
// follow each other by the clusters that they map.
//
// A directory is a B+ tree of copies of the file names, sorted without regard to
// case by the volume's own table ($UpCase). Blocks of the tree that are free
// keep their old entries; only the bitmap beside it tells.
//
// Records and index blocks end every 512 bytes in a number that each write
// changes, so that a write that was cut short shows. That is all: NTFS has no
// checksums, of metadata or of data, and a flipped bit shows only where it
// contradicts something.
//
// # What holds
//
//   - Everything read is checked before it is used: lengths, ranges of clusters,
//     the use counts in references between records, the numbers that records and
//     index blocks have of their own. A contradiction is filesys.ErrCorrupt with
//     the inode.
//   - Holes and what lies behind the initialized size read as zeros.
//   - Memory is bounded: records, runs and index blocks pass through one cache
//     of fixed size, directories are streamed, and a file in a million pieces
//     keeps only its attribute list (at most 256 KiB). The runs of the MFT are
//     the exception, within a bound. Work per call is bounded as well.
//   - An FS is immutable once opened, but for that cache, and safe for
//     concurrent use.
//
// # What is shown, and how
//
// The model is ntfs-3g without options: names have a case, in all namespaces but
// DOS's, which is found but not listed; the file system's own files but the MFT are
// found but not listed; everything belongs to root with mode 0777, unless the Windows
// Subsystem for Linux has noted owner and mode; named streams are extended
// attributes ("user.NAME"), and the attributes "system.ntfs_…" tell what only
// Windows knows. Different from it are: links of Windows become relative, so
// that they can be followed wherever the volume is mounted (see FS.Readlink),
// links count names without DOS's, system compression (XPRESS and LZX) is read,
// placeholders whose content is there are files, and a directory entry whose
// file is gone has an inode number that gives nothing but ErrCorrupt.
//
// Refused by name are the contents of encrypted files (EFS), of files in the
// cloud, of deduplicated ones, and of other reparse points.
//
// The log ($LogFile) is not replayed. Info.Warnings says when the volume was not
// unmounted, is marked as dirty, or belongs to a hibernated Windows: the tree is
// then what stands on the disk, in which single changes may be half done. What is
// torn or contradicts itself is an error where it is met.
//
// # Sources
//
// Microsoft documents what passes through its programming interfaces: [MS-FSCC]
// (reparse points, extended attributes), [MS-XCA] (LZNT1, Xpress), [MS-DTYP]
// (security descriptors). The layout on disk is described by the Linux-NTFS
// project ("NTFS Documentation", Russon and Fledel) and by Carrier's "File System
// Forensic Analysis", chapters 11 to 13; offsets in this package are those of
// their tables.
//
// The package imports filesys, and nothing else of Cairn.
package ntfs
