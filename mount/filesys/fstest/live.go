package fstest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is a directory for images of guests that are at work: a file system of
// its own, which is frozen while an image on it is copied, so that the copy is
// what the guest's disk held at one moment, as after a power cut.
type Host struct {
	Dir string
	dir *os.File
}

// NewHost makes a host for images of size bytes in all, until the test ends.
// Guests on it must be unmounted before: make the host first.
func NewHost(t testing.TB, size int64) *Host {
	t.Helper()
	host := filepath.Join(TempDir(t), "host")
	if err := os.WriteFile(host, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(host, size+size/8+16<<20); err != nil {
		t.Fatal(err)
	}
	Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", host)
	dir, _ := Mount(t, host, "ext4", false, "")
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &Host{dir, f}
}

// Copy copies image, a file of the host, as it is now.
func (h *Host) Copy(t testing.TB, image string) string {
	t.Helper()
	const freeze, thaw = 0xC0045877, 0xC0045878 // FIFREEZE and FITHAW
	if err := unix.IoctlSetInt(int(h.dir.Fd()), freeze, 0); err != nil {
		t.Fatalf("freeze: %v", err)
	}
	defer func() {
		if err := unix.IoctlSetInt(int(h.dir.Fd()), thaw, 0); err != nil {
			t.Errorf("thaw: %v", err)
		}
	}()
	return Copy(t, image)
}
