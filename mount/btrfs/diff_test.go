package btrfs_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// states gives for every inode a digest of what ChangedInodes speaks of.
func states(t *testing.T, fs filesys.FS) map[uint64]string {
	t.Helper()
	all := map[uint64]string{}
	var visit func(ino uint64)
	visit = func(ino uint64) {
		if all[ino] != "" {
			return
		}
		h := sha256.New()
		a, err := fs.Attr(ino)
		must(t, err)
		fmt.Fprintln(h, a)
		names, err := fs.Xattrs(ino)
		must(t, err)
		for _, name := range names {
			v, err := fs.Xattr(ino, name)
			must(t, err)
			fmt.Fprintf(h, "%q %q\n", name, v)
		}
		var children []uint64
		switch a.Mode & filesys.TypeMask {
		case filesys.TypeSymlink:
			target, err := fs.Readlink(ino)
			must(t, err)
			fmt.Fprintln(h, target)
		case filesys.TypeRegular:
			f, err := fs.Open(ino)
			must(t, err)
			_, err = io.Copy(h, io.NewSectionReader(f, 0, f.Size()))
			must(t, err)
		case filesys.TypeDir:
			must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
				fmt.Fprintf(h, "%q %d\n", e.Name, e.Ino)
				children = append(children, e.Ino)
				return true
			}))
		}
		all[ino] = fmt.Sprintf("%x", h.Sum(nil))
		for _, c := range children {
			visit(c)
		}
	}
	visit(fs.Root())
	return all
}

// TestChangedInodes: no inode is left out, and not everything is read.
func TestChangedInodes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	v := mkfs(t, 1, 160, "-n 4096")
	root, unmount := v.mount(t, false, "commit=3000")
	path := func(name string) string { return filepath.Join(root, name) }
	subvolume(t, "create", path("sub"))
	subvolume(t, "create", path("kept"))
	writeFile(t, path("kept/file"), text(100))
	for i := range 3000 {
		writeFile(t, path(fmt.Sprintf("many/%d/%d", i/100, i)), []byte("unchanged"))
	}
	g := &guest{t: t, root: root, r: rand.New(rand.NewPCG(seed, 0)), dirs: []string{".", "sub", "d0"}, files: []string{"f"}}
	must(t, os.MkdirAll(path("d0"), 0o755))
	for range 300 {
		g.step()
	}
	commit(t, root)
	earlier := v.copy(t)
	old, rec := recorded(t, earlier)
	oldStates := states(t, old)
	all := rec.Bytes()
	compare := func(what string, most int) {
		now := v.copy(t)
		fs, _ := recorded(t, now)
		newStates := states(t, fs)
		fresh, rec := recorded(t, now)
		before, rec2 := recorded(t, earlier)
		opened := rec.Bytes() + rec2.Bytes()
		changed := map[uint64]bool{}
		must(t, fresh.ChangedInodes(before, nil, func(ino uint64) bool { changed[ino] = true; return true }))
		read := rec.Bytes() + rec2.Bytes() - opened
		for ino, digest := range newStates {
			if oldStates[ino] != digest && !changed[ino] {
				t.Errorf("%s: inode %#x has changed, and is not named", what, ino)
			}
		}
		for ino := range oldStates {
			if newStates[ino] == "" && !changed[ino] {
				t.Errorf("%s: inode %#x is gone, and is not named", what, ino)
			}
		}
		if len(changed) > most || read > all/2 {
			t.Errorf("%s: %d inodes are named, %d bytes are read of %d", what, len(changed), read, all)
		}
		// It stops when told.
		n := 0
		must(t, fresh.ChangedInodes(before, nil, func(uint64) bool { n++; return false }))
		if n > 1 {
			t.Errorf("%s: it went on", what)
		}
	}
	compare("nothing", 0)
	writeFile(t, path("many/7/750"), []byte("changed"))
	g.fsync("many/7/750")
	compare("in the log", 500)
	for range 150 {
		g.step()
	}
	subvolume(t, "snapshot", path("kept"), path("snapshot"))
	commit(t, root)
	compare("committed", 2000)
	unmount()
	other := mkfs(t, 1, 130, "").open(t)
	if err := old.ChangedInodes(other, nil, func(uint64) bool { return true }); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("another file system: %v", err)
	}
}

// recorded opens the file system so that it is known what is read.
func recorded(t *testing.T, v *volume) (*btrfs.FS, *fstest.Recorder) {
	t.Helper()
	d := v.devices(t)[0]
	rec := fstest.NewRecorder(d)
	fs, err := btrfs.Open([]btrfs.Device{disk{rec, d.Size()}}, filesys.Options{})
	must(t, err)
	return fs, rec
}
