package fat_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestChainsThatContradict: what a chain says and what a size says.
func TestChainsThatContradict(t *testing.T) {
	for _, kind := range []string{"12", "16", "32"} {
		m := newMaker(t, map[string]int64{"12": 2 << 20, "16": 20 << 20, "32": 40 << 20}[kind], "-F", kind, "-s", "1")
		list := func() []uint32 {
			l := m.alloc(10, true)
			for i, c := range l {
				copy(m.b[m.place(c):m.place(c)+512], noise[i*512:])
			}
			return l
		}
		add := func(name string, l []uint32) { m.rooted.entry(name, 0x20, l[0], 10*512) }
		l := list()
		add("good", l)
		l = list()
		m.set(l[9], l[9])
		add("loop to itself at the end", l)
		l = list()
		m.set(l[9], l[0])
		add("loop to the start", l)
		l = list()
		m.set(l[9], l[7])
		add("loop to the middle", l)
		l = list()
		m.set(l[4], l[2])
		add("loop within the size", l)
		for name, v := range map[string]uint32{"free": 0, "one": 1, "bad": m.end() &^ 8, "reserved": m.end() - 9, "beyond": m.count + 2, "short": m.end()} {
			l = list()
			m.set(l[6], v)
			add(name, l)
		}
		m.rooted.entry("longer", 0x20, list()[0], 5*512)
		m.rooted.entry("no cluster", 0x20, 0, 512)
		m.rooted.entry("cluster beyond", 0x20, m.count+2, 512)
		fs := m.open()
		for name, whole := range map[string]int{"good": 10, "longer": 5,
			"loop to itself at the end": -1, "loop to the start": -1, "loop to the middle": -1, "loop within the size": -1,
			"no cluster": -1, "cluster beyond": -1,
			"free": 7, "one": 7, "bad": 7, "reserved": 7, "beyond": 7, "short": 7} {
			f, err := fs.Open(lookup(t, fs, 1, name))
			if whole < 0 {
				if !errors.Is(err, filesys.ErrCorrupt) {
					t.Errorf("FAT%s: %s: opened, %v", kind, name, err)
				}
				continue
			}
			must(t, err)
			p := make([]byte, f.Size())
			n, err := f.ReadAt(p, 0)
			if n != whole*512 || !bytes.Equal(p[:n], noise[:n]) || (whole == 7) != errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("FAT%s: %s: %d bytes, %v", kind, name, n, err)
			}
		}
		fstest.Exercise(t, fs, 10000)
	}
}

// TestDirectoriesThatContradict: loops of names and of clusters.
func TestDirectoriesThatContradict(t *testing.T) {
	m := newMaker(t, 40<<20, "-F", "32", "-s", "1")
	a := m.rooted.folder("a", 1, false)
	b := a.folder("b", 1, false)
	b.entry("itself", 0x10, b.first, 0)
	b.entry("above", 0x10, a.first, 0)
	b.entry("root", 0x10, m.rooted.first, 0)
	b.entry("no cluster", 0x10, 0, 0)
	c := a.folder("circle", 3, true)
	m.set(c.first, c.first)
	d := m.rooted.folder("broken", 2, false)
	for i := range 14 {
		d.file(fmt.Sprint("entry ", i), nil, false)
	}
	m.set(d.first, 0)
	large := m.rooted.folder("too large", 4100, false)
	for i := range 4100 * 8 {
		if large.used+2 > len(large.slots) {
			break
		}
		large.file(fmt.Sprint(i), nil, false)
	}
	fs := m.open()
	ai := lookup(t, fs, 1, "a")
	bi := lookup(t, fs, ai, "b")
	for _, name := range []string{"itself", "above", "root", "no cluster"} {
		ino := lookup(t, fs, bi, name)
		for _, fs := range []*fat.FS{fs, m.open()} {
			if got, err := names(fs, ino); !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			if _, err := fs.Lookup(ino, "b"); !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("lookup in %s: %v", name, err)
			}
		}
	}
	if _, err := names(fs, lookup(t, fs, ai, "circle")); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("circle: %v", err)
	}
	if got, err := names(fs, lookup(t, fs, 1, "broken")); len(got) != 7 || !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("broken: %q, %v", got, err)
	}
	if got, err := names(fs, lookup(t, fs, 1, "too large")); len(got) < 32000 || !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("too large: %d, %v", len(got), err)
	}
	fstest.Exercise(t, fs, 10000)
}

