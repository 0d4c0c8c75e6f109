package exfat_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"cairn/mount/exfat"
	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

func TestTrapNames(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "512")
	var want []string
	for _, name := range []string{"😀 surrogates 𝒳.txt", strings.Repeat("😀", 127) + "x", strings.Repeat("k", 255), "fifteen of them", "x", "Straße", "ÀÉÎ", "жук"} {
		m.root.file(name, []byte(name), false, true)
		want = append(want, name)
	}
	for _, c := range []struct {
		units []uint16
		name  string
	}{{[]uint16{'a', 0xD83D, 'b'}, "a\xED\xA0\xBDb"}, {[]uint16{'a', 0xDE00, 'b'}, "a\xED\xB8\x80b"}, {[]uint16{'a', 0xD83D}, "a\xED\xA0\xBD"}} {
		m.root.put(set(spec{units: c.units, attr: 0x20})...)
		want = append(want, c.name)
	}
	fs := m.open()
	got, err := names(fs, fs.Root())
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("names\n%q, want\n%q", got, want)
	}
	for i, name := range want {
		ino := lookup(t, fs, fs.Root(), name)
		if i < 8 && string(content(t, fs, ino)) != name {
			t.Errorf("%q has another's content", name)
		}
	}
	for name, other := range map[string]string{"àéî": "ÀÉÎ", "ЖУК": "жук", "STRAßE": "Straße", "X": "x", strings.Repeat("K", 255): strings.Repeat("k", 255)} {
		if a, err := fs.Lookup(1, name); err != nil || a != lookup(t, fs, 1, other) {
			t.Errorf("%q is not found as %q: %v", other, name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "STRASSE", "\xFF", "a\xED\xA0", strings.Repeat("k", 256)} {
		if _, err := fs.Lookup(1, name); !errors.Is(err, filesys.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestTrapTimesAndAttributes(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "4096")
	m.root.put(set(spec{units: utf16.Encode([]rune("file")), attr: 0x27})...)
	bad := set(spec{units: utf16.Encode([]rune("bad")), attr: 0x20})
	clear(bad[0][8:20])
	sign(bad)
	m.root.put(bad...)
	fs := m.open()
	a, err := fs.Attr(lookup(t, fs, 1, "file"))
	must(t, err)
	if a.Mode != 0o100444 || a.Nlink != 1 || a.Size != 0 || a.Blocks != 0 {
		t.Errorf("%+v", a)
	}
	for _, c := range []struct{ got, want time.Time }{
		{a.Btime, time.Date(2021, 2, 28, 11, 37, 59, 500e6, time.UTC)},
		{a.Mtime, time.Date(2021, 2, 28, 6, 32, 6, 70e6, time.UTC)},
		{a.Atime, time.Date(2021, 2, 28, 23, 59, 58, 0, time.UTC)}, {a.Ctime, a.Mtime},
	} {
		if !c.got.Equal(c.want) {
			t.Errorf("time %v, want %v", c.got, c.want)
		}
	}
	if a, err = fs.Attr(lookup(t, fs, 1, "bad")); err != nil || !a.Mtime.IsZero() || !a.Atime.IsZero() || !a.Btime.IsZero() {
		t.Errorf("times that are none: %+v, %v", a, err)
	}
}

// TestTrapChains: files in one piece, in random pieces, and written in part.
func TestTrapChains(t *testing.T) {
	for _, c := range []struct {
		args string
		size int64
		n    int
	}{{"-c 512", 24 << 20, 40000}, {"-c 4096", 40 << 20, 300}, {"-c 2097152", 64 << 20, 7}} {
		m := newMaker(t, c.size, strings.Fields(c.args)...)
		want := bytes.Repeat(noise[:1<<20-1], 30)[:int64(c.n)*m.size-100]
		m.root.file("fragments", want, true, false)
		m.root.file("chain", want[:m.size*3/2], false, false)
		m.root.file("one piece", want[:m.size*5/2], false, true)
		list := m.alloc(3, false, false)
		for _, c := range list {
			copy(m.b[m.place(c):m.place(c)+m.size], noise)
		}
		valid := m.size + 100
		m.root.put(set(spec{units: utf16.Encode([]rune("in part")), attr: 0x20, first: list[0], size: 3*m.size - 7, valid: valid})...)
		m.root.put(set(spec{units: utf16.Encode([]rune("not at all")), attr: 0x20, first: m.alloc(2, false, true)[0], size: 2 * m.size, contiguous: true})...)
		fs := m.open()
		part := make([]byte, 3*m.size-7)
		copy(part, noise[:m.size])
		copy(part[m.size:valid], noise)
		for name, want := range map[string][]byte{"fragments": want, "chain": want[:m.size*3/2], "one piece": want[:m.size*5/2],
			"in part": part, "not at all": make([]byte, 2*m.size)} {
			ino := lookup(t, fs, 1, name)
			if !bytes.Equal(content(t, fs, ino), want) {
				t.Errorf("%s: %s: wrong content", c.args, name)
			}
			f, err := fs.Open(ino)
			must(t, err)
			for range 200 {
				off := m.rand.Int64N(int64(len(want)))
				p := bytes.Repeat([]byte{0xA5}, m.rand.IntN(10000))
				n, err := f.ReadAt(p, off)
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:off+int64(n)]) {
					t.Fatalf("%s: %s: %d of %d bytes at %d, %v", c.args, name, n, len(p), off, err)
				}
				at, k, err := f.(filesys.Stored).Stored(off)
				if err != nil || at.Len != 0 && (at.Len != k || !bytes.Equal(m.b[at.Off:at.Off+k], want[off:off+k])) {
					t.Fatalf("%s: byte %d of %s is stored at %v, %d, %v", c.args, off, name, at, k, err)
				}
			}
		}
		f, err := fs.Open(lookup(t, fs, 1, "in part"))
		must(t, err)
		if data, n, err := f.Extent(5); !data || n != valid-5 || err != nil {
			t.Errorf("extent of data: %v, %d, %v", data, n, err)
		}
		if data, n, err := f.Extent(valid); data || n != f.Size()-valid || err != nil {
			t.Errorf("extent of a hole: %v, %d, %v", data, n, err)
		}
		m.fsck()
	}
}

func TestTrapLargeDirectory(t *testing.T) {
	for _, contiguous := range []bool{false, true} {
		m := newMaker(t, 24<<20, "-c", "512")
		const n = 20000
		d := m.root.folder("large", n*4*32/512+1, !contiguous, contiguous)
		for i := range n {
			// Sets of 3 and 4 entries: many lie in two clusters.
			d.file(fmt.Sprintf("entry%*d", 1+i%2*12, i), noise[:0], false, false)
		}
		fs := m.open()
		dir := lookup(t, fs, fs.Root(), "large")
		got, err := names(fs, dir)
		must(t, err)
		if len(got) != n {
			t.Fatalf("%d entries", len(got))
		}
		for i, name := range got {
			if name != fmt.Sprintf("entry%*d", 1+i%2*12, i) {
				t.Fatalf("entry %d is %q", i, name)
			}
			if _, err := fs.Attr(lookup(t, fs, dir, name)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		m.fsck()
	}
}

func TestTrapParentIsSearched(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "512")
	a := m.root.folder("a", 2, true, false)
	a.folder("b", 1, false, true).folder("c", 3, true, false)
	m.root.folder("x", 1, true, false).folder("y", 2, false, true)
	fs := m.open()
	inos := map[string]uint64{"": 1}
	for _, path := range []string{"a", "a/b", "a/b/c", "x", "x/y"} {
		dir, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir, name = path[:i], path[i+1:]
		}
		inos[path] = lookup(t, fs, inos[dir], name)
	}
	for path, ino := range inos {
		dir := path[:max(0, strings.LastIndexByte(path, '/'))]
		for _, fs := range []filesys.FS{fs, m.open()} { // one that knows and one that does not
			if p, err := fs.Parent(ino); err != nil || p != inos[dir] {
				t.Errorf("parent of %q is %d, %v", path, p, err)
			}
		}
	}
	m.fsck()
}

// TestTrapOtherEntries: benign ones are passed over, critical ones are told of.
func TestTrapOtherEntries(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "4096")
	vendor, unknown := make([]byte, 32), make([]byte, 32)
	vendor[0], unknown[0] = 0xE0, 0xC5
	m.root.put(set(spec{units: utf16.Encode([]rune("with vendor's")), attr: 0x20, extra: [][]byte{vendor}})...)
	benign := [][]byte{make([]byte, 32), bytes.Clone(vendor)}
	benign[0][0] = 0xA5
	sign(benign)
	m.root.put(benign...)
	guid := [][]byte{make([]byte, 32)}
	guid[0][0] = 0xA0
	copy(guid[0][6:], noise[:16])
	sign(guid)
	m.root.put(guid...)
	padding := make([]byte, 32)
	padding[0] = 0xA1
	m.root.put(padding)
	m.root.file("after", nil, false, false)
	fs := m.open()
	if got, err := names(fs, 1); !slices.Equal(got, []string{"with vendor's", "after"}) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	m.root.put(set(spec{units: utf16.Encode([]rune("with critical")), attr: 0x20, extra: [][]byte{unknown}})...)
	m.root.file("last", nil, false, false)
	fs = m.open()
	if got, err := names(fs, 1); !slices.Equal(got, []string{"with vendor's", "after", "last"}) || !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), "0xc5") {
		t.Errorf("%q, %v", got, err)
	}
	critical := [][]byte{make([]byte, 32)}
	critical[0][0] = 0x86
	sign(critical)
	d := m.root.folder("d", 1, false, false)
	d.put(critical...)
	d.file("behind", nil, false, false)
	fs = m.open()
	if got, err := names(fs, lookup(t, fs, 1, "d")); !slices.Equal(got, []string{"behind"}) || !errors.Is(err, filesys.ErrUnsupported) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestTrapSecondTable: TexFAT keeps two tables and bitmaps.
