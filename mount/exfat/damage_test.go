package exfat_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"cairn/mount/exfat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestChainsThatContradict: what a chain says and what a size says.
func TestChainsThatContradict(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "512")
	list := func() []uint32 {
		l := m.alloc(10, true, false)
		for i, c := range l {
			copy(m.b[m.place(c):m.place(c)+512], noise[i*512:])
		}
		return l
	}
	put := func(name string, s spec) {
		s.units, s.attr = utf16.Encode([]rune(name)), 0x20
		m.root.put(set(s)...)
	}
	add := func(name string, first uint32) { put(name, spec{first: first, size: 10 * 512, valid: 10 * 512}) }
	add("good", list()[0])
	l := list()
	m.set(l[9], l[9])
	add("loop at the end", l[0])
	l = list()
	m.set(l[5], l[1])
	add("loop within", l[0])
	for name, v := range map[string]uint32{"free": 0, "one": 1, "bad": 0xFFFFFFF7, "reserved": 0xFFFFFFF8, "beyond": m.count + 2, "short": end} {
		l = list()
		m.set(l[6], v)
		add(name, l[0])
	}
	put("longer", spec{first: list()[0], size: 5 * 512, valid: 5 * 512})
	add("no cluster", 0)
	add("cluster beyond", m.count+2)
	put("piece beyond", spec{first: m.count, size: 5120, valid: 5120, contiguous: true})
	put("too large", spec{first: l[0], size: 1 << 40, valid: 10, contiguous: true})
	put("far too large", spec{first: l[0], size: 1<<63 - 1, valid: 1<<63 - 1})
	fs := m.open()
	for name, whole := range map[string]int{"good": 10, "longer": 5, "loop at the end": -1, "loop within": -1, "no cluster": -1, "cluster beyond": -1,
		"piece beyond": -1, "too large": -1, "far too large": -1, "free": 7, "one": 7, "bad": 7, "reserved": 7, "beyond": 7, "short": 7} {
		f, err := fs.Open(lookup(t, fs, 1, name))
		if whole < 0 {
			if !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%s: opened, %v", name, err)
			}
			continue
		}
		must(t, err)
		p := make([]byte, f.Size())
		n, err := f.ReadAt(p, 0)
		if n != whole*512 || !bytes.Equal(p[:n], noise[:n]) || (whole == 7) != errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	fstest.Exercise(t, fs, 10000)
}

// TestDirectoriesThatContradict: loops, and sets that make no sense.
func TestDirectoriesThatContradict(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "4096")
	a := m.root.folder("a", 1, false, true)
	b := a.folder("b", 1, false, true)
	dir := func(d *folder, name string, s spec) {
		s.units, s.attr = utf16.Encode([]rune(name)), 0x10
		d.put(set(s)...)
	}
	for name, first := range map[string]uint32{"itself": b.first, "above": a.first, "root": m.root.first, "no cluster": 0} {
		dir(b, name, spec{first: first, size: 4096, valid: 4096, contiguous: true})
	}
	dir(b, "short", spec{first: m.alloc(1, false, false)[0], size: 8192, valid: 8192})
	dir(b, "invalid", spec{first: m.alloc(1, false, false)[0], size: 4096, valid: 32})
	dir(b, "too large", spec{first: m.alloc(1, false, false)[0], size: 257 << 20, valid: 257 << 20})
	dir(b, "empty", spec{})
	fs := m.open()
	ai := lookup(t, fs, 1, "a")
	bi := lookup(t, fs, ai, "b")
	for _, name := range []string{"itself", "above", "root", "no cluster", "short", "invalid", "too large"} {
		ino := lookup(t, fs, bi, name)
		for _, fs := range []*exfat.FS{fs, m.open()} {
			if got, err := names(fs, ino); !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
	if got, err := names(fs, lookup(t, fs, bi, "empty")); len(got) != 0 || err != nil {
		t.Errorf("empty: %q, %v", got, err)
	}
	fstest.Exercise(t, fs, 10000)

	for what, damage := range map[string]func(list [][]byte) [][]byte{
		"a wrong checksum":  func(l [][]byte) [][]byte { l[0][2]++; return l },
		"no stream":         func(l [][]byte) [][]byte { l = append(l[:1], l[2:]...); sign(l); return l },
		"too few names":     func(l [][]byte) [][]byte { l = l[:2]; sign(l); return l },
		"a longer name":     func(l [][]byte) [][]byte { l[1][3] = 200; sign(l); return l },
		"no name":           func(l [][]byte) [][]byte { l[1][3] = 0; sign(l); return l },
		"a slash":           func(l [][]byte) [][]byte { l[2][2] = '/'; sign(l); return l },
		"more valid bytes":  func(l [][]byte) [][]byte { l[1][8] = 1; sign(l); return l },
		"a negative size":   func(l [][]byte) [][]byte { l[1][31] = 0x80; sign(l); return l },
		"a file within":     func(l [][]byte) [][]byte { l[2][0] = 0x85; sign(l); return l },
		"a deleted part":    func(l [][]byte) [][]byte { l[2][0] = 0x41; sign(l); return l },
		"a lost first part": func(l [][]byte) [][]byte { l[0][0] = 0x05; return l },
	} {
		m := newMaker(t, 8<<20, "-c", "4096")
		m.root.file("before", nil, false, false)
		m.root.put(damage(set(spec{units: utf16.Encode([]rune("damaged")), attr: 0x20}))...)
		m.root.file("after", nil, false, false)
		fs := m.open()
		got, err := names(fs, 1)
		if strings.Join(got, " ") != "before after" || !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		lookup(t, fs, 1, "AFTER")
		if _, err := fs.Lookup(1, "damaged"); !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%s: lookup: %v", what, err)
		}
	}
}

