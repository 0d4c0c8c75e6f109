package xfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

// edited opens a seed after an edit to the inode at path, until the test ends.
func edited(t *testing.T, s *seed, path string, edit func(inode []byte)) *xfs.FS {
	t.Helper()
	off := inodeOffset(s.image, walk(t, openBytes(t, s.image), path))
	edit(s.image[off : off+int(be.Uint16(s.image[104:]))])
	s.seal(s.image, off)
	t.Cleanup(func() { s.restore(s.image, off) })
	return openBytes(t, s.image)
}

// TestQuirks: inodes that are well-formed by their checksum and by nothing else.
func TestQuirks(t *testing.T) {
	ofAttr := func(fs *xfs.FS, ino uint64) error { return second(fs.Attr(ino)) }
	ofRead := func(fs *xfs.FS, ino uint64) error {
		f, err := fs.Open(ino)
		if err != nil {
			return err
		}
		return second(f.ReadAt(make([]byte, f.Size()), 0))
	}
	ofDir := func(fs *xfs.FS, ino uint64) error {
		return fs.ReadDir(ino, 0, func(filesys.DirEntry) bool { return true })
	}
	s := loadSeed(t, "v5-1k")
	for _, c := range []struct {
		name, path string
		edit       func(b []byte)
		ask        func(fs *xfs.FS, ino uint64) error
		err        error
		match      string
	}{
		{"real-time", "files/small", put16(90, 1), ofRead, filesys.ErrUnsupported, "real-time device"},
		{"attributes of a real-time file", "files/small", put16(90, 1), ofAttr, nil, ""},
		{"unlinked", "files/small", put32(16, 0), ofAttr, filesys.ErrNotExist, ""},
		{"free", "files/small", put16(2, 0), ofAttr, filesys.ErrNotExist, ""},
		{"no type", "files/small", put16(2, 0o644), ofAttr, filesys.ErrCorrupt, "mode"},
		{"negative size", "files/small", put64(56, 1<<63), ofAttr, filesys.ErrCorrupt, "size"},
		{"too many blocks", "files/small", put64(64, 1<<40), ofAttr, filesys.ErrCorrupt, "blocks"},
		{"more blocks than there are, some many times", "files/small", func(b []byte) { put64(120, 0x02)(b); put64(64, 1<<40)(b) }, ofAttr, nil, ""},
		{"blocks beyond 64 bits", "files/small", func(b []byte) { put64(120, 0x02)(b); put64(64, 1<<60)(b) }, ofAttr, filesys.ErrCorrupt, "blocks"},
		{"extents out of order", "files/preallocated", func(b []byte) {
			for i := range 16 {
				b[192+i], b[208+i] = b[208+i], b[192+i]
			}
		}, ofRead, filesys.ErrCorrupt, "extent"},
		{"version 2", "files/small", put8(4, 2), ofAttr, filesys.ErrCorrupt, "version 2"},
		{"another inode's number", "files/small", put64(152, 7), ofAttr, filesys.ErrCorrupt, "inode 7"},
		{"another volume's", "files/small", put64(160, 7), ofAttr, filesys.ErrCorrupt, "belongs to the volume"},
		{"local content", "files/small", put8(5, 1), ofAttr, filesys.ErrCorrupt, "form 1"},
		{"content of no form", "files/small", put8(5, 7), ofAttr, filesys.ErrCorrupt, "form 7"},
		{"extent counter overflows", "files/small", put32(76, 1<<32-1), ofAttr, filesys.ErrCorrupt, "extents"},
		{"extent of no length", "files/small", put64(184, be.Uint64([]byte{0, 0, 0, 0, 2, 0, 0, 0})), ofRead, filesys.ErrCorrupt, "extent of 0 blocks"},
		{"extent outside", "files/small", put64(176, 0xFF), ofRead, filesys.ErrCorrupt, "extent"},
		{"64-bit counters", "files/small", put64(120, 0x10), ofAttr, filesys.ErrCorrupt, "64-bit extent counters"},
		{"attributes behind the end", "files/small", put8(82, 200), ofAttr, filesys.ErrCorrupt, "attributes"},
		{"btree of no levels", "files/fragments", put16(176, 0), ofAttr, filesys.ErrCorrupt, "level 0"},
		{"btree of 9 levels", "files/fragments", put16(176, 9), ofRead, filesys.ErrCorrupt, "level"},
		{"btree of too many entries", "files/fragments", put16(178, 500), ofAttr, filesys.ErrCorrupt, "500 entries"},
		{"directory in a file's form", "short", put8(5, 2), ofDir, filesys.ErrCorrupt, "directory"},
		{"directory of no bytes", "short", put64(56, 0), ofDir, filesys.ErrCorrupt, "0 bytes"},
		{"directory of too many bytes", "short", put64(56, 1000), ofAttr, filesys.ErrCorrupt, "where"},
		{"directory with more entries", "short", put8(176, 9), ofDir, filesys.ErrCorrupt, "ends within"},
		{"directory with fewer entries", "short", put8(176, 1), ofDir, filesys.ErrCorrupt, "behind its entries"},
		{"directory with wide entries", "short", put8(177, 1), ofDir, filesys.ErrCorrupt, ""},
		{"directory with a slash", "short", put8(185, '/'), ofDir, filesys.ErrCorrupt, `"/"`},
		{"directory with a NUL", "short", put8(185, 0), ofDir, filesys.ErrCorrupt, `"\x00"`},
		{"directory without inodes", "short", put32(187, 1<<32-1), ofDir, filesys.ErrCorrupt, "names inode"},
		{"directory larger than the volume", "node", put64(56, 1<<30), ofDir, filesys.ErrCorrupt, "bytes"},
		{"target of no bytes", "files/short link", put64(56, 0), func(fs *xfs.FS, ino uint64) error { return second(fs.Readlink(ino)) }, filesys.ErrCorrupt, "0 bytes"},
		{"target with a NUL", "files/short link", put8(176, 0), func(fs *xfs.FS, ino uint64) error { return second(fs.Readlink(ino)) }, filesys.ErrCorrupt, "NUL"},
		{"target too long", "files/long link", put64(56, 2000), func(fs *xfs.FS, ino uint64) error { return second(fs.Readlink(ino)) }, filesys.ErrCorrupt, "2000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := edited(t, s, c.path, c.edit)
			err := c.ask(fs, walk(t, fs, c.path))
			if !errors.Is(err, c.err) || c.err == nil && err != nil || !strings.Contains(fmt.Sprint(err), c.match) {
				t.Errorf("error %v, want %v with %q", err, c.err, c.match)
			}
			fstest.Exercise(t, fs, 1000)
		})
	}
}

