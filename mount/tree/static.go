package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"cairn/mount/filesys"
)

// base is what the nodes that Cairn adds have in common: they belong to whoever
// runs Cairn, have the point's time, and no attributes beyond that.
type base struct {
	tree *Tree
	ino  uint64
	mode uint32
	time time.Time
}

func (t *Tree) newBase(mode uint32, at time.Time) base {
	return base{tree: t, ino: t.newIno(), mode: mode, time: at}
}

func (b *base) attr(size int64) filesys.Attr {
	return filesys.Attr{
		Ino: b.ino, Mode: b.mode, Nlink: 1, UID: b.tree.uid, GID: b.tree.gid,
		Size: size, Blocks: (size + 511) / 512,
		Atime: b.time, Mtime: b.time, Ctime: b.time, Btime: b.time,
	}
}

func (b *base) Attr(context.Context) (filesys.Attr, error) { return b.attr(0), nil }
func (b *base) Lookup(context.Context, string) (Node, error) {
	return nil, filesys.ErrNotDir
}
func (b *base) ReadDir(context.Context, uint64, func(Entry) bool) error { return filesys.ErrNotDir }
func (b *base) Readlink(context.Context) (string, error)                { return "", filesys.ErrInvalid }
func (b *base) Open(context.Context) (File, error) {
	if b.mode&filesys.TypeMask == filesys.TypeDir {
		return nil, filesys.ErrIsDir
	}
	return nil, filesys.ErrInvalid
}
func (b *base) Xattrs(context.Context) ([]string, error) { return nil, nil }
func (b *base) Xattr(context.Context, string) ([]byte, error) {
	return nil, filesys.ErrNoXattr
}
func (b *base) Volume() *Volume      { return nil }
func (b *base) Fresh() time.Duration { return 0 }
func (b *base) number() uint64       { return b.ino }
func (b *base) kind() uint32         { return b.mode & filesys.TypeMask }

const (
	dirMode  = filesys.TypeDir | 0o555
	fileMode = filesys.TypeRegular | 0o444
	linkMode = filesys.TypeSymlink | 0o777
)

// added is a node that Cairn adds; its number and type are known without I/O.
type added interface {
	Node
	number() uint64
	kind() uint32
}

// child is a named node of a directory.
type child struct {
	name string
	node added
}

// dir is a directory whose children are known from the start.
type dir struct {
	base
	children []child
}

func (d *dir) Attr(context.Context) (filesys.Attr, error) {
	a := d.attr(0)
	a.Nlink = 2
	for _, c := range d.children {
		if c.node.kind() == filesys.TypeDir {
			a.Nlink++
		}
	}
	return a, nil
}

func (d *dir) Lookup(_ context.Context, name string) (Node, error) {
	return lookup(d.children, name)
}

func (d *dir) ReadDir(_ context.Context, cookie uint64, fn func(Entry) bool) error {
	readDir(d.children, cookie, fn)
	return nil
}

func lookup(children []child, name string) (Node, error) {
	for _, c := range children {
		if c.name == name {
			return c.node, nil
		}
	}
	return nil, notExist(name)
}

func readDir(children []child, cookie uint64, fn func(Entry) bool) {
	for i := cookie; i < uint64(len(children)); i++ {
		c := children[i]
		if !fn(Entry{Name: c.name, Ino: c.node.number(), Type: c.node.kind(), Next: i + 1, Node: c.node}) {
			return
		}
	}
}

// errUnsettled comes with a text that may be another one at the next look.
var errUnsettled = errors.New("not settled yet")

// text is a small file that Cairn writes; render runs when somebody looks, until
// it does not answer errUnsettled.
type text struct {
	base
	content lazy[[]byte]
	render  func(context.Context) ([]byte, error)
}

func (f *text) bytes(ctx context.Context) ([]byte, error) {
	b, err := f.content.get(func() ([]byte, error) { return f.render(ctx) })
	if errors.Is(err, errUnsettled) {
		err = nil
	}
	return b, err
}

func (f *text) Attr(ctx context.Context) (filesys.Attr, error) {
	b, err := f.bytes(ctx)
	if err != nil {
		return filesys.Attr{}, err
	}
	return f.attr(int64(len(b))), nil
}

func (f *text) Open(ctx context.Context) (File, error) {
	b, err := f.bytes(ctx)
	if err != nil {
		return nil, err
	}
	return byteFile{bytes.NewReader(b)}, nil
}

// Fresh: until the text is settled its size may change.
func (f *text) Fresh() time.Duration {
	if f.content.done.Load() {
		return 0
	}
	return retryAfter
}

// byteFile is a File in memory, all of it data.
type byteFile struct{ *bytes.Reader }

func (f byteFile) Extent(_ context.Context, off int64) (bool, int64, error) {
	if off < 0 || off >= f.Size() {
		return false, 0, io.EOF
	}
	return true, f.Size() - off, nil
}

// link is a symlink that Cairn adds; its target and time are computed at every
// look.
type link struct {
	base
	target func(context.Context) (string, time.Time, error)
	fresh  time.Duration
}

func (l *link) Attr(ctx context.Context) (filesys.Attr, error) {
	s, at, err := l.target(ctx)
	a := l.attr(int64(len(s)))
	a.Atime, a.Mtime, a.Ctime, a.Btime = at, at, at, at
	return a, err
}

func (l *link) Readlink(ctx context.Context) (string, error) {
	s, _, err := l.target(ctx)
	return s, err
}

func (l *link) Fresh() time.Duration { return l.fresh }

// raw is a whole disk as a file.
type raw struct {
	base
	disk Disk
}

// Attr: the blocks tell programs such as cp whether to look for holes. When the
// point does not know how much of the disk is data, the file claims to be just
// sparse enough that they look.
func (f *raw) Attr(context.Context) (filesys.Attr, error) {
	size := f.disk.size()
	a := f.attr(size)
	if f.disk.Allocated > 0 {
		a.Blocks = min(a.Blocks, (f.disk.Allocated+511)/512)
	} else {
		a.Blocks = max(0, size/512-1)
	}
	return a, nil
}

func (f *raw) Open(context.Context) (File, error) {
	if f.disk.Image == nil {
		return nil, fmt.Errorf("disk %s has no image: %w", f.disk.Name, filesys.ErrNotExist)
	}
	return f.disk.Image, nil
}
