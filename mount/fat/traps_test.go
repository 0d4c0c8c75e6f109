package fat_test

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

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

func TestTrapNames(t *testing.T) {
	m := newMaker(t, 20<<20, "-F", "16", "-s", "1", "-n", "THE LABEL")
	root := m.rooted
	root.used++ // the label
	var want []string
	add := func(name string) {
		root.file(name, []byte(name), false)
		want = append(want, name)
	}
	add("😀 surrogates 𝒳.txt")
	add(strings.Repeat("😀", 127) + "x") // 255 units
	add(strings.Repeat("k", 255))
	add("thirteen char")
	short := func(raw, shown string, flags byte) {
		e := m.short(raw, 0x20, 0, 0)
		e[12] = flags
		root.put(e)
		want = append(want, shown)
	}
	short("PLAIN   TXT", "PLAIN.TXT", 0)
	short("LOWBASE TXT", "lowbase.TXT", 8)
	short("LOWEXT  TXT", "LOWEXT.txt", 16)
	short("LOWBOTH TXT", "lowboth.txt", 24)
	short("NOEXT      ", "NOEXT", 0)
	short("\x05IGMA   \xE1\x9E ", "σIGMA.ß₧", 0)
	short("\x80\x8E\xA5     X  ", "çäñ.X", 8)
	short("IN SIDE A B", "IN SIDE.A B", 0)
	// Half a surrogate pair keeps its number.
	half := func(units []uint16, name string) {
		s := m.short(m.uniqueShort(), 0x20, 0, 0)
		root.put(long(units, sum(s))...)
		root.put(s)
		want = append(want, name)
	}
	half([]uint16{'a', 0xD83D, 'b'}, "a\xED\xA0\xBDb")
	half([]uint16{'a', 0xDE00, 'b'}, "a\xED\xB8\x80b")
	half([]uint16{'a', 0xD83D}, "a\xED\xA0\xBD")
	// Long names that do not belong to the entry that follows.
	s := m.short("ORPHAN  1  ", 0x20, 0, 0)
	root.put(long(utf16.Encode([]rune("of another name")), sum(s)+1)...)
	root.put(s)
	want = append(want, "ORPHAN.1")
	s = m.short("ORPHAN  2  ", 0x20, 0, 0)
	root.put(long(utf16.Encode([]rune("this one lacks its last entry")), sum(s))[:2]...)
	root.put(s)
	want = append(want, "ORPHAN.2")
	s = m.short("ORPHAN  3  ", 0x20, 0, 0)
	parts := long(utf16.Encode([]rune("this one has its parts in disorder")), sum(s))
	root.put(parts[0], parts[2], parts[1], s)
	want = append(want, "ORPHAN.3")
	s = m.short("ORPHAN  4  ", 0x20, 0, 0)
	deleted := m.short("\xE5ELETED    ", 0x20, 0, 0)
	root.put(long(utf16.Encode([]rune("a deleted file stands between")), sum(s))...)
	root.put(deleted, s)
	want = append(want, "ORPHAN.4")
	s = m.short("ORPHAN  5  ", 0x20, 0, 0)
	root.put(append(long(utf16.Encode([]rune("dir/name")), sum(s)), s)...)
	want = append(want, "ORPHAN.5")
	s = m.short("ORPHAN  6  ", 0x20, 0, 0)
	root.put(append(long(utf16.Encode([]rune(strings.Repeat("l", 260))), sum(s)), s)...)
	want = append(want, "ORPHAN.6")
	// Not shown.
	root.put(m.short("SECONDLABEL", 0x08, 0, 0), deleted)

	fs := m.open()
	got, err := names(fs, fs.Root())
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("names\n%q, want\n%q", got, want)
	}
	for _, name := range want {
		lookup(t, fs, fs.Root(), name)
	}
	for i, name := range want[:4] {
		ino := lookup(t, fs, fs.Root(), name)
		if string(content(t, fs, ino)) != name {
			t.Errorf("%q has another's content", name)
		}
		if other := lookup(t, fs, fs.Root(), fmt.Sprintf("s%07x.txt", i+1)); other != ino {
			t.Errorf("the short name of %q gives %d", name, other)
		}
		if other := lookup(t, fs, fs.Root(), strings.ToUpper(name)); other != ino {
			t.Errorf("%q in upper case gives %d", name, other)
		}
	}
	for _, name := range []string{"SECONDLABEL", "THE LABEL", "SECONDLA.BEL", "", ".", "..", "a/b", "\xE5ELETED", "of another name"} {
		if _, err := fs.Lookup(fs.Root(), name); !errors.Is(err, filesys.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if got := fs.Info().Label; got != "THE LABEL" {
		t.Errorf("label is %q", got)
	}
}

func TestTrapNamesThatNoPathHas(t *testing.T) {
	m := newMaker(t, 20<<20, "-F", "16")
	m.rooted.file("before", []byte("1"), false)
	m.rooted.put(m.short("A/B     TXT", 0x20, 0, 0), m.short("           ", 0x20, 0, 0), m.short("A\x00C        ", 0x20, 0, 0))
	m.rooted.file("after", []byte("2"), false)
	fs := m.open()
	got, err := names(fs, fs.Root())
	if !slices.Equal(got, []string{"before", "after"}) || !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("%q, %v", got, err)
	}
	lookup(t, fs, fs.Root(), "AFTER")
	// What is absent may be what was lost.
	if _, err := fs.Lookup(fs.Root(), "absent"); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("lookup of an absent name: %v", err)
	}
}

