package ntfs_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/ntfs"
)

// openBytes opens an image in memory and gives its warnings.
func openBytes(b []byte) (*ntfs.FS, string, error) {
	fs, err := ntfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	if err != nil {
		return nil, "", err
	}
	return fs, strings.Join(fs.Info().Warnings, " "), nil
}

func openReader(r io.ReaderAt, size int64) (*ntfs.FS, error) {
	return ntfs.Open(r, size, filesys.Options{})
}

// image16 is a small volume with a few files.
func image16(t testing.TB) []byte {
	t.Helper()
	image := mkntfs(t, 16<<20, "-L", "label", "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, os.WriteFile(dir+"/d/f", noise[:100000], 0o644))
	must(t, os.WriteFile(dir+"/d/small", noise[:100], 0o644))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	return b
}

func TestBootSector(t *testing.T) {
	b := image16(t)
	fs, warnings, err := openBytes(b)
	must(t, err)
	blkid := func(field string) string {
		image := t.TempDir() + "/image"
		must(t, os.WriteFile(image, b, 0o644))
		return strings.TrimSpace(fstest.Run(t, "blkid", "-p", "-o", "value", "-s", field, image))
	}
	if info := fs.Info(); info.Type != "ntfs" || info.Label != "label" || info.UUID != blkid("UUID") || info.Label != blkid("LABEL") || warnings != "" {
		t.Errorf("%+v", info)
	}
	want := fstest.TakeSnapshot(fs, true)

	broken := bytes.Clone(b)
	broken[0x0D] = 3
	fs, warnings, err = openBytes(broken)
	must(t, err)
	if !strings.Contains(warnings, "backup at the end") {
		t.Errorf("warnings: %s", warnings)
	}
	same(t, fs, want)

	for name, c := range map[string]struct {
		change func(b []byte)
		is     error
	}{
		"no name":      {func(b []byte) { b[3] = 'M' }, filesys.ErrWrongType},
		"both damaged": {func(b []byte) { b[0x0D] = 3; b[len(b)-512+0x0D] = 3 }, filesys.ErrCorrupt},
		"truncated":    {func(b []byte) { b[0x2A] = 0xFF; b[len(b)-512] = 0; b[len(b)-512+3] = 0 }, filesys.ErrCorrupt},
		"version 9": {func(b []byte) {
			v := recordAt(b, 3)
			i := bytes.Index(v, []byte{0x70, 0, 0, 0, 0x28, 0, 0, 0})
			v[i+24+8] = 9
		}, filesys.ErrUnsupported},
	} {
		broken := bytes.Clone(b)
		c.change(broken)
		if _, _, err := openBytes(broken); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := openBytes(make([]byte, 100)); !errors.Is(err, filesys.ErrWrongType) {
		t.Errorf("a volume of 100 bytes: %v", err)
	}
}

// same checks that a volume shows what it showed before.
func same(t *testing.T, fs filesys.FS, want fstest.Snapshot) {
	t.Helper()
	got := fstest.TakeSnapshot(fs, true)
	if len(got.Errs) > 0 || len(got.Digests) != len(want.Digests) {
		t.Errorf("errors %v", got.Errs)
	}
	for path, digest := range want.Digests {
		if got.Digests[path] != digest {
			t.Errorf("%q differs", path)
		}
	}
}

// TestMirror: damage in any of the first records is made good from $MFTMirr.
func TestMirror(t *testing.T) {
	b := image16(t)
	fs, _, err := openBytes(b)
	must(t, err)
	want := fstest.TakeSnapshot(fs, true)
	for num := range int64(4) {
		for _, at := range []int{0, 300, 510} {
			broken := bytes.Clone(b)
			recordAt(broken, num)[at] ^= 0xFF
			fs, warnings, err := openBytes(broken)
			if at == 300 && err == nil && warnings == "" {
				continue // of what is there, nothing may be used
			}
			if err != nil || !strings.Contains(warnings, "$MFTMirr") {
				t.Errorf("byte %d of record %d: %v, %s", at, num, err, warnings)
				continue
			}
			same(t, fs, want)
		}
	}
}

// TestTorn: a record or index block that was written in part is an error, not an
// answer.
func TestTorn(t *testing.T) {
	b := image16(t)
	fs, _, err := openBytes(b)
	must(t, err)
	ino := walk(t, fs, "d/f")
	recordAt(b, int64(ino))[1022] ^= 1
	fs, _, err = openBytes(b)
	must(t, err)
	if _, err := fs.Attr(ino); !errors.Is(err, filesys.ErrCorrupt) || !strings.Contains(err.Error(), "torn") {
		t.Errorf("a torn record: %v", err)
	}
	at := bytes.Index(b, []byte("INDX"))
	for at >= 0 && le.Uint32(b[at+24+8:]) != 4096-24 {
		at += 4 + bytes.Index(b[at+4:], []byte("INDX"))
	}
	for ; at+4096 < len(b); at += 512 {
		if string(b[at:at+4]) == "INDX" {
			b[at+511] ^= 1
		}
	}
	if _, _, err = openBytes(b); err == nil {
		fs, _, _ := openBytes(b)
		err = fs.ReadDir(fs.Root(), 0, func(filesys.DirEntry) bool { return true })
	}
	if !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("a torn index block: %v", err)
	}
}

// TestStaleEntry: an entry whose file is gone is listed, has no attributes, and
// is not mistaken for the file that has its record now.
func TestStaleEntry(t *testing.T) {
	b := image16(t)
	fs, _, err := openBytes(b)
	must(t, err)
	ino := walk(t, fs, "d/f")
	rec := recordAt(b, int64(ino))
	rec[0x10]++ // its sequence number
	fs, _, err = openBytes(b)
	must(t, err)
	d := walk(t, fs, "d")
	if got := list(t, fs, d); len(got) != 2 {
		t.Errorf("entries %q", got)
	}
	must(t, fs.ReadDir(d, 0, func(e filesys.DirEntry) bool {
		if e.Name == "f" {
			if _, err := fs.Attr(e.Ino); !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("attributes: %v", err)
			}
		}
		return true
	}))
	if _, err := fs.Lookup(d, "f"); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("lookup: %v", err)
	}
}