func TestTrapSecondTable(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "4096")
	m.root.file("file", noise[:50000], true, false)
	// The table grows into two halves, the second of which is the real one.
	length := int64(m.count+2) * 4
	length = (length + 511) &^ 511
	if m.fat+2*length > m.heap {
		t.Fatal("there is no room for a second table")
	}
	copy(m.b[m.fat+length:], m.b[m.fat:m.fat+length])
	copy(m.b[m.fat:m.fat+length], noise)
	for _, at := range m.root.slots[:m.root.used] {
		if m.b[at] == 0x81 {
			m.b[at+1] |= 1
		}
	}
	for _, off := range []int{0, 12 << m.shift} {
		le.PutUint32(m.b[off+84:], uint32(length>>m.shift))
		m.b[off+110] = 2
		m.b[off+106] |= 1
	}
	m.seal()
	fs := m.open()
	if !bytes.Equal(content(t, fs, lookup(t, fs, 1, "file")), noise[:50000]) {
		t.Error("wrong content")
	}
	if i := fs.Info(); len(i.Warnings) > 0 || i.Free == 0 {
		t.Errorf("%+v", i)
	}
}

func TestTrapParallelReaders(t *testing.T) {
	m := newMaker(t, 20<<20, "-c", "512")
	for i := range 8 {
		m.root.folder(fmt.Sprint("d", i), 3, true, false).file("file", noise[i:i+100000], true, false)
	}
	fs := m.open()
	done, read := make(chan error), make(chan bool)
	go func() {
		for {
			select {
			case <-read:
				done <- nil
				return
			default:
				fs.Forget()
			}
		}
	}()
	for k := range 16 {
		go func() { done <- readFile(fs, k%8) }()
	}
	for range 16 {
		must(t, <-done)
	}
	close(read)
	must(t, <-done)
}

