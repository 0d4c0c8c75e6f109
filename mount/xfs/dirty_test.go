package xfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
	"cairn/mount/xfslog/dirtytest"
)

// TestDirty: an image that was copied from under a running mount shows what the
// kernel shows after it replayed the log of another copy and deleted what was
// open without a name.
func TestDirty(t *testing.T) {
	rng := dirtyRand(t)
	for _, c := range dirtytest.Configs {
		switch c.Name { // package xfslog tries all of them
		case "defaults", "everything on", "many groups, 1k", "16k blocks":
			t.Run(c.Name, func(t *testing.T) {
				compareDirty(t, dirtytest.Make(t, c, rng))
			})
		}
	}
}

// TestLive: the same for images of a guest that was in the middle of its work.
func TestLive(t *testing.T) {
	rng := dirtyRand(t)
	images := dirtytest.Live(t, dirtytest.Configs[0], 2, rng)
	// The log of either of two states tells of inodes that differ, too.
	var states [][]byte
	var opened []*xfs.FS
	var told []map[uint64]string
	for _, image := range images {
		b, err := os.ReadFile(image)
		must(t, err)
		fs := openBytes(t, b)
		states, opened, told = append(states, b), append(opened, fs), append(told, answers(t, fs))
	}
	for i := range states {
		for j := range states {
			checkDiffer(t, fmt.Sprintf("states %d and %d", i, j), opened[i], opened[j], changedRanges(states[i], states[j]),
				told[i], told[j])
		}
	}
	for _, image := range images {
		compareDirty(t, image)
	}
}

func dirtyRand(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func compareDirty(t *testing.T, image string) {
	t.Helper()
	defer os.Remove(image)
	fs := openImage(t, image)
	warnings := strings.Join(fs.Info().Warnings, "\n")
	t.Log(warnings)
	if !strings.Contains(warnings, "was not unmounted") {
		t.Error("it says nothing of the log")
	}
	kernel, unmount := fstest.Mount(t, fstest.Copy(t, image), "xfs", true, "")
	defer unmount()
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	// Linux also frees what is set aside for copies of shared blocks.
	var st unix.Statfs_t
	must(t, unix.Statfs(kernel, &st))
	info := fs.Info()
	off := int64(st.Bfree)*st.Bsize - info.Free
	if off < -info.Size/200 || off > info.Size/50 || info.Size != int64(st.Blocks)*st.Bsize {
		t.Errorf("%d bytes are free of %d, want %d of %d", info.Free, info.Size, int64(st.Bfree)*st.Bsize, int64(st.Blocks)*st.Bsize)
	}
}
