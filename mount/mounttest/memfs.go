// Package mounttest helps the tests of the mount: a guest file system in memory
// whose every answer a test can set, also to what no sane volume would say, a
// disk in memory, and Diff, which compares two directories as the kernel shows
// them in everything that a restored file can differ in.
//
// Diff needs nothing of Cairn, so end-to-end tests of the programs use it too.
// Only tests import this package.
package mounttest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cairn/mount/filesys"
)

// FS is a file system in memory. A test builds it with the methods below, or
// puts into Inodes what it likes, and then only reads it.
type FS struct {
	Inodes  map[uint64]*Inode
	FSInfo  filesys.Info
	lastIno uint64
	// Reads counts ReadAt calls on files.
	Reads atomic.Int64
}

// Inode is everything about an inode. Err, if set, is the answer to whatever
// is asked about it.
type Inode struct {
	filesys.Attr
	Data    []byte // content; shorter than Size reads as zeros behind it
	Extents []Span // where the content is data; nil: all of it
	Entries []filesys.DirEntry
	Target  string
	Xattrs  map[string][]byte
	Parent  uint64
	Err     error
	ReadErr error // of ReadAt alone
	// Reader, if set, is the content instead of Data.
	Reader io.ReaderAt
}

// Span is a range of data, from Start to before End.
type Span struct{ Start, End int64 }

// Epoch is the time of everything in a new FS.
var Epoch = time.Date(2024, 2, 29, 12, 34, 56, 123456789, time.UTC)

// NewFS makes a file system with an empty root directory, inode 2.
func NewFS() *FS {
	fs := &FS{Inodes: make(map[uint64]*Inode), lastIno: 10}
	fs.FSInfo = filesys.Info{Type: "memory", Label: "test", BlockSize: 4096, Size: 1 << 30, Free: 1 << 29, Available: 1 << 28, Files: 1000, FilesFree: 900, NameMax: 255}
	fs.Inodes[2] = &Inode{Attr: attr(2, filesys.TypeDir|0o755), Parent: 2}
	return fs
}

func attr(ino uint64, mode uint32) filesys.Attr {
	a := filesys.Attr{Ino: ino, Mode: mode, Nlink: 1, Atime: Epoch, Mtime: Epoch, Ctime: Epoch, Btime: Epoch}
	if mode&filesys.TypeMask == filesys.TypeDir {
		a.Nlink, a.Size, a.Blocks = 2, 4096, 8
	}
	return a
}

// Add puts a new inode of the given mode at path, whose directory must exist,
// and returns it to be filled in.
func (fs *FS) Add(p string, mode uint32) *Inode {
	fs.lastIno++
	n := &Inode{Attr: attr(fs.lastIno, mode)}
	fs.Inodes[fs.lastIno] = n
	fs.link(p, n)
	if mode&filesys.TypeMask == filesys.TypeDir {
		dir := fs.Get(path.Dir(p))
		dir.Nlink++
		n.Parent = dir.Ino
	}
	return n
}

func (fs *FS) link(p string, n *Inode) {
	dir := fs.Get(path.Dir(p))
	// Cookies are far apart and start high, as hashes do.
	next := uint64(1000 + 7*len(dir.Entries))
	dir.Entries = append(dir.Entries, filesys.DirEntry{Name: path.Base(p), Ino: n.Ino, Type: n.Mode & filesys.TypeMask, Next: next})
}

// Dir, File, Symlink and Link add what their names say.
func (fs *FS) Dir(p string) *Inode { return fs.Add(p, filesys.TypeDir|0o755) }

// File adds a regular file.
func (fs *FS) File(p string, data string) *Inode {
	n := fs.Add(p, filesys.TypeRegular|0o644)
	n.Data, n.Size = []byte(data), int64(len(data))
	n.Blocks = (n.Size + 511) / 512
	return n
}

// Symlink adds a symlink.
func (fs *FS) Symlink(p, target string) *Inode {
	n := fs.Add(p, filesys.TypeSymlink|0o777)
	n.Target, n.Size = target, int64(len(target))
	return n
}

// Link adds another name for n.
func (fs *FS) Link(p string, n *Inode) {
	fs.link(p, n)
	n.Nlink++
}

// Get finds an inode by path.
func (fs *FS) Get(p string) *Inode {
	n := fs.Inodes[2]
	for _, e := range strings.Split(strings.Trim(path.Clean(p), "/"), "/") {
		if e == "" || e == "." {
			continue
		}
		i := slices.IndexFunc(n.Entries, func(d filesys.DirEntry) bool { return d.Name == e })
		if i < 0 {
			panic(fmt.Sprintf("no %q in %q", e, p))
		}
		n = fs.Inodes[n.Entries[i].Ino]
	}
	return n
}

var _ filesys.FS = (*FS)(nil)

