package btrfs_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"cairn/mount/filesys"
)

// BenchmarkRead reads files of 64 MiB one after the other, from memory.
func BenchmarkRead(b *testing.B) {
	for _, options := range []string{"", "nodatasum", "compress=zlib", "compress=lzo", "compress=zstd"} {
		b.Run("sequential "+options, func(b *testing.B) { benchRead(b, options, false) })
	}
	b.Run("random 4k", func(b *testing.B) { benchRead(b, "", true) })
	b.Run("random 4k compress=zstd", func(b *testing.B) { benchRead(b, "compress=zstd", true) })
}

func benchRead(b *testing.B, options string, random bool) {
	const size = 64 << 20
	v := mkfs(b, 1, 300, "")
	dir, unmount := v.mount(b, false, options)
	data := bytes.Repeat(noise, 64)
	if options != "" && options != "nodatasum" {
		data = bytes.Repeat(text(1<<20), 64)
	}
	writeFile(b, filepath.Join(dir, "file"), data)
	unmount()
	whole, err := os.ReadFile(v.images[0])
	must(b, err)
	fs, err := openReader(bytes.NewReader(whole), int64(len(whole)))
	must(b, err)
	f, err := fs.Open(walk(b, fs, "file"))
	must(b, err)
	if random {
		p := make([]byte, 4096)
		for b.Loop() {
			if _, err := f.ReadAt(p, rand.Int64N(size/4096)*4096); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	p := make([]byte, 1<<20)
	b.SetBytes(size)
	for b.Loop() {
		for off := int64(0); off < size; off += int64(len(p)) {
			if _, err := f.ReadAt(p, off); err != nil && err != io.EOF {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkList opens a file system and lists a directory of 20,000 files with
// their attributes.
func BenchmarkList(b *testing.B) {
	v := mkfs(b, 1, 130, "")
	dir, unmount := v.mount(b, false, "")
	must(b, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	for i := range 20000 {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("d/%d", i)), nil, 0o644))
	}
	unmount()
	whole, err := os.ReadFile(v.images[0])
	must(b, err)
	for b.Loop() {
		fs, err := openReader(bytes.NewReader(whole), int64(len(whole)))
		must(b, err)
		must(b, fs.ReadDir(walk(b, fs, "d"), 0, func(e filesys.DirEntry) bool {
			_, err := fs.Attr(e.Ino)
			must(b, err)
			return true
		}))
	}
}