// TestWarnings: a volume says what Windows left on it.
func TestWarnings(t *testing.T) {
	b := image16(t)
	// What Windows leaves in the log: a restart page with an open client.
	restart := func(flags, client uint16) func(b []byte) {
		return func(b []byte) {
			log := recordAt(b, 2)
			i := bytes.Index(log, []byte{0x80, 0, 0, 0})
			run := log[i+int(le.Uint16(log[i+32:])):]
			n, at := run[0]&15, uint64(0)
			for j := run[0] >> 4; j > 0; j-- {
				at = at<<8 | uint64(run[n+j])
			}
			p := b[at*4096:][:4096]
			clear(p)
			copy(p, "RSTR")
			le.PutUint16(p[4:], 30)
			le.PutUint16(p[6:], 9)
			le.PutUint32(p[16:], 4096)
			le.PutUint32(p[20:], 4096)
			le.PutUint16(p[24:], 0x30)
			p[30] = 1
			for i := 1; i < 9; i++ {
				p[i*512-2] = 1
			}
			le.PutUint16(p[0x30+12:], client)
			le.PutUint16(p[0x30+14:], flags)
		}
	}
	volumeFlag := func(flag byte) func(b []byte) {
		return func(b []byte) {
			for _, v := range [][]byte{recordAt(b, 3)} {
				i := bytes.Index(v, []byte{0x70, 0, 0, 0, 0x28, 0, 0, 0})
				v[i+24+10] |= flag
			}
		}
	}
	for want, change := range map[string]func(b []byte){
		"":                      restart(0, 0xFFFF),
		" ":                     restart(2, 0),
		"was not unmounted":     restart(0, 0),
		"marked dirty":          volumeFlag(1),
		"would upgrade":         volumeFlag(4),
		"($LogFile) is damaged": func(b []byte) { restart(0, 0)(b); log(b)[0] = 'X' },
	} {
		broken := bytes.Clone(b)
		change(broken)
		_, warnings, err := openBytes(broken)
		must(t, err)
		if want = strings.TrimSpace(want); want == "" && warnings != "" || !strings.Contains(warnings, want) {
			t.Errorf("%q: warnings %q", want, warnings)
		}
	}
	image := t.TempDir() + "/image"
	must(t, os.WriteFile(image, b, 0o644))
	dir, unmount := mount(t, image, "")
	must(t, os.WriteFile(dir+"/HIBERFIL.sys", append([]byte("HIBR"), make([]byte, 8188)...), 0o644))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	if _, warnings, err := openBytes(b); err != nil || !strings.Contains(warnings, "hibernated") {
		t.Errorf("%v, %s", err, warnings)
	}
	lost := &lostAt{bytes.NewReader(b), int64(bytes.Index(b, []byte("HIBR")))}
	if fs, err := openReader(lost, int64(len(b))); err != nil || !strings.Contains(strings.Join(fs.Info().Warnings, " "), "hibernated") {
		t.Errorf("where hiberfil.sys cannot be read: %v", err)
	}
	restart(0, 0xFFFF)(b)
	lost.at = int64(len(b)-len(log(b))) + 4096 // the second restart page, which may be the newer
	if fs, err := openReader(lost, int64(len(b))); err != nil || !strings.Contains(strings.Join(fs.Info().Warnings, " "), "cannot be told") {
		t.Errorf("where a restart page cannot be read: %v", err)
	}
}

// lostAt cannot read one byte.
type lostAt struct {
	io.ReaderAt
	at int64
}

func (l *lostAt) ReadAt(p []byte, off int64) (int, error) {
	if off <= l.at && l.at < off+int64(len(p)) {
		return 0, errors.New("lost")
	}
	return l.ReaderAt.ReadAt(p, off)
}

// log is where the log begins.
func log(b []byte) []byte {
	i := bytes.Index(b, []byte("RSTR"))
	return b[i:]
}
