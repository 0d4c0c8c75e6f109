package xfs_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

// addFeatures sets incompatible features in every superblock of an image: later
// versions of mkfs.xfs have options for these.
func addFeatures(t testing.TB, image string, features uint32) {
	t.Helper()
	b, err := os.ReadFile(image)
	must(t, err)
	for ag := range int(be.Uint32(b[88:])) {
		super := b[ag*int(be.Uint32(b[84:]))*int(be.Uint32(b[4:])):]
		or32(216, features)(super)
		sealSuper(super)
	}
	must(t, os.WriteFile(image, b, 0o644))
}

// TestNames: with parent pointers, every inode knows all of its names.
func TestNames(t *testing.T) {
	const exchange, parent = 0x40, 0x80
	image := mkfs(t, 64, "-i nrext64=1")
	addFeatures(t, image, exchange|parent)
	dir, unmount := fstest.Mount(t, image, "xfs", false, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 4096, Rand: rand.NewChaCha8([32]byte{1}),
		Prealloc: true, XattrMax: 65536, SymlinkMax: 1023, DeviceMax: [2]uint32{511, 1<<18 - 1}}
	p.Fill()
	for i, name := range sameHash(200) {
		must(t, os.Link(filepath.Join(dir, "links/first"), filepath.Join(dir, "empty", name)))
		if i%3 == 0 {
			must(t, os.Rename(filepath.Join(dir, "empty", name), filepath.Join(dir, "small", name)))
		}
	}
	unmount()
	fs := openImage(t, image)
	dir, _ = fstest.Mount(t, image, "xfs", true, "")
	fstest.Compare(t, fs, dir, fstest.Ignore{})

	want := namesBelow(t, fs)
	if len(want) < 200 {
		t.Fatalf("%d inodes have names", len(want))
	}
	for ino, list := range want {
		got, err := fs.Names(ino)
		must(t, err)
		sortNames(got)
		sortNames(list)
		if !slices.Equal(got, list) {
			t.Errorf("inode %d has the names %v, want %v", ino, got, list)
		}
	}
	checkSearch(t, fs)
	if list, err := fs.Names(fs.Root()); err != nil || len(list) != 0 {
		t.Errorf("the root has the names %v, %v", list, err)
	}
}

// TestSearchNames: without parent pointers names are found in directories, and
// of neighbours without reading many.
func TestSearchNames(t *testing.T) {
	image := made(t, 128, "", func(dir string) {
		for i := range 3000 {
			d := fmt.Sprintf("%s/%d", dir, i/30)
			if i%30 == 0 {
				must(t, os.Mkdir(d, 0o755))
			}
			write(t, nil, d, fmt.Sprint(i))
		}
		must(t, os.Link(filepath.Join(dir, "1/31"), filepath.Join(dir, "77/link")))
	})
	b, err := os.ReadFile(image)
	must(t, err)
	checkSearch(t, openBytes(t, b))

	r := &countingReader{r: bytes.NewReader(b)}
	fs, err := xfs.Open(r, int64(len(b)), filesys.Options{})
	must(t, err)
	ino := walk(t, openBytes(t, b), "55/1660")
	r.n.Store(0)
	var got []filesys.Name
	must(t, fs.SearchNames([]uint64{ino}, func(_ uint64, n filesys.Name) bool { got = append(got, n); return false }))
	if len(got) != 1 || got[0].Name != "1660" || got[0].Parent != walk(t, fs, "55") {
		t.Errorf("names: %v", got)
	}
	if n := r.n.Load(); n > 200<<10 {
		t.Errorf("a search reads %d bytes", n)
	}
}

