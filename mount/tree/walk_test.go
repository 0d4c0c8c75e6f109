package tree

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
)

// Trees that no sane volume has end, too.
func TestWalkHostile(t *testing.T) {
	fs := mounttest.NewFS()
	d := fs.Dir("/d")
	d.Entries = append(d.Entries, filesys.DirEntry{Name: "up", Ino: 2, Type: filesys.TypeDir, Next: 1}, filesys.DirEntry{Name: "self", Ino: d.Ino, Type: filesys.TypeDir, Next: 2})
	for i := range 30 { // 2^30 paths
		p := "/e" + strings.Repeat("/x", i)
		e := fs.Dir(p)
		e.Entries = append(e.Entries, filesys.DirEntry{Name: "y", Ino: e.Ino + 1, Type: filesys.TypeDir, Next: 1})
	}
	fs.Get("/e" + strings.Repeat("/x", 29)).Entries = nil
	fs.File("/bad", "").Err = filesys.ErrCorrupt
	tr := NewPoint(testPoint(), Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return fs, nil }})
	visits, bad := 0, 0
	err := Walk(ctx, "/", find(t, tr, "volumes/vda1").Node, func(_ string, _ Node, _ filesys.Attr, err error) error {
		visits++
		if errors.Is(err, filesys.ErrCorrupt) {
			bad++
		}
		return nil
	})
	if err != nil || visits > 100 || bad < 30 {
		t.Errorf("%d visits, %d bad, %v", visits, bad, err)
	}
	chain := mounttest.NewFS()
	last := chain.Inodes[2]
	for i := range uint64(2 * MaxDepth) {
		n := &mounttest.Inode{Attr: filesys.Attr{Ino: 100 + i, Mode: filesys.TypeDir | 0o755}}
		chain.Inodes[n.Ino] = n
		last.Entries = []filesys.DirEntry{{Name: "d", Ino: n.Ino, Type: filesys.TypeDir, Next: 1}}
		last = n
	}
	tr = NewPoint(testPoint(), Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return chain, nil }})
	deepest := 0
	var last2 error
	if err := Walk(ctx, "/", find(t, tr, "volumes/vda1").Node, func(p string, _ Node, _ filesys.Attr, err error) error {
		deepest, last2 = strings.Count(p, "d"), err
		return nil
	}); err != nil || deepest != MaxDepth || !errors.Is(last2, filesys.ErrCorrupt) {
		t.Errorf("depth %d, %v, %v", deepest, last2, err)
	}
}

// A directory of many entries is walked whole, across batches.
func TestWalkLargeDirectory(t *testing.T) {
	fs := mounttest.NewFS()
	for i := range 3*batch + 1 {
		fs.File(fmt.Sprintf("/f%05d", i), "")
	}
	tr := NewPoint(testPoint(), Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return fs, nil }})
	seen := map[string]bool{}
	if err := Walk(ctx, "", find(t, tr, "volumes/vda1").Node, func(p string, _ Node, _ filesys.Attr, err error) error {
		seen[p] = true
		return err
	}); err != nil || len(seen) != 3*batch+2 {
		t.Errorf("%d entries, %v", len(seen), err)
	}
	stop := errors.New("stop")
	n := 0
	if err := Walk(ctx, "", find(t, tr, "volumes/vda1").Node, func(string, Node, filesys.Attr, error) error {
		if n++; n == 10 {
			return stop
		}
		return nil
	}); err != stop || n != 10 {
		t.Errorf("stopped after %d with %v", n, err)
	}
}
