package blockstore

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sys/unix"
)

// onWrite calls f before every operation that changes something, with its
// number, and fails the operation if f does.
func onWrite(fs vfs.FS, f func(n int) error) vfs.FS {
	var n atomic.Int64
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		return f(int(n.Add(1)))
	}))
}

func newQuietRand(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }

// mountTmpfs mounts a file system of its own, which is unmounted at the end.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Fatalf("mount a tmpfs: %v: this test needs root", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// testLog counts what is logged.
type testLog struct {
	mu sync.Mutex
	n  int
}

func (l *testLog) Infof(string, ...any) {}

func (l *testLog) Errorf(string, ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
}

func (l *testLog) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}
