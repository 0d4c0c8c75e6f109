package ext4_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// benchFS is a volume in memory with a large file and a directory of 10,000
// entries.
func benchFS(b *testing.B, args string) *ext4.FS {
	image := mke2fs(b, 256<<20, strings.Fields(args)...)
	dir, unmount := fstest.Mount(b, image, "ext4", false, "")
	f, err := os.Create(filepath.Join(dir, "large"))
	must(b, err)
	for range 128 {
		_, err := f.Write(noise)
		must(b, err)
	}
	must(b, f.Close())
	must(b, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(b, os.WriteFile(filepath.Join(dir, "d/first"), nil, 0o644))
	for i := range 10000 {
		must(b, os.Link(filepath.Join(dir, "d/first"), filepath.Join(dir, fmt.Sprintf("d/entry number %d", i))))
	}
	unmount()
	content, err := os.ReadFile(image)
	must(b, err)
	fs, err := ext4.Open(bytes.NewReader(content), int64(len(content)), filesys.Options{})
	must(b, err)
	return fs
}

func BenchmarkReadSequential(b *testing.B) {
	for _, kind := range []string{"ext4", "ext3"} {
		b.Run(kind, func(b *testing.B) {
			f := open(b, benchFS(b, "-t "+kind+" -b 4096"), "large")
			p := make([]byte, 128<<10)
			b.SetBytes(int64(len(p)))
			off := int64(0)
			for b.Loop() {
				if off+int64(len(p)) > f.Size() {
					off = 0
				}
				if _, err := f.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
				off += int64(len(p))
			}
		})
	}
}

func BenchmarkReadRandom4K(b *testing.B) {
	f := open(b, benchFS(b, "-t ext4 -b 4096"), "large")
	p := make([]byte, 4096)
	r := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		if _, err := f.ReadAt(p, r.Int64N(f.Size()/4096)*4096); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	fs := benchFS(b, "-t ext4 -b 4096")
	d := walk(b, fs, "d")
	i := 0
	for b.Loop() {
		i = (i + 7919) % 10000
		if _, err := fs.Lookup(d, fmt.Sprintf("entry number %d", i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAttr(b *testing.B) {
	fs := benchFS(b, "-t ext4 -b 4096")
	ino := walk(b, fs, "d/first")
	for b.Loop() {
		if _, err := fs.Attr(ino); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadDir10000(b *testing.B) {
	fs := benchFS(b, "-t ext4 -b 4096")
	d := walk(b, fs, "d")
	for b.Loop() {
		n := 0
		err := fs.ReadDir(d, 0, func(filesys.DirEntry) bool { n++; return true })
		if err != nil || n != 10001 {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	image := mke2fs(b, 64<<20, "-t", "ext4", "-b", "4096")
	content, err := os.ReadFile(image)
	must(b, err)
	for b.Loop() {
		if _, err := ext4.Open(bytes.NewReader(content), int64(len(content)), filesys.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