// TestForget: what was kept is let go of, and changes no answer.
func TestForget(t *testing.T) {
	m := newMaker(t, 40<<20, "-c", "512")
	d := m.root.folder("d", 2, true, false)
	d.folder("e", 1, true, false).file("file", noise[:100000], true, false)
	fs := m.open()
	var kept []int64
	for range 3 {
		di := lookup(t, fs, 1, "d")
		ei := lookup(t, fs, di, "e")
		if got := content(t, fs, lookup(t, fs, ei, "file")); !bytes.Equal(got, noise[:100000]) {
			t.Error("wrong content")
		}
		if p, err := fs.Parent(ei); err != nil || p != di {
			t.Errorf("parent %d, %v", p, err)
		}
		kept = append(kept, fs.Kept())
		fs.Forget()
		if n := fs.Kept(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
	}
	if kept[1] < cluster.PageSize || kept[2] != kept[1] {
		t.Errorf("kept %d bytes", kept)
	}
}

func readFile(fs *exfat.FS, i int) error {
	d, err := fs.Lookup(1, fmt.Sprint("D", i))
	if err != nil {
		return err
	}
	ino, err := fs.Lookup(d, "file")
	if err != nil {
		return err
	}
	f, err := fs.Open(ino)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if !bytes.Equal(b, noise[i:i+100000]) {
		return fmt.Errorf("wrong content, %v", err)
	}
	fs.Info()
	_, err = fs.Parent(d)
	return err
}

// TestFlippedBits: no flipped bit in entries of files or in the boot region
// shows in silence. What has no checksum is left out: the table, the bitmap,
// flags, and the volume's own entries.
func TestFlippedBits(t *testing.T) {
	m := newMaker(t, 8<<20, "-c", "4096")
	d := m.root.folder("d", 1, false, true)
	for i := range 10 {
		d.file(fmt.Sprintf("file number %d", i), noise[:i*1000], false, true)
	}
	want := fstest.TakeSnapshot(m.open(), true)
	if len(want.Errs) > 0 {
		t.Fatal(want.Errs)
	}
	flip := func(off int64, bit byte) {
		m.b[off] ^= bit
		defer func() { m.b[off] ^= bit }()
		fs, err := exfat.Open(bytes.NewReader(m.b), int64(len(m.b)), filesys.Options{})
		if err != nil {
			if !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrWrongType) {
				t.Errorf("bit %#x of byte %d: %v", bit, off, err)
			}
			return
		}
		got := fstest.TakeSnapshot(fs, true)
		for path, digest := range want.Digests {
			if got.Digests[path] != digest && !got.Excused(path) {
				t.Errorf("bit %#x of byte %d: %q differs in silence", bit, off, path)
			}
		}
		for path, err := range got.Errs {
			if !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("bit %#x of byte %d: %q: %v", bit, off, path, err)
			}
		}
		if len(got.Errs) == 0 && off > 512 && off >= 12<<m.shift {
			t.Errorf("bit %#x of byte %d: not noticed", bit, off)
		}
	}
	for off := int64(0); off < 130; off++ {
		if off != 106 && off != 107 && off != 112 {
			flip(off, 1<<m.rand.IntN(8))
		}
	}
	for i := range int64(d.used * 32) {
		flip(d.slots[0]+i, 1<<(i%8))
	}
}
