package xfslog_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
	"cairn/mount/xfslog"
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
			if n := rounds(t, image); n < 2 && strings.Contains(c.Name, "wraps") {
				t.Errorf("the log is in round %d", n)
			}
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

// rounds is the number of the round in which the start of the log was written.
func rounds(t *testing.T, image string) uint32 {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 512)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	g, err := xfslog.ParseGeometry(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(p, g.LogOffset); err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint32(p); n != 0xFEEDBABE {
		return n
	}
	return binary.BigEndian.Uint32(p[4:])
}
