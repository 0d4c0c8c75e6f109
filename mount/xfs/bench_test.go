package xfs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/xfs"
)

// benchImage has a directory of 20,000 files and a large file.
func benchImage(b *testing.B) []byte {
	b.Helper()
	image, err := os.ReadFile(made(b, 200, "", func(dir string) {
		must(b, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		for i := range 20000 {
			write(b, nil, dir, fmt.Sprintf("d/file number %d", i))
		}
		f, err := os.Create(filepath.Join(dir, "large"))
		must(b, err)
		for range 64 {
			_, err := f.Write(noise)
			must(b, err)
		}
		must(b, f.Close())
	}))
	must(b, err)
	return image
}

// BenchmarkList opens a volume, reads a directory of 20,000 and every inode.
func BenchmarkList(b *testing.B) {
	image := benchImage(b)
	r := &countingReader{r: bytes.NewReader(image)}
	for b.Loop() {
		fs, err := xfs.Open(r, int64(len(image)), filesys.Options{})
		must(b, err)
		must(b, fs.ReadDir(walk(b, fs, "d"), 0, func(e filesys.DirEntry) bool {
			_, err := fs.Attr(e.Ino)
			return err == nil
		}))
	}
	b.ReportMetric(float64(r.n.Load())/float64(b.N), "B-read/op")
}

// BenchmarkLookup finds names in a directory of 20,000.
func BenchmarkLookup(b *testing.B) {
	fs := openBytes(b, benchImage(b))
	d, i := walk(b, fs, "d"), 0
	for b.Loop() {
		_, err := fs.Lookup(d, fmt.Sprintf("file number %d", i%20000))
		must(b, err)
		i += 7
	}
}

// BenchmarkOpen reads the superblock, the log's end and the root directory.
func BenchmarkOpen(b *testing.B) {
	image := benchImage(b)
	r := &countingReader{r: bytes.NewReader(image)}
	for b.Loop() {
		_, err := xfs.Open(r, int64(len(image)), filesys.Options{})
		must(b, err)
	}
	b.ReportMetric(float64(r.n.Load())/float64(b.N), "B-read/op")
}

// BenchmarkRead reads a large file in pieces of 128 KiB.
func BenchmarkRead(b *testing.B) {
	fs := openBytes(b, benchImage(b))
	f := open(b, fs, "large")
	p := make([]byte, 128<<10)
	b.SetBytes(f.Size())
	for b.Loop() {
		for off := int64(0); off < f.Size(); off += int64(len(p)) {
			if _, err := f.ReadAt(p, off); err != nil && err != io.EOF {
				b.Fatal(err)
			}
		}
	}
}