func (fs *FS) inode(ino uint64) (*Inode, error) {
	n := fs.Inodes[ino]
	if n == nil {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	return n, n.Err
}

func (fs *FS) dir(ino uint64) (*Inode, error) {
	n, err := fs.inode(ino)
	if err == nil && n.Mode&filesys.TypeMask != filesys.TypeDir {
		err = filesys.ErrNotDir
	}
	return n, err
}

// Info, Root and the rest implement filesys.FS.
func (fs *FS) Info() filesys.Info { return fs.FSInfo }
func (fs *FS) Root() uint64       { return 2 }

func (fs *FS) Attr(ino uint64) (filesys.Attr, error) {
	n, err := fs.inode(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	return n.Attr, nil
}

func (fs *FS) Lookup(dir uint64, name string) (uint64, error) {
	n, err := fs.dir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range n.Entries {
		if e.Name == name {
			return e.Ino, nil
		}
	}
	return 0, fmt.Errorf("%q: %w", name, filesys.ErrNotExist)
}

func (fs *FS) ReadDir(dir uint64, cookie uint64, fn func(filesys.DirEntry) bool) error {
	n, err := fs.dir(dir)
	if err != nil {
		return err
	}
	start := 0
	if cookie != 0 {
		start = slices.IndexFunc(n.Entries, func(e filesys.DirEntry) bool { return e.Next == cookie }) + 1
	}
	for _, e := range n.Entries[start:] {
		if !fn(e) {
			return nil
		}
	}
	return n.ReadErr
}

func (fs *FS) Parent(dir uint64) (uint64, error) {
	n, err := fs.dir(dir)
	if err != nil {
		return 0, err
	}
	return n.Parent, nil
}

func (fs *FS) Readlink(ino uint64) (string, error) {
	n, err := fs.inode(ino)
	if err == nil && n.Mode&filesys.TypeMask != filesys.TypeSymlink {
		err = filesys.ErrInvalid
	}
	if err != nil {
		return "", err
	}
	return n.Target, nil
}

func (fs *FS) Open(ino uint64) (filesys.File, error) {
	n, err := fs.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case n.Mode&filesys.TypeMask == filesys.TypeDir:
		return nil, filesys.ErrIsDir
	case n.Mode&filesys.TypeMask != filesys.TypeRegular:
		return nil, filesys.ErrInvalid
	}
	return &file{fs, n}, nil
}

func (fs *FS) Xattrs(ino uint64) ([]string, error) {
	n, err := fs.inode(ino)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range n.Xattrs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (fs *FS) Xattr(ino uint64, name string) ([]byte, error) {
	n, err := fs.inode(ino)
	if err != nil {
		return nil, err
	}
	v, ok := n.Xattrs[name]
	if !ok {
		return nil, filesys.ErrNoXattr
	}
	return v, nil
}

type file struct {
	fs *FS
	n  *Inode
}

func (f *file) Size() int64 { return f.n.Size }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.Reads.Add(1)
	if f.n.ReadErr != nil {
		return 0, f.n.ReadErr
	}
	if f.n.Reader != nil {
		return f.n.Reader.ReadAt(p, off)
	}
	return readPadded(f.n.Data, f.n.Size, p, off)
}

// readPadded reads from data, with zeros behind it up to size.
func readPadded(data []byte, size int64, p []byte, off int64) (int, error) {
	if off >= size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > size-off {
		p, err = p[:size-off], io.EOF
	}
	n := 0
	if off < int64(len(data)) {
		n = copy(p, data[off:])
	}
	clear(p[n:])
	return len(p), err
}

func (f *file) Extent(off int64) (bool, int64, error) {
	if f.n.ReadErr != nil {
		return false, 0, f.n.ReadErr
	}
	return extent(f.n.Extents, f.n.Size, off)
}

func extent(data []Span, size, off int64) (bool, int64, error) {
	if off < 0 || off >= size {
		return false, 0, io.EOF
	}
	if data == nil {
		return true, size - off, nil
	}
	for _, s := range data {
		if off < s.Start {
			return false, min(s.Start, size) - off, nil
		}
		if off < s.End {
			return true, min(s.End, size) - off, nil
		}
	}
	return false, size - off, nil
}

// Disk is a disk in memory, as tree.Image wants it.
type Disk struct {
	Bytes   []byte
	Length  int64  // 0: len(Bytes)
	Data    []Span // nil: all of it
	ReadErr func(off int64, n int) error
}

// Size is the disk's length.
func (d *Disk) Size() int64 {
	if d.Length > 0 {
		return d.Length
	}
	return int64(len(d.Bytes))
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if d.ReadErr != nil {
		if err := d.ReadErr(off, len(p)); err != nil {
			return 0, err
		}
	}
	return readPadded(d.Bytes, d.Size(), p, off)
}

// Extent is as in tree.File.
func (d *Disk) Extent(_ context.Context, off int64) (bool, int64, error) {
	return extent(d.Data, d.Size(), off)
}

// Pattern is n bytes that differ from place to place.
func Pattern(n int) string {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i++ {
		b = binary.BigEndian.AppendUint64(b, uint64(i)*0x9e3779b97f4a7c15|1)
	}
	return string(b[:n])
}