func TestTrapSameNameTwice(t *testing.T) {
	m := newMaker(t, 20<<20, "-F", "16")
	m.rooted.file("Name", []byte("first"), false)
	m.rooted.file("name", []byte("second"), false)
	m.rooted.file("Name", []byte("third"), false)
	m.rooted.file("S0000001.TXT", []byte("fourth"), false)
	fs := m.open()
	for name, want := range map[string]string{"Name": "first", "name": "second", "NAME": "first", "S0000001.TXT": "fourth", "s0000001.txt": "fourth", "S0000002.TXT": "second"} {
		if got := content(t, fs, lookup(t, fs, fs.Root(), name)); string(got) != want {
			t.Errorf("%s gives the %s", name, got)
		}
	}
	if got, err := names(fs, fs.Root()); len(got) != 4 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTrapEmptyFilesAndAttributes(t *testing.T) {
	m := newMaker(t, 20<<20, "-F", "16")
	m.rooted.file("empty", nil, false)
	m.rooted.entry("allocated but empty", 0x20, m.alloc(3, false)[0], 0)
	m.rooted.entry("read-only", 0x27, m.alloc(1, false)[0], 5)
	bad := m.short("BADTIMESTXT", 0, 0, 0)
	copy(bad[13:], []byte{250, 0, 0, 0x61, 0, 0x1F, 0x60}) // month 0 and more
	le.PutUint16(bad[22:], 0)
	le.PutUint16(bad[24:], (2023-1980)<<9|2<<5|30)
	m.rooted.put(bad)
	fs := m.open()
	seen := map[uint64]bool{1: true}
	for name, mode := range map[string]uint32{"empty": 0o100644, "allocated but empty": 0o100644, "read-only": 0o100444} {
		a, err := fs.Attr(lookup(t, fs, fs.Root(), name))
		must(t, err)
		if seen[a.Ino] || a.Mode != mode || a.Nlink != 1 {
			t.Errorf("%s: %+v", name, a)
		}
		seen[a.Ino] = true
		for _, c := range []struct{ got, want time.Time }{
			{a.Btime, time.Date(2021, 2, 28, 13, 37, 59, 500e6, time.UTC)},
			{a.Atime, time.Date(2023, 12, 31, 0, 0, 0, 0, time.UTC)},
			{a.Mtime, time.Date(2022, 6, 1, 23, 59, 58, 0, time.UTC)}, {a.Ctime, a.Mtime},
		} {
			if !c.got.Equal(c.want) {
				t.Errorf("%s: time %v, want %v", name, c.got, c.want)
			}
		}
		if strings.Contains(name, "empty") {
			if b := content(t, fs, a.Ino); len(b) != 0 || a.Blocks != 0 {
				t.Errorf("%s: %q, %d blocks", name, b, a.Blocks)
			}
		}
	}
	a, err := fs.Attr(lookup(t, fs, fs.Root(), "BADTIMES.TXT"))
	must(t, err)
	if !a.Btime.IsZero() || !a.Mtime.IsZero() || !a.Atime.IsZero() {
		t.Errorf("times that are none: %+v", a)
	}
}

// TestTrapFragments: files whose clusters are all apart, of more runs than are
// remembered.
func TestTrapFragments(t *testing.T) {
	for _, c := range []struct {
		args string
		size int64
		n    int
	}{
		{"-F 12 -s 1", 2 << 20, 3000}, {"-F 16 -s 1", 20 << 20, 30000}, {"-F 32 -s 1", 60 << 20, 70000}, {"-F 32 -s 128 -S 4096", 40 << 20, 9},
	} {
		m := newMaker(t, c.size, strings.Fields(c.args)...)
		want := bytes.Repeat(noise[:1<<20-1], 60)[:int64(c.n)*m.size-100]
		m.rooted.file("fragments", want, true)
		m.rooted.file("contiguous", want[:m.size*5/2], false)
		fs := m.open()
		ino := lookup(t, fs, fs.Root(), "fragments")
		if !bytes.Equal(content(t, fs, ino), want) {
			t.Errorf("%s: wrong content", c.args)
		}
		f, err := fs.Open(ino)
		must(t, err)
		for range 300 {
			off := m.rand.Int64N(int64(len(want)))
			p := make([]byte, m.rand.IntN(10000))
			n, err := f.ReadAt(p, off)
			if err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:off+int64(n)]) || n < len(p) && off+int64(n) < int64(len(want)) {
				t.Fatalf("%s: %d of %d bytes at %d, %v", c.args, n, len(p), off, err)
			}
			if off+int64(n) < int64(len(want)) {
				at, n, err := f.(filesys.Stored).Stored(off)
				if err != nil || at.Len != n || !bytes.Equal(m.b[at.Off:at.Off+n], want[off:off+n]) {
					t.Fatalf("%s: byte %d is stored at %v, %d, %v", c.args, off, at, n, err)
				}
			}
		}
		if got := fs.Info(); got.Size != int64(m.count)*m.size || !strings.HasPrefix(got.Type, "fat") {
			t.Errorf("%s: %+v", c.args, got)
		}
		fstest.Exercise(t, fs, 1000)
		if m.size < 1<<19 {
			m.fsck()
		}
	}
}

