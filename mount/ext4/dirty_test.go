package ext4_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/jbd2/dirtytest"
)

// TestDirty: an image that was copied from under a running mount shows what the
// kernel shows after it replayed the log of another copy and deleted what was
// open without a name.
func TestDirty(t *testing.T) {
	rng := dirtyRand(t)
	for _, c := range dirtytest.Configs {
		t.Run(c.Name, func(t *testing.T) {
			compareDirty(t, c, dirtytest.Make(t, c, rng))
		})
	}
}

// TestLive: the same for images of a guest that was in the middle of its work.
func TestLive(t *testing.T) {
	rng := dirtyRand(t)
	for _, c := range dirtytest.Configs {
		switch c.Name {
		case "ext4", "ext4, small log that wraps", "ext3", "checksum v1, asynchronous commit":
			t.Run(c.Name, func(t *testing.T) {
				for _, image := range dirtytest.Live(t, c, 2, rng) {
					compareDirty(t, c, image)
				}
			})
		}
	}
}

func dirtyRand(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func compareDirty(t *testing.T, c dirtytest.Config, image string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := ext4.Open(f, int64(c.SizeMiB)<<20, filesys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	warnings := strings.Join(fs.Info().Warnings, "\n")
	t.Log(warnings)
	if !strings.Contains(warnings, "was not unmounted") {
		t.Error("it says nothing of the log")
	}
	kernel, unmount := fstest.Mount(t, fstest.Copy(t, image), c.Type, true, "")
	defer unmount()
	// The kernel sets the times of files whose truncation it finishes.
	finished := strings.Contains(warnings, "being truncated") && !strings.Contains(warnings, " 0 were being truncated")
	fstest.Compare(t, fs, kernel, fstest.Ignore{Times: finished})
	fstest.CompareStatfs(t, fs, kernel)
}

// TestIgnoreLog: the volume opens without its log, whatever that holds, and says
// so; with it, a damaged log is an error that names the way out.
func TestIgnoreLog(t *testing.T) {
	b := fstest.SeedImage(t, "dirty")
	size := int64(len(b))
	fs := must1(ext4.Open(bytes.NewReader(b), size, filesys.Options{IgnoreLog: true}))
	if w := strings.Join(fs.Info().Warnings, "\n"); !strings.Contains(w, "journal is ignored") {
		t.Errorf("warnings: %q", w)
	}
	magic := []byte{0xC0, 0x3B, 0x39, 0x98}
	first := bytes.Index(b, magic)
	b[first+12] ^= 0xff // the journal's own block size
	if _, err := ext4.Open(bytes.NewReader(b), size, filesys.Options{}); !errors.Is(err, filesys.ErrCorrupt) || !strings.Contains(err.Error(), "--ignore-log") {
		t.Errorf("a damaged journal: %v", err)
	}
	must1(ext4.Open(bytes.NewReader(b), size, filesys.Options{IgnoreLog: true}))
}
