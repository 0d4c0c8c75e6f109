package fstest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is a directory for images of guests that are at work. It lies on XFS,
// where a file is cloned at one moment, whatever is being written to it: the copy
// is what the guest's disk held then, as after a power cut.
//
// The file system is not frozen for that. While it is, whoever copies must not be
// made to reclaim memory: that can end in a guest's own file system, which waits
// for its disk, which waits for the thaw.
type Host struct {
	Dir string
}

// NewHost makes a host for images of size bytes in all, until the test ends.
// Guests on it must be unmounted before: make the host first.
func NewHost(t testing.TB, size int64) *Host {
	t.Helper()
	host := filepath.Join(TempDir(t), "host")
	if err := os.WriteFile(host, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Twice the size, for the clone; XFS is not made below 300 MiB.
	if err := os.Truncate(host, 2*size+320<<20); err != nil {
		t.Fatal(err)
	}
	Run(t, "mkfs.xfs", "-q", "-m", "reflink=1", host)
	dir, _ := Mount(t, host, "xfs", false, "")
	return &Host{dir}
}

// Copy copies image, a file of the host, as it is now.
func (h *Host) Copy(t testing.TB, image string) string {
	t.Helper()
	from, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	clone, err := os.CreateTemp(h.Dir, "clone")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(clone.Name())
	defer clone.Close()
	if err := unix.IoctlFileClone(int(clone.Fd()), int(from.Fd())); err != nil {
		t.Fatalf("clone %s: %v", image, err)
	}
	return Copy(t, clone.Name())
}