// TestDamagedDirectory: what is damaged in a directory does not hide the rest.
func TestDamagedDirectory(t *testing.T) {
	image := made(t, 16, "-d agcount=1", func(dir string) {
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		write(t, noise[:10], dir, "file")
		for i := range 2000 {
			must(t, os.Link(filepath.Join(dir, "file"), filepath.Join(dir, fmt.Sprintf("d/entry %d", i))))
		}
	})
	sound, err := os.ReadFile(image)
	must(t, err)
	s := newSealer(sound)
	list := func(b []byte) (names []string, err error) {
		fs := openBytes(t, b)
		err = fs.ReadDir(walk(t, fs, "d"), 0, func(e filesys.DirEntry) bool { names = append(names, e.Name); return true })
		return names, err
	}
	all, err := list(sound)
	must(t, err)
	blocks, leaves := 0, 0
	b := bytes.Clone(sound)
	for off := 0; off < len(sound); off += 4096 {
		switch {
		case string(b[off:off+4]) == "XDD3" && crc(b[off:off+4096], 4) == le.Uint32(b[off+4:]):
			blocks++
			b[off+100] ^= 1
			// Its entries are missing, which is said; all others are there.
			names, err := list(b)
			if !errors.Is(err, filesys.ErrCorrupt) || len(names) < len(all)-200 || len(names) == len(all) {
				t.Errorf("block at %d: %d entries, %v", off, len(names), err)
			}
			fs := openBytes(t, b)
			missing := 0
			for _, name := range all {
				if _, err := fs.Lookup(walk(t, fs, "d"), name); err != nil {
					if missing++; slices.Contains(names, name) || !errors.Is(err, filesys.ErrCorrupt) {
						t.Fatalf("%s: %v", name, err)
					}
				}
			}
			if missing != len(all)-len(names) {
				t.Errorf("block at %d: %d names are not found, %d not listed", off, missing, len(all)-len(names))
			}
			// A name with a slash, under a right checksum.
			s.restore(b, off)
			i := bytes.Index(b[off:off+4096], []byte("entry"))
			b[off+i+5] = '/'
			s.seal(b, off)
			if names, err := list(b); !errors.Is(err, filesys.ErrCorrupt) || len(names) != len(all)-1 {
				t.Errorf("slash in block at %d: %d entries, %v", off, len(names), err)
			}
		case be.Uint16(b[off+8:]) == 0x3DFF || be.Uint16(b[off+8:]) == 0x3EBE:
			leaves++
			b[off+200] ^= 1
			fs := openBytes(t, b)
			for _, name := range all[:50] {
				if _, err := fs.Lookup(walk(t, fs, "d"), name); err != nil {
					t.Errorf("leaf at %d: %s: %v", off, name, err)
				}
			}
			if _, err := fs.Lookup(walk(t, fs, "d"), "absent"); !errors.Is(err, filesys.ErrNotExist) {
				t.Errorf("leaf at %d: absent name: %v", off, err)
			}
		}
		s.restore(b, off)
	}
	if blocks < 5 || leaves < 3 {
		t.Errorf("%d blocks and %d leaves were damaged", blocks, leaves)
	}
}

