package ext4_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/mount/ext4"
	"cairn/mount/filesys/fstest"
	"cairn/mount/jbd2/dirtytest"
)

// TestDirty: an image that was copied from under a running mount shows what the
// kernel shows after it replayed the log of another copy and deleted what was
// open without a name.
func TestDirty(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, c := range dirtytest.Configs {
		t.Run(c.Name, func(t *testing.T) {
			image := dirtytest.Make(t, c, rng)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			fs, err := ext4.Open(f, int64(c.SizeMiB)<<20)
			if err != nil {
				t.Fatal(err)
			}
			warnings := strings.Join(fs.Info().Warnings, "\n")
			if !strings.Contains(warnings, "replayed in memory") {
				t.Errorf("warnings: %s", warnings)
			}
			kernel, _ := fstest.Mount(t, fstest.Copy(t, image), c.Type, true, "")
			fstest.Compare(t, fs, kernel, fstest.Ignore{})
			fstest.CompareStatfs(t, fs, kernel)
		})
	}
}