// TestBootRegion: its copy, flags, and what is no exFAT.
func TestBootRegion(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "4096")
	m.root.file("файл", []byte("content"), false, true)
	sound := bytes.Clone(m.b)
	open := func(warning, name string, damage func(b []byte)) {
		t.Helper()
		copy(m.b, sound)
		damage(m.b)
		fs := m.open()
		if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, warning) || warning == "" && w != "" {
			t.Errorf("warnings %q, want %q", w, warning)
		}
		if got := content(t, fs, lookup(t, fs, 1, name)); string(got) != "content" {
			t.Errorf("%s: content %q", warning, got)
		}
	}
	entry := func(kind byte) int64 {
		for _, at := range m.root.slots {
			if sound[at] == kind {
				return at
			}
		}
		t.Fatalf("no entry of type %#x", kind)
		return 0
	}
	open("", "ФАЙЛ", func([]byte) {})
	open("boot region is damaged (its checksum is wrong)", "ФАЙЛ", func(b []byte) { b[200] ^= 1 })
	open("boot region is damaged (sectors", "ФАЙЛ", func(b []byte) { b[108] = 50 })
	open("boot region is damaged (its checksum", "ФАЙЛ", func(b []byte) { b[11<<m.shift+9]++ })
	open("not unmounted", "ФАЙЛ", func(b []byte) { b[106] |= 2 })
	open("errors of the disk", "ФАЙЛ", func(b []byte) { b[106] |= 4 })
	open("upper case cannot be used (its checksum", "файл", func(b []byte) { b[entry(0x82)+4]++ })
	open("upper case cannot be used (there is none", "файл", func(b []byte) { b[entry(0x82)] = 2 })
	open("upper case cannot be used (it has", "файл", func(b []byte) { b[entry(0x82)+28]++ })
	open("bitmap of clusters", "файл", func(b []byte) { b[entry(0x81)] = 1 })
	open("bitmap of clusters", "файл", func(b []byte) { b[entry(0x81)+22] = 1 })

	refused := func(want error, damage func(b []byte)) {
		t.Helper()
		copy(m.b, sound)
		damage(m.b)
		if _, err := exfat.Open(bytes.NewReader(m.b), int64(len(m.b)), filesys.Options{}); !errors.Is(err, want) {
			t.Errorf("opened with %v, want %v", err, want)
		}
	}
	both := func(off int, v ...byte) func(b []byte) {
		return func(b []byte) { copy(b[off:], v); copy(b[off+12*(1<<m.shift):], v); m.seal() }
	}
	refused(filesys.ErrWrongType, func(b []byte) { clear(b[:512]) })
	refused(filesys.ErrCorrupt, func(b []byte) { b[200] ^= 1; b[200+12*(1<<m.shift)] ^= 1 })
	refused(filesys.ErrUnsupported, both(105, 2))
	refused(filesys.ErrCorrupt, both(110, 0))
	refused(filesys.ErrCorrupt, both(110, 3))
	refused(filesys.ErrCorrupt, both(106, 1)) // a second table that is not there
	refused(filesys.ErrCorrupt, both(109, 20))
	refused(filesys.ErrCorrupt, both(92, 255, 255, 255, 255))
	refused(filesys.ErrCorrupt, both(96, 1, 0, 0, 0))
	refused(filesys.ErrCorrupt, both(72, 255, 255, 255, 255, 255, 255, 255, 255))
	refused(filesys.ErrCorrupt, both(84, 0, 0, 0, 0))
	refused(filesys.ErrCorrupt, both(20, 1))
	copy(m.b, sound)
	for _, n := range []int64{0, 1, 511, 512, 6144} {
		if _, err := exfat.Open(bytes.NewReader(m.b), n, filesys.Options{}); !errors.Is(err, filesys.ErrWrongType) && !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	fs, err := exfat.Open(bytes.NewReader(m.b), 4<<20, filesys.Options{})
	must(t, err)
	if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "cannot be read") {
		t.Errorf("a volume that was cut: %q", w)
	}
	fstest.Exercise(t, fs, 1000)
}