// TestManyDamagedBlocks: a directory that is damaged all over is not read to its
// end, which may be far away.
func TestManyDamagedBlocks(t *testing.T) {
	image := made(t, 64, "-d agcount=1 -b size=1024 -i nrext64=0", func(dir string) { must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755)) })
	b, err := os.ReadFile(image)
	must(t, err)
	ino := walk(t, openBytes(t, b), "d")
	in := b[inodeOffset(b, ino):][:512]
	in[5] = 2
	put32(76, 1)(in)
	put64(56, 32<<20)(in)
	put64(176, 0)(in)
	put64(184, 30000<<21|32<<10)(in) // 32 Ki blocks that are free
	le.PutUint32(in[100:], crc(in, 100))
	c := &countingReader{r: bytes.NewReader(b)}
	fs, err := xfs.Open(c, int64(len(b)), filesys.Options{})
	must(t, err)
	for _, ask := range []func() error{
		func() error { return fs.ReadDir(ino, 0, func(filesys.DirEntry) bool { return true }) },
		func() error { return second(fs.Lookup(ino, "name")) },
	} {
		before := c.n.Load()
		if err := ask(); !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%v", err)
		}
		if n := c.n.Load() - before; n > 20<<20 { // of 32 MiB
			t.Errorf("%d bytes were read", n)
		}
	}
}

// TestDamagedInodeBtree: inodes are found without it.
func TestDamagedInodeBtree(t *testing.T) {
	sound := fstest.SeedImage(t, "v5")
	want := fstest.TakeSnapshot(openBytes(t, sound), true)
	for _, magic := range []string{"XAGI", "IAB3"} {
		b := bytes.Clone(sound)
		b[bytes.Index(b, []byte(magic))+30] ^= 1
		if got := fstest.TakeSnapshot(openBytes(t, b), true); digest(got) != digest(want) || len(got.Errs) > 0 {
			t.Errorf("%s: another tree, errors %v", magic, got.Errs)
		}
		err := openBytes(t, b).ChangedInodes(openBytes(t, sound), []filesys.Range{{Len: 1 << 20}}, func(uint64) bool { return true })
		if !errors.Is(err, filesys.ErrUnsupported) {
			t.Errorf("%s: changed inodes: %v", magic, err)
		}
	}
}

