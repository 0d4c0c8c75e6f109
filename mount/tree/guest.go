package tree

import (
	"context"
	"time"

	"cairn/mount/filesys"
)

// guest is a node in a volume: a thin adapter over filesys.FS that gives inode
// numbers which are unique in the tree. Two guests of the same inode are equal
// in all they answer.
type guest struct {
	vol  *Volume
	fs   filesys.FS
	ino  uint64 // the guest's own number
	mode uint32 // S_IFMT bits as far as the directory entry told
}

// root is the top directory of the opened volume.
func (v *Volume) root(fs filesys.FS) *guest {
	return &guest{v, fs, fs.Root(), filesys.TypeDir}
}

func (n *guest) number() uint64 { return n.vol.inodes.number(n.ino) }
func (n *guest) kind() uint32   { return n.mode }

func (n *guest) Attr(context.Context) (filesys.Attr, error) {
	n.vol.used()
	a, err := n.fs.Attr(n.ino)
	a.Ino = n.number()
	for _, t := range []*time.Time{&a.Atime, &a.Mtime, &a.Ctime} {
		if t.IsZero() { // not recorded: what every program shows for that
			*t = time.Unix(0, 0)
		}
	}
	return a, err
}

func (n *guest) Lookup(_ context.Context, name string) (Node, error) {
	n.vol.used()
	ino, err := n.fs.Lookup(n.ino, name)
	if err != nil {
		return nil, err
	}
	return &guest{n.vol, n.fs, ino, 0}, nil
}

func (n *guest) ReadDir(ctx context.Context, cookie uint64, fn func(Entry) bool) error {
	n.vol.used()
	more := true
	err := n.fs.ReadDir(n.ino, cookie, func(e filesys.DirEntry) bool {
		g := &guest{n.vol, n.fs, e.Ino, e.Type}
		more = fn(Entry{Name: e.Name, Ino: g.number(), Type: e.Type, Next: e.Next, Node: g})
		return more && ctx.Err() == nil
	})
	if err == nil && more {
		err = ctx.Err() // the directory was cut short
	}
	return err
}

func (n *guest) Readlink(context.Context) (string, error) { return n.fs.Readlink(n.ino) }

func (n *guest) Open(context.Context) (File, error) {
	n.vol.used()
	f, err := n.fs.Open(n.ino)
	if err != nil {
		return nil, err
	}
	return guestFile{f, n.vol}, nil
}

func (n *guest) Xattrs(context.Context) ([]string, error) { return n.fs.Xattrs(n.ino) }
func (n *guest) Xattr(_ context.Context, name string) ([]byte, error) {
	n.vol.used()
	return n.fs.Xattr(n.ino, name)
}
func (n *guest) Volume() *Volume      { return n.vol }
func (n *guest) Fresh() time.Duration { return 0 }

// guestFile is a guest's file; its extents come without I/O worth interrupting.
type guestFile struct {
	filesys.File
	vol *Volume
}

func (f guestFile) ReadAt(p []byte, off int64) (int, error) {
	f.vol.used()
	return f.File.ReadAt(p, off)
}

func (f guestFile) Extent(ctx context.Context, off int64) (bool, int64, error) {
	if err := ctx.Err(); err != nil {
		return false, 0, err
	}
	return f.File.Extent(off)
}
