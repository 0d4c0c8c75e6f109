package ntfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestIndexLoop: an index block that is its own child ends in an error.
func TestIndexLoop(t *testing.T) {
	image := mkntfs(t, 16<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.Mkdir(dir+"/d", 0o755))
	for i := range 20 {
		must(t, os.WriteFile(fmt.Sprintf("%s/d/entry %d of the directory", dir, i), nil, 0o644))
	}
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	name := utf16le("entry 7 of the directory")
	changed := 0
	for at := 0; at+4096 <= len(b); at += 4096 {
		node := b[at : at+4096]
		if string(node[:4]) != "INDX" || !bytes.Contains(node, name) {
			continue
		}
		off := 24 + int(le.Uint32(node[24:]))
		for le.Uint16(node[off+12:])&2 == 0 {
			off += int(le.Uint16(node[off+8:]))
		}
		// The last entry gets a child: the block itself.
		le.PutUint16(node[off+8:], 24)
		le.PutUint16(node[off+12:], 3)
		copy(node[off+16:off+24], node[16:24])
		le.PutUint32(node[28:], le.Uint32(node[28:])+8)
		changed++
	}
	if changed == 0 {
		t.Fatal("no index block was found")
	}
	fs, _, err := openBytes(b)
	must(t, err)
	if _, err := fs.Lookup(walk(t, fs, "d"), "zzz"); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("lookup: %v", err)
	}
}

// TestParentLoop: a junction in a directory that is its own parent.
func TestParentLoop(t *testing.T) {
	image := mkntfs(t, 16<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.MkdirAll(dir+"/d/j", 0o755))
	setReparse(t, dir+"/d/j", 0xA0000003, junctionData(`\??\C:\d`))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	fs, _, err := openBytes(b)
	must(t, err)
	d, j := walk(t, fs, "d"), walk(t, fs, "d/j")
	rec := recordAt(b, int64(d))
	i := bytes.Index(rec, []byte{5, 0, 0, 0, 0, 0, 5, 0})
	le.PutUint64(rec[i:], d|uint64(le.Uint16(rec[0x10:]))<<48)
	fs, _, err = openBytes(b)
	must(t, err)
	if _, err := fs.Readlink(j); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("readlink: %v", err)
	}
}

// TestKeptLinks: what inodes keep of long reparse points counts.
func TestKeptLinks(t *testing.T) {
	image := mkntfs(t, 16<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.WriteFile(dir+"/near", nil, 0o644))
	must(t, os.WriteFile(dir+"/link", nil, 0o644))
	const n = 15 << 10
	setReparse(t, dir+"/link", 0xA000000C, append(symlinkData("nowhere", 1), make([]byte, n)...))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	fs, _, err := openBytes(b)
	must(t, err)
	link := walk(t, fs, "link") // by way of records and index blocks
	walk(t, fs, "near")
	before := fs.Kept()
	_, err = fs.Attr(link)
	must(t, err)
	if kept := fs.Kept() - before; kept < n {
		t.Errorf("an inode with %d bytes counts as %d", n, kept)
	}
}

// TestConcurrent: everyone reads everything at the same time.
func TestConcurrent(t *testing.T) {
	b := fstest.SeedImage(t, "compressed")
	fs, _, err := openBytes(b)
	must(t, err)
	want := fstest.TakeSnapshot(fs, true)
	fs, _, err = openBytes(b)
	must(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { same(t, fs, want) })
	}
	wg.Wait()
}

// TestReadError: an error of the disk is passed on, and not taken for damage.
func TestReadError(t *testing.T) {
	b := fstest.SeedImage(t, "plain")
	broken := errors.New("the disk is broken")
	r := &failing{b: b, err: broken}
	fs, err := openReader(r, int64(len(b)))
	must(t, err)
	f := walk(t, fs, "f")
	r.fail = true
	file, err := fs.Open(f)
	must(t, err)
	if _, err := file.ReadAt(make([]byte, 100), 0); !errors.Is(err, broken) || errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	if _, err := openReader(r, int64(len(b))); !errors.Is(err, broken) {
		t.Errorf("open: %v", err)
	}
}

// TestNotRemembered: what could not be read once is read the next time, and until
// then it is an error rather than another answer.
func TestNotRemembered(t *testing.T) {
	image := mkntfs(t, 16<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.WriteFile(dir+"/Caf\u00e8", nil, 0o644))
	must(t, os.WriteFile(dir+"/link", nil, 0o644))
	setReparse(t, dir+"/link", 0xA000000C, symlinkData("caf\u00c8", 1))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	sound, _, err := openBytes(b)
	must(t, err)
	for _, num := range []int64{6, 10} { // $Bitmap, $UpCase
		lost := &lostAt{bytes.NewReader(b), dataAt(b, num)}
		fs, err := openReader(lost, int64(len(b)))
		must(t, err)
		free := fs.Info().Free
		if target, err := fs.Readlink(walk(t, fs, "link")); num == 10 && err == nil {
			t.Errorf("without $UpCase: the link leads to %q", target)
		}
		lost.at = -1
		if got, err := fs.Readlink(walk(t, fs, "link")); err != nil || got != "Caf\u00e8" {
			t.Errorf("file %d was away: the link leads to %q, %v", num, got, err)
		}
		if got := fs.Info().Free; got != sound.Info().Free || num == 6 && free != 0 {
			t.Errorf("file %d was away: %d bytes are free, and then %d", num, free, got)
		}
	}
}

// dataAt is where in an image the content of a record begins.
func dataAt(b []byte, num int64) int64 {
	rec := recordAt(b, num)
	i := bytes.Index(rec, []byte{0x80, 0, 0, 0})
	run := rec[i+int(le.Uint16(rec[i+32:])):]
	n, at := int(run[0]&15), int64(0)
	for j := int(run[0] >> 4); j > 0; j-- {
		at = at<<8 | int64(run[n+j])
	}
	return at * int64(le.Uint16(b[0x0B:])) * int64(b[0x0D])
}

type failing struct {
	b    []byte
	err  error
	fail bool
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.fail {
		return 0, f.err
	}
	return bytes.NewReader(f.b).ReadAt(p, off)
}