// TestHidden: the volume's own files are nobody's.
func TestHidden(t *testing.T) {
	b := small(t, "", func(dir string) { write(t, noise[:10], dir, "file") })
	ino := walk(t, openBytes(t, b), "file")
	for what, off := range map[string]int{"user quota": 160, "group quota": 168, "project quota": 232, "real-time summary": 72} {
		c := bytes.Clone(b)
		put64(off, ino)(c)
		sealSuper(c)
		if _, err := openBytes(t, c).Attr(ino); !errors.Is(err, filesys.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// In a metadata directory, they are marked.
	s := newSealer(b)
	put64(264, 1<<64-1)(b)
	or32(216, 0x100)(b)
	sealSuper(b)
	fs := openBytes(t, b)
	if _, err := fs.Attr(ino); err != nil {
		t.Error(err)
	}
	off := inodeOffset(b, ino)
	b[off+127] |= 0x20
	s.seal(b, off)
	if _, err := openBytes(t, b).Attr(ino); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("metadata inode: %v", err)
	}
}

// TestOldInodes: version 4 may have inodes of version 1, whose link count is
// elsewhere.
func TestOldInodes(t *testing.T) {
	fs := edited(t, loadSeed(t, "v4"), "files/small", func(b []byte) {
		put8(4, 1)(b)
		put16(6, 3)(b)
		put32(16, 77)(b)
	})
	if a, err := fs.Attr(walk(t, fs, "files/small")); err != nil || a.Nlink != 3 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestIgnoredCase: a name is found in any case, and first in its own.
func TestIgnoredCase(t *testing.T) {
	fs := openBytes(t, fstest.SeedImage(t, "v4-ci"))
	small := walk(t, fs, "files/small")
	for _, name := range []string{"SMALL", "Small", "small"} {
		if ino, err := fs.Lookup(walk(t, fs, "FILES"), name); err != nil || ino != small {
			t.Errorf("%s: %d, %v", name, ino, err)
		}
	}
	node := walk(t, fs, "node")
	if _, err := fs.Lookup(node, "ENTRY Number 699"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Lookup(node, "ENTRY Number 1"); !errors.Is(err, filesys.ErrNotExist) {
		t.Error(err)
	}
}

// TestLargeInodeNumbers has inode numbers that do not fit 32 bits, which short
// directories keep in another way.
func TestLargeInodeNumbers(t *testing.T) {
	image := filepath.Join(fstest.TempDir(t), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	if err := os.Truncate(image, 5<<40); err != nil {
		t.Fatalf("this test needs room in /dev/shm, or another file system there that takes sparse files of 5 TiB: %v", err)
	}
	fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K -l size=64m -d agcount=6"), image)...)
	dir, unmount := fstest.Mount(t, image, "xfs", false, "inode64")
	for i := range 12 { // which Linux spreads over the groups
		d := filepath.Join(dir, fmt.Sprintf("directory %d", i))
		must(t, os.MkdirAll(d+"/sub", 0o755))
		write(t, noise[:20000+i], d, "file")
		must(t, unix.Setxattr(d+"/file", "user.large", noise[:2000], 0))
		must(t, os.Symlink(strings.Repeat("x", 900), d+"/link"))
	}
	unmount()
	fs := openImage(t, image)
	kernel, _ := fstest.Mount(t, image, "xfs", true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	fstest.CompareStatfs(t, fs, kernel)
	large := false
	for ino := range namesBelow(t, fs) {
		large = large || ino > 1<<32
	}
	if !large {
		t.Error("all inode numbers are small")
	}
}
