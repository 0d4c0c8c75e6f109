// Package filesys defines what a guest file system looks like once one of
// Cairn's readers has opened it: the interface that mount/ext4 and its siblings
// implement and that the FUSE tree, `cairn ls` and `cairn cp` consume.
//
// A reader works on an io.ReaderAt that holds one volume (a partition, a
// logical volume or a whole disk) and never writes. Everything on that volume
// is untrusted: a hostile image may cost the caller an error, never a panic,
// an endless loop or unbounded memory.
//
// Rules that every implementation keeps:
//
//   - All methods are safe for concurrent use and hold no cursor. Reads are
//     stateless: the same arguments give the same answer.
//   - Names are the raw bytes of the guest's directory entry. They are checked
//     only for what would break a path: empty names, names with '/' or NUL, and
//     the entries "." and ".." are never reported by ReadDir.
//   - Bytes that the guest never wrote (holes, unwritten extents, the tail
//     behind the end of the data) read as zeros, whatever the disk holds there.
//   - An error is one of this package's sentinels, wrapped with what was being
//     read (inode, block, field). Anything malformed wraps ErrCorrupt.
//
// The package imports nothing of Cairn and knows nothing of FUSE: errno values
// are the mount's business.
package filesys

import (
	"errors"
	"io"
	"time"
)

// Sentinels that callers test for with errors.Is.
var (
	// ErrNotExist: no entry of that name, or no such inode in use.
	ErrNotExist = errors.New("no such file or directory")
	// ErrNotDir: a directory operation on something else.
	ErrNotDir = errors.New("not a directory")
	// ErrIsDir: Open on a directory.
	ErrIsDir = errors.New("is a directory")
	// ErrInvalid: an operation that the inode's type does not have, such as
	// Readlink on a regular file.
	ErrInvalid = errors.New("invalid operation for this file type")
	// ErrNoXattr: the inode has no extended attribute of that name.
	ErrNoXattr = errors.New("no such extended attribute")
	// ErrCorrupt: the volume contradicts its own format or a checksum failed.
	ErrCorrupt = errors.New("file system is corrupt")
	// ErrUnsupported: the volume is well-formed but uses a feature that the
	// reader does not know; the message names it.
	ErrUnsupported = errors.New("unsupported file system feature")
	// ErrWrongType: the volume does not hold this kind of file system at all.
	ErrWrongType = errors.New("not this kind of file system")
)

// File types as they stand in Attr.Mode and DirEntry.Type: the S_IFMT bits of
// POSIX, with Linux's values.
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeRegular = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000
)

// Info describes an opened volume.
type Info struct {
	Type      string    // "ext2", "ext3", "ext4", "xfs", "ntfs", …
	Label     string    // volume label, may be empty
	UUID      string    // in the form the guest's tools print, may be empty
	BlockSize int       // allocation unit in bytes
	Size      int64     // total size in bytes of the data area, as statfs shows it
	Free      int64     // free bytes, including those reserved for root
	Available int64     // free bytes for an ordinary user
	Files     uint64    // inodes in all, 0 when the format has no fixed number
	FilesFree uint64    // unused inodes
	NameMax   int       // longest name in bytes
	Written   time.Time // when the guest last wrote the superblock, zero if unknown
	// Warnings are sentences for a person about how this volume was opened:
	// a journal that was replayed, an error flag that the guest had set.
	Warnings []string
}

// Attr is what stat(2) tells about an inode.
type Attr struct {
	Ino    uint64
	Mode   uint32 // file type and permission bits, as in st_mode
	Nlink  uint32
	UID    uint32
	GID    uint32
	Rdev   uint64 // device number in Linux's 64-bit user-space encoding (unix.Mkdev)
	Size   int64  // bytes; for a symlink the length of its target
	Blocks int64  // space taken, in units of 512 bytes, as in st_blocks
	// Times are zero where the volume records none.
	Atime time.Time
	Mtime time.Time
	Ctime time.Time
	Btime time.Time // creation time; zero when the format does not record one
}

// DirEntry is one name in a directory.
type DirEntry struct {
	Name string
	Ino  uint64
	Type uint32 // S_IFMT bits, or 0 when only Attr can tell
	// Next resumes ReadDir behind this entry. Zero is the start of the
	// directory and never stands here.
	Next uint64
}

// File is the content of a regular file. Reads behind the end return io.EOF as
// io.ReaderAt demands.
type File interface {
	io.ReaderAt
	// Size is the file's length in bytes.
	Size() int64
	// Extent says whether the byte at off (0 ≤ off < Size) is data or part of
	// a hole, and for how many bytes from off that stays so (at least 1, never
	// beyond Size). Unwritten extents are holes. Adjacent extents of the same
	// kind may be reported separately; the work done per call is bounded.
	Extent(off int64) (data bool, length int64, err error)
}

// FS is an opened volume.
type FS interface {
	Info() Info
	// Root is the inode number of the root directory.
	Root() uint64
	Attr(ino uint64) (Attr, error)
	// Lookup finds name in directory dir. It costs a directory search, not a
	// scan, where the format has an index.
	Lookup(dir uint64, name string) (uint64, error)
	// ReadDir streams the entries of dir, starting behind the entry whose Next
	// is cookie (0: the first), until fn returns false or the directory ends.
	// Memory does not grow with the size of the directory.
	ReadDir(dir uint64, cookie uint64, fn func(DirEntry) bool) error
	// Parent is the inode that ".." of a directory names.
	Parent(dir uint64) (uint64, error)
	Readlink(ino uint64) (string, error)
	// Open gives the content of a regular file.
	Open(ino uint64) (File, error)
	// Xattrs lists the full names of an inode's extended attributes
	// ("user.note", "security.capability", "system.posix_acl_access").
	Xattrs(ino uint64) ([]string, error)
	// Xattr gives one value, in the form that getxattr(2) gives on Linux:
	// POSIX ACLs in the xattr representation, not the one on disk.
	Xattr(ino uint64, name string) ([]byte, error)
}