// checkSearch searches for all names of a volume at once.
func checkSearch(t *testing.T, fs *xfs.FS) {
	t.Helper()
	want, got := namesBelow(t, fs), map[uint64][]filesys.Name{}
	must(t, fs.SearchNames(slices.Collect(maps.Keys(want)), func(ino uint64, n filesys.Name) bool {
		got[ino] = append(got[ino], n)
		return true
	}))
	for ino, list := range want {
		sortNames(got[ino])
		sortNames(list)
		if !slices.Equal(got[ino], list) {
			t.Errorf("inode %d has the names %v, want %v", ino, got[ino], list)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d inodes have names, want %d", len(got), len(want))
	}
}

func sortNames(list []filesys.Name) {
	slices.SortFunc(list, func(a, b filesys.Name) int {
		return cmp.Or(cmp.Compare(a.Parent, b.Parent), cmp.Compare(a.Name, b.Name))
	})
}

// namesBelow walks a volume from its root.
func namesBelow(t testing.TB, fs *xfs.FS) map[uint64][]filesys.Name {
	t.Helper()
	found := map[uint64][]filesys.Name{}
	var visit func(dir uint64)
	visit = func(dir uint64) {
		var subs []uint64
		must(t, fs.ReadDir(dir, 0, func(e filesys.DirEntry) bool {
			found[e.Ino] = append(found[e.Ino], filesys.Name{Parent: dir, Name: e.Name})
			if e.Type == filesys.TypeDir {
				subs = append(subs, e.Ino)
			}
			return true
		}))
		for _, sub := range subs {
			visit(sub)
		}
	}
	visit(fs.Root())
	return found
}

// TestDiffer: every inode whose answers differ between two states is named, and
// few others are.
func TestDiffer(t *testing.T) {
	for _, args := range []string{"", "-b size=1024 -i sparse=1", "-i sparse=0 -m finobt=0,inobtcount=0"} {
		image := mkfs(t, 64, args)
		var states [][]byte
		var opened []*xfs.FS
		var told []map[uint64]string
		save := func() {
			b, err := os.ReadFile(image)
			must(t, err)
			fs := openBytes(t, b)
			states, opened, told = append(states, b), append(opened, fs), append(told, answers(t, fs))
		}
		step := func(fill func(dir string)) {
			dir, unmount := fstest.Mount(t, image, "xfs", false, "")
			fill(dir)
			unmount()
			save()
		}
		save()
		step(func(dir string) {
			for i := range 700 {
				must(t, os.MkdirAll(fmt.Sprintf("%s/%d", dir, i%7), 0o755))
				write(t, noise[:i*10], dir, fmt.Sprintf("%d/%d", i%7, i))
			}
			write(t, noise, dir, "large")
		})
		step(func(dir string) { // one file, one directory
			write(t, noise[:77], dir, "3/new")
		})
		step(func(dir string) { // whole chunks go
			must(t, os.RemoveAll(filepath.Join(dir, "5")))
			must(t, os.RemoveAll(filepath.Join(dir, "6")))
		})
		step(func(dir string) {
			for i := range 300 {
				must(t, os.Mkdir(fmt.Sprintf("%s/2/dir %d", dir, i), 0o755))
			}
			must(t, os.Chmod(filepath.Join(dir, "1"), 0o700))
		})
		step(func(dir string) { must(t, os.RemoveAll(filepath.Join(dir, "2"))) })
		step(func(dir string) {})
		for i := range states {
			for j := range i {
				changed := changedRanges(states[i], states[j])
				checkDiffer(t, fmt.Sprintf("%q, states %d and %d", args, i, j), opened[i], opened[j], changed, told[i], told[j])
				checkDiffer(t, fmt.Sprintf("%q, states %d and %d", args, j, i), opened[j], opened[i], changed, told[j], told[i])
			}
		}
		few := 0
		must(t, opened[2].ChangedInodes(opened[1], changedRanges(states[1], states[2]), func(uint64) bool { few++; return true }))
		if few > 4 {
			t.Errorf("%q: %d inodes named for one new file", args, few)
		}
	}
}

// changedRanges are the units of 4 KiB that differ.
func changedRanges(a, b []byte) (list []filesys.Range) {
	for off := 0; off < len(a); off += 4096 {
		if string(a[off:off+4096]) == string(b[off:off+4096]) {
			continue
		}
		if n := len(list); n > 0 && list[n-1].Off+list[n-1].Len == int64(off) {
			list[n-1].Len += 4096
		} else {
			list = append(list, filesys.Range{Off: int64(off), Len: 4096})
		}
	}
	return list
}

func checkDiffer(t *testing.T, what string, f, g *xfs.FS, changed []filesys.Range, x, y map[uint64]string) {
	t.Helper()
	named := map[uint64]bool{}
	must(t, f.ChangedInodes(g, changed, func(ino uint64) bool { named[ino] = true; return true }))
	for _, list := range []map[uint64]string{x, y} {
		for ino := range list {
			if x[ino] != y[ino] && !named[ino] {
				t.Errorf("%s: inode %d is left out: %.300q, %.300q", what, ino, x[ino], y[ino])
				return
			}
		}
	}
	// Calls end when they are told to.
	calls := 0
	must(t, f.ChangedInodes(g, changed, func(uint64) bool { calls++; return false }))
	if calls > 1 || calls == 0 && len(named) > 0 {
		t.Errorf("%s: %d calls", what, calls)
	}
}

// answers is all that is told, without content, of all inodes that have names.
func answers(t testing.TB, fs *xfs.FS) map[uint64]string {
	list := map[uint64]string{}
	var found []uint64
	for ino := range namesBelow(t, fs) {
		found = append(found, ino)
	}
	for _, ino := range append(found, fs.Root()) {
		a, err := fs.Attr(ino)
		if err != nil {
			continue
		}
		names, err := fs.Xattrs(ino)
		s := fmt.Sprint(a, names, err)
		if a.Mode&filesys.TypeMask == filesys.TypeDir {
			err := fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
				s += fmt.Sprint(e)
				return true
			})
			s += fmt.Sprint(err)
		}
		list[ino] = s
	}
	return list
}

// TestStored: what Stored tells is where content is.
func TestStored(t *testing.T) {
	image := made(t, 64, "-b size=1024", func(dir string) {
		p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{1})}
		p.Sizes()
		p.Sparse()
		p.Preallocated()
	})
	b, err := os.ReadFile(image)
	must(t, err)
	fs := openBytes(t, b)
	stored := int64(0)
	for ino := range namesBelow(t, fs) {
		f, err := fs.Open(ino)
		if err != nil {
			continue
		}
		for off := int64(0); off < f.Size(); {
			at, n, err := f.(filesys.Stored).Stored(off)
			data, _, extErr := f.Extent(off)
			if err != nil || extErr != nil || n < 1 || off+n > f.Size() || data != (at.Len > 0) || data && at.Len != n {
				t.Fatalf("inode %d at %d: %v, %d, %v, %v", ino, off, at, n, err, extErr)
			}
			if data {
				p := make([]byte, n)
				if _, err := f.ReadAt(p, off); err != nil || string(p) != string(b[at.Off:at.Off+n]) {
					t.Fatalf("inode %d at %d is not at %d, %v", ino, off, at.Off, err)
				}
				stored += n
			}
			off += n
		}
	}
	if stored < 1<<20 {
		t.Errorf("only %d bytes", stored)
	}
}
