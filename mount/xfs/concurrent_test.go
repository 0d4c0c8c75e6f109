package xfs_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// TestConcurrent: no cursor is shared between readers, and everyone's answers
// come from one cache.
func TestConcurrent(t *testing.T) {
	image := made(t, 32, "", func(dir string) {
		write(t, noise, dir, "file")
		must(t, unix.Setxattr(filepath.Join(dir, "file"), "user.large", noise[:30000], 0))
		for i := range 300 {
			write(t, []byte{byte(i)}, dir, fmt.Sprintf("file %d", i))
		}
	})
	b, err := os.ReadFile(image)
	must(t, err)
	fs := openBytes(t, b)
	ino := walk(t, fs, "file")
	f := open(t, fs, "file")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 0))
			p := make([]byte, 5000)
			for range 100 {
				off := r.Int64N(int64(len(noise)))
				n, err := f.ReadAt(p[:1+r.IntN(len(p)-1)], off)
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], noise[off:off+int64(n)]) {
					t.Errorf("read at %d: %d, %v", off, n, err)
				}
			}
			if v, err := fs.Xattr(ino, "user.large"); err != nil || !bytes.Equal(v, noise[:30000]) {
				t.Errorf("attribute: %v", err)
			}
			count := 0
			err := fs.ReadDir(fs.Root(), 0, func(e filesys.DirEntry) bool {
				if ino, err := fs.Lookup(fs.Root(), e.Name); err != nil || ino != e.Ino {
					t.Errorf("%q: %d, %v", e.Name, ino, err)
				}
				count++
				return true
			})
			if err != nil || count != 301 {
				t.Errorf("%d entries, %v", count, err)
			}
			fs.Info()
		})
	}
	wg.Wait()
}
