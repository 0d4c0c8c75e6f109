package xfslog_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
	"cairn/mount/xfslog/dirtytest"
)

func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestKernelLogs: an image that was copied from under a running mount shows what
// the kernel shows after it replayed the log of another copy.
func TestKernelLogs(t *testing.T) {
	for _, c := range dirtytest.Configs {
		t.Run(c.Name, func(t *testing.T) {
			image := dirtytest.Make(t, c, seeded(t))
			compareDirty(t, c, image)
			checkRepair(t, image)
		})
	}
}

// TestLive: the same for images of a guest that was in the middle of its work.
func TestLive(t *testing.T) {
	for _, c := range dirtytest.Configs[:3] {
		t.Run(c.Name, func(t *testing.T) {
			for _, image := range dirtytest.Live(t, c, 2, seeded(t)) {
				compareDirty(t, c, image)
			}
		})
	}
}

func compareDirty(t *testing.T, c dirtytest.Config, image string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := xfs.Open(f, int64(c.SizeMiB)<<20, filesys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	warnings := strings.Join(fs.Info().Warnings, "\n")
	t.Log(warnings)
	if !strings.Contains(warnings, "was not unmounted") {
		t.Error("it says nothing of the log")
	}
	kernel, unmount := fstest.Mount(t, fstest.Copy(t, image), "xfs", true, "nouuid")
	defer unmount()
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
}