// TestSharedDirectories: two directories that share a cluster, each of which
// has the other in it.
func TestSharedDirectories(t *testing.T) {
	m := newMaker(t, 40<<20, "-F", "32", "-s", "1")
	a, b := m.rooted.folder("a", 2, false), m.rooted.folder("b", 2, false)
	for a.used < 16 {
		a.put(m.short("FILLER     ", 0x20, 0, 0))
	}
	a.folder("x", 1, false).entry("in x", 0x20, 0, 0)
	m.set(b.first, a.first+1) // b goes on where a does
	for b.used < 16 {
		b.put(m.short("FILLER     ", 0x20, 0, 0))
	}
	x := m.next - 1
	m.set(x, a.first+1) // and so does x, which so contains itself
	at := m.place(x)
	for i := int64(0); i < 512; i += 32 {
		if m.b[at+i] == 0 {
			copy(m.b[at+i:], m.short("FILLER     ", 0x20, 0, 0))
		}
	}
	fs := m.open()
	visited := 0
	var errs []error
	var walk func(ino uint64)
	walk = func(ino uint64) {
		if visited++; visited > 100 {
			return
		}
		var dirs []uint64
		err := fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			if e.Type == filesys.TypeDir {
				dirs = append(dirs, e.Ino)
			}
			return true
		})
		if err != nil {
			errs = append(errs, err)
		}
		for _, d := range dirs {
			walk(d)
		}
	}
	walk(1)
	if visited != 4 || len(errs) != 2 || !errors.Is(errs[0], filesys.ErrCorrupt) || !errors.Is(errs[1], filesys.ErrCorrupt) {
		t.Errorf("%d directories, %v", visited, errs)
	}
	if _, err := fs.Lookup(lookup(t, fs, 1, "b"), "x"); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("lookup of what is elsewhere: %v", err)
	}
}

// TestBootSector: copies, flags, and what is no FAT.
func TestBootSector(t *testing.T) {
	m := newMaker(t, 40<<20, "-F", "32", "-s", "1")
	m.rooted.file("file", []byte("content"), false)
	sound := bytes.Clone(m.b)
	open := func(warning string, damage func(b []byte)) {
		t.Helper()
		copy(m.b, sound)
		damage(m.b)
		fs := m.open()
		if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, warning) || warning == "" && w != "" {
			t.Errorf("warnings %q, want %q", w, warning)
		}
		if got := content(t, fs, lookup(t, fs, 1, "file")); string(got) != "content" {
			t.Errorf("%s: content %q", warning, got)
		}
	}
	open("", func([]byte) {})
	open("boot sector is damaged", func(b []byte) { b[13] = 3 })
	open("copy number 2 is used", func(b []byte) { clear(b[m.fats[0]:m.fats[1]]) })
	open("number 2 is used, as the boot sector says", func(b []byte) {
		clear(b[m.fats[0]:m.fats[1]])
		b[40] = 0x81
	})
	open("not unmounted", func(b []byte) { b[m.fats[0]+7] &^= 8 })
	open("not unmounted", func(b []byte) { b[65] |= 1 })
	open("errors of the disk", func(b []byte) { b[m.fats[0]+7] &^= 4 })
	open("does not begin", func(b []byte) { b[m.fats[0]+1], b[m.fats[1]+1] = 0, 0 })

	refused := func(want error, damage func(b []byte)) {
		t.Helper()
		copy(m.b, sound)
		damage(m.b)
		if _, err := fat.Open(bytes.NewReader(m.b), int64(len(m.b)), filesys.Options{}); !errors.Is(err, want) {
			t.Errorf("opened with %v, want %v", err, want)
		}
	}
	refused(filesys.ErrWrongType, func(b []byte) { clear(b[:512]) })
	refused(filesys.ErrWrongType, func(b []byte) { copy(b[3:], "NTFS    "); copy(b[82:], "        ") })
	refused(filesys.ErrWrongType, func(b []byte) { copy(b, noise[:4096]) })
	refused(filesys.ErrCorrupt, func(b []byte) { b[13] = 3; b[6*512+13] = 3 })
	refused(filesys.ErrCorrupt, func(b []byte) { b[44] = 0 })
	refused(filesys.ErrCorrupt, func(b []byte) { b[40] = 0x87 })
	refused(filesys.ErrUnsupported, func(b []byte) { b[43] = 1 })
	copy(m.b, sound)
	for _, n := range []int64{0, 1, 511, 512} {
		if _, err := fat.Open(bytes.NewReader(m.b), n, filesys.Options{}); err == nil || !errors.Is(err, filesys.ErrWrongType) && !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	fs, err := fat.Open(bytes.NewReader(m.b), 20<<20, filesys.Options{})
	must(t, err)
	if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "cannot be read") {
		t.Errorf("a volume that was cut: %q", w)
	}
	fstest.Exercise(t, fs, 1000)
}
