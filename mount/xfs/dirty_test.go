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

// TestUnlinkedInCircles: a list of inodes without names that runs in circles is
// counted once, and costs no more.
func TestUnlinkedInCircles(t *testing.T) {
	image, err := os.ReadFile(dirtytest.Make(t, dirtytest.Configs[0], dirtyRand(t)))
	must(t, err)
	ag := be.Uint32(image[88:]) - 1
	block := be.Uint32(image[84:]) - 8 // a place that nothing else uses
	agino := block << image[123]
	ino := uint64(ag)<<(image[124]+image[123]) | uint64(agino)
	agi := image[int(ag*be.Uint32(image[84:]))<<image[120]+2*int(be.Uint16(image[102:])):][:be.Uint16(image[102:])]
	in := image[inodeOffset(image, ino):][:512]
	clear(in)
	copy(in, "IN\x81\xa4\x03\x02") // a regular file
	copy(in[160:], image[32:48])
	put64(152, ino)(in)
	put32(96, agino)(in)
	put64(112, 1<<62)(in) // newer than the log
	le.PutUint32(in[100:], crc(in, 100))
	free := func(first uint32) uint64 {
		put32(16, 1<<20)(agi)
		put32(40, first)(agi)
		put64(320, 1<<62)(agi)
		le.PutUint32(agi[312:], crc(agi, 312))
		return openBytes(t, image).Info().FilesFree
	}
	if without, with := free(1<<32-1), free(agino); with != without+1 {
		t.Errorf("%d inodes are free, %d with one that was open without a name", without, with)
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
	if fs.Forget(); fs.Kept() != 0 {
		t.Errorf("%d bytes are kept", fs.Kept())
	}
	// Linux also frees what is set aside for copies of shared blocks, 32 of them
	// for a file at least.
	var st unix.Statfs_t
	must(t, unix.Statfs(kernel, &st))
	info := fs.Info()
	off := int64(st.Bfree)*st.Bsize - info.Free
	if off < -info.Size/200 || off > max(info.Size/50, 16*32*int64(info.BlockSize)) || info.Size != int64(st.Blocks)*st.Bsize {
		t.Errorf("%d bytes are free of %d, want %d of %d", info.Free, info.Size, int64(st.Bfree)*st.Bsize, int64(st.Blocks)*st.Bsize)
	}
}