func TestTrapLargeDirectory(t *testing.T) {
	m := newMaker(t, 60<<20, "-F", "32", "-s", "1")
	const n = 20000
	d := m.rooted.folder("large", n*3*32/512+1, true)
	for i := range n {
		d.file(fmt.Sprintf("entry number %d", i), noise[:i%2], false)
	}
	fs := m.open()
	dir := lookup(t, fs, fs.Root(), "large")
	got, err := names(fs, dir)
	must(t, err)
	if len(got) != n {
		t.Fatalf("%d entries", len(got))
	}
	for i, name := range got {
		if name != fmt.Sprintf("entry number %d", i) {
			t.Fatalf("entry %d is %q", i, name)
		}
		a, err := fs.Attr(lookup(t, fs, dir, name))
		if err != nil || a.Size != int64(i%2) {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	m.fsck()
}

func TestTrapParentIsSearched(t *testing.T) {
	for _, kind := range []string{"16", "32"} {
		m := newMaker(t, 30<<20, "-F", kind, "-s", map[string]string{"16": "2", "32": "1"}[kind])
		a := m.rooted.folder("a", 2, true)
		a.folder("b", 1, true).folder("c", 1, true)
		m.rooted.folder("x", 1, true).folder("y", 1, true)
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
}

func TestTrapParallelReaders(t *testing.T) {
	m := newMaker(t, 40<<20, "-F", "32", "-s", "1")
	for i := range 8 {
		m.rooted.folder(fmt.Sprint("d", i), 3, true).file("file", noise[i:i+100000], true)
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
		go func() {
			err := func() error {
				d, err := fs.Lookup(1, fmt.Sprint("d", k%8))
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
				if !bytes.Equal(b, noise[k%8:k%8+100000]) {
					return fmt.Errorf("wrong content, %v", err)
				}
				fs.Info()
				_, err = fs.Parent(d)
				return err
			}()
			done <- err
		}()
	}
	for range 16 {
		must(t, <-done)
	}
	close(read)
	must(t, <-done)
}

// TestForget: what was kept is let go of, and changes no answer.
func TestForget(t *testing.T) {
	m := newMaker(t, 40<<20, "-F", "32", "-s", "1")
	d := m.rooted.folder("d", 2, true)
	d.folder("e", 1, true).file("file", noise[:100000], true)
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
