package luks_test

import (
	"bytes"
	"errors"
	"testing"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/luks"
)

// failing fails the read number n.
type failing struct {
	*bytes.Reader
	n int
}

var errDevice = errors.New("the device is away")

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.n--; f.n == -1 {
		return 0, errDevice
	}
	return f.Reader.ReadAt(p, off)
}

// TestDeviceErrors: what the device says is passed on, and neither taken for
// damage nor for a wrong secret.
func TestDeviceErrors(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		b := volume(t, version)
		for n := 0; ; n++ {
			r := &failing{bytes.NewReader(b), n}
			d, err := luks.Open(blockdev.Disk(0, r, int64(len(b))), []byte(secret))
			if err == nil && r.n >= 0 {
				p := make([]byte, 3000)
				r.n = 1
				if n, err := d.ReadAt(p, 100); n != 412 || !errors.Is(err, errDevice) {
					t.Errorf("LUKS%s: %d, %v", version, n, err)
				}
				break
			}
			if !errors.Is(err, errDevice) || errors.Is(err, filesys.ErrCorrupt) || errors.Is(err, luks.ErrSecret) {
				t.Errorf("LUKS%s: read %d fails: %v", version, n, err)
			}
		}
	}
}
