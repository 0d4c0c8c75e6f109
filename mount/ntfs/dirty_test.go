package ntfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestLive: an image that is copied from under a writer shows what had been
// written before, and of the rest nothing that was never written: a file is there
// or not, with its content up to some point, or an error says that it cannot be
// read.
func TestLive(t *testing.T) {
	h := fstest.NewHost(t, 64<<20)
	image := filepath.Join(h.Dir, "image")
	fstest.Run(t, "cp", "--sparse=never", mkntfs(t, 32<<20, "-c", "4096"), image)
	dir, unmount := mount(t, image, "")
	defer unmount()
	const settled = 300
	write := func(d string, i int64) {
		must(t, os.WriteFile(fmt.Sprintf("%s/%s/file %d", dir, d, i), fileContent(i), 0o644))
	}
	must(t, os.Mkdir(dir+"/settled", 0o755))
	must(t, os.Mkdir(dir+"/live", 0o755))
	for i := range int64(settled) {
		write("settled", i)
	}
	d, err := os.Open(dir)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
	var stop atomic.Bool
	var wg sync.WaitGroup
	written := make(chan int64, 1000)
	wg.Go(func() {
		defer close(written)
		for i := int64(0); i < 1000 && !stop.Load(); i++ {
			write("live", i)
			written <- i
		}
	})
	var images []string
	for i := range written {
		if i%50 == 10 && len(images) < 4 {
			images = append(images, h.Copy(t, image))
		}
		if len(images) == 4 {
			stop.Store(true)
		}
	}
	wg.Wait()
	for _, image := range images {
		fs := openImage(t, image)
		checkLive(t, fs, "settled", settled)
		t.Log(checkLive(t, fs, "live", 0), "live files, warnings:", fs.Info().Warnings)
	}
}

// fileContent is what file i has.
func fileContent(i int64) []byte {
	n := (i*7919)%20000 + 1
	return noise[i*131%500000:][:n]
}

// checkLive compares what can be read.
func checkLive(t *testing.T, fs filesys.FS, dir string, settled int64) (read int) {
	d, err := fs.Lookup(fs.Root(), dir)
	must(t, err)
	seen := map[string]bool{}
	err = fs.ReadDir(d, 0, func(e filesys.DirEntry) bool {
		var i int64
		if _, err := fmt.Sscanf(e.Name, "file %d", &i); err != nil || i < 0 {
			t.Errorf("entry %q", e.Name)
			return true
		}
		seen[e.Name] = true
		want := fileContent(i)
		f, err := fs.Open(e.Ino)
		if err == nil {
			got := make([]byte, f.Size())
			if n, _ := f.ReadAt(got, 0); n < len(got) {
				err = fmt.Errorf("%d of %d bytes: %w", n, len(got), filesys.ErrCorrupt)
			} else if len(got) > len(want) || i < settled && len(got) < len(want) ||
				!bytes.Equal(bytes.TrimRight(got, "\x00"), bytes.TrimRight(want[:len(bytes.TrimRight(got, "\x00"))], "\x00")) {
				t.Errorf("%q has %d bytes that were never written there", e.Name, len(got))
			} else {
				read++
			}
		}
		if err != nil && (i < settled || !errors.Is(err, filesys.ErrCorrupt)) {
			t.Errorf("%q: %v", e.Name, err)
		}
		return true
	})
	if err != nil && (settled > 0 || !errors.Is(err, filesys.ErrCorrupt)) {
		t.Error(err)
	}
	for i := range settled {
		if !seen[fmt.Sprintf("file %d", i)] {
			t.Errorf("file %d is missing", i)
		}
	}
	return read
}
