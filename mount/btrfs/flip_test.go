package btrfs_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestFlippedBits: no flipped bit, be it in metadata or in a file, changes an
// answer in silence, but for files without checksums.
func TestFlippedBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, c := range []struct{ args, options string }{
		{"-d single -m single", "compress=zstd"},
		{"--mixed -n 4096 --csum xxhash", "compress=lzo"},
	} {
		v := mkfs(t, 1, 64+66*strings.Count(c.args, "-m"), c.args)
		dir, unmount := v.mount(t, false, c.options)
		fill(t, dir, false)
		must(t, os.RemoveAll(filepath.Join(dir, "extents/nocow")))
		must(t, os.Remove(filepath.Join(dir, "sparse/far")))
		unmount()
		b, err := os.ReadFile(v.images[0])
		must(t, err)
		for _, contents := range []bool{false, true} {
			fstest.FlipBits(t, b, openReader, contents, 20, seed)
		}
	}
}

func openReader(r io.ReaderAt, size int64) (filesys.FS, error) {
	fs, err := btrfs.Open([]btrfs.Device{disk{r, size}}, filesys.Options{})
	if err != nil {
		return nil, err
	}
	return fs, nil
}
