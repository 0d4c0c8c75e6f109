package mount

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// dirBatch is how many entries are taken from the tree at a time: memory does
// not grow with the directory.
const dirBatch = 256

// dirHandle is an open directory. go-fuse calls its methods one at a time.
//
// Directory offsets: 0 is the start, 1 is behind ".", 2 is behind "..", and
// what follows is the tree's own cookie plus 2.
type dirHandle struct {
	n       *node
	pos     uint64 // of what Readdirent gives next
	entries []tree.Entry
	err     error // behind entries
	eof     bool
	last    tree.Entry
}

var (
	_ fs.FileReaddirenter = (*dirHandle)(nil)
	_ fs.FileSeekdirer    = (*dirHandle)(nil)
	_ fs.FileLookuper     = (*dirHandle)(nil)
)

func (n *node) OpendirHandle(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if !n.IsDir() {
		return nil, 0, syscall.ENOTDIR
	}
	var flags uint32
	if n.n.Fresh() == 0 {
		flags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return &dirHandle{n: n}, flags, 0
}

func (d *dirHandle) Readdirent(context.Context) (*fuse.DirEntry, syscall.Errno) {
	d.last = tree.Entry{}
	if d.pos < 2 {
		e := &fuse.DirEntry{Name: ".", Mode: syscall.S_IFDIR, Ino: d.n.StableAttr().Ino, Off: 1}
		if d.pos == 1 {
			e.Name, e.Off = "..", 2
			if _, parent := d.n.Parent(); parent != nil {
				e.Ino = parent.StableAttr().Ino
			}
		}
		d.pos++
		return e, 0
	}
	if len(d.entries) == 0 && d.err == nil && !d.eof {
		d.fetch()
	}
	if len(d.entries) == 0 {
		err := d.err
		d.err = nil // the next try asks again
		return nil, d.n.errno(err, "list")
	}
	e := d.entries[0]
	d.entries = d.entries[1:]
	d.last, d.pos = e, e.Next+2
	return &fuse.DirEntry{Name: e.Name, Mode: e.Type & filesys.TypeMask, Ino: e.Ino, Off: d.pos}, 0
}

func (d *dirHandle) fetch() {
	d.entries = make([]tree.Entry, 0, 16)
	d.err = d.n.n.ReadDir(whole, d.pos-2, func(e tree.Entry) bool {
		d.entries = append(d.entries, e)
		return len(d.entries) < dirBatch
	})
	d.eof = d.err == nil && len(d.entries) < dirBatch
}

func (d *dirHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	*d = dirHandle{n: d.n, pos: off}
	return 0
}

// Lookup is asked for the entry that Readdirent gave last, which spares a
// search by name; after a seek it can be another one.
func (d *dirHandle) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if d.last.Node == nil || d.last.Name != name {
		return d.n.Lookup(ctx, name, out)
	}
	return d.n.adopt(ctx, d.last.Node, out)
}
