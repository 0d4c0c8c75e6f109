package fat_test

import (
	"bytes"
	"errors"
	"testing"

	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// failing fails the read number n, and those behind it if forever.
type failing struct {
	*bytes.Reader
	n       int
	forever bool
}

var errDevice = errors.New("the device is away")

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.n--; f.n == -1 || f.n < 0 && f.forever {
		return 0, errDevice
	}
	return f.Reader.ReadAt(p, off)
}

// TestDeviceErrors: what the device says is passed on, wherever it happens, is
// not taken for damage, and is forgotten once the device is back.
func TestDeviceErrors(t *testing.T) {
	m := newMaker(t, 20<<20, "-F", "16")
	m.rooted.file("file", noise[:50000], true)
	m.rooted.folder("directory", 2, true).file("below", noise[:50000], true)
	want := fstest.TakeSnapshot(m.open(), true)
	wantInfo := m.open().Info()
	for n := 0; ; n++ {
		r := &failing{bytes.NewReader(m.b), n / 2, n%2 == 0}
		fs, err := fat.Open(r, int64(len(m.b)), filesys.Options{})
		if err != nil {
			if !errors.Is(err, errDevice) || errors.Is(err, filesys.ErrCorrupt) {
				t.Fatalf("read %d fails: %v", n, err)
			}
			continue
		}
		got := fstest.TakeSnapshot(fs, true)
		for path, err := range got.Errs {
			if !errors.Is(err, errDevice) || errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("read %d fails: %s: %v", n, path, err)
			}
		}
		for path, digest := range want.Digests {
			if got.Digests[path] != digest && !got.Excused(path) {
				t.Errorf("read %d fails: %s differs in silence", n, path)
			}
		}
		fs.Info()
		ended := r.n > 0
		r.n = 1 << 30
		again := fstest.TakeSnapshot(fs, true)
		for path, digest := range want.Digests {
			if again.Digests[path] != digest {
				t.Errorf("read %d has failed: %s still differs: %v", n, path, again.Errs[path])
			}
		}
		if info := fs.Info(); info.Free != wantInfo.Free || len(info.Warnings) > 0 || info.Label != wantInfo.Label {
			t.Errorf("read %d has failed: %+v", n, info)
		}
		if ended {
			break
		}
	}
}
