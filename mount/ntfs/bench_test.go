package ntfs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/ntfs"
)

// benchVolume has a directory of 20,000 files, and a program as plain, LZNT1 and
// system-compressed files.
func benchVolume(b *testing.B) *ntfs.FS {
	program, err := os.ReadFile("/bin/bash")
	must(b, err)
	image := mkntfs(b, 100<<20)
	dir, unmount := mount(b, image, "compression,streams_interface=windows")
	must(b, os.Mkdir(dir+"/many", 0o755))
	for i := range 20000 {
		must(b, os.WriteFile(fmt.Sprintf("%s/many/file number %d", dir, i), nil, 0o644))
	}
	must(b, os.WriteFile(dir+"/plain", bytes.Repeat(program, 8), 0o644))
	must(b, os.Mkdir(dir+"/c", 0o755))
	must(b, unix.Setxattr(dir+"/c", "system.ntfs_attrib", le.AppendUint32(nil, 0x800), 0))
	must(b, os.WriteFile(dir+"/c/lznt1", bytes.Repeat(program, 8), 0o644))
	for algorithm, args := range [][]string{{"--compress=XPRESS", "--chunk-size=4096"}, {"--compress=LZX", "--chunk-size=32768"}, nil,
		{"--compress=XPRESS", "--chunk-size=16384"}} {
		for _, p := range wimResources(b, map[string][]byte{"program": program}, args...) {
			path := fmt.Sprintf("%s/wof %d", dir, algorithm)
			must(b, os.WriteFile(path, nil, 0o644))
			must(b, os.WriteFile(path+":WofCompressedData", p, 0o644))
			must(b, os.Truncate(path, int64(len(program))))
			setReparse(b, path, 0x80000017, []byte{1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, byte(algorithm), 0, 0, 0})
		}
	}
	unmount()
	raw, err := os.ReadFile(image)
	must(b, err)
	fs, err := ntfs.Open(bytes.NewReader(raw), int64(len(raw)), filesys.Options{})
	must(b, err)
	return fs
}

func BenchmarkNTFS(b *testing.B) {
	fs := benchVolume(b)
	many := walk(b, fs, "many")
	b.Run("list 20000", func(b *testing.B) {
		for b.Loop() {
			n := 0
			must(b, fs.ReadDir(many, 0, func(e filesys.DirEntry) bool {
				if _, err := fs.Attr(e.Ino); err != nil {
					b.Fatal(err)
				}
				n++
				return true
			}))
			if n != 20000 {
				b.Fatal(n)
			}
		}
	})
	b.Run("lookup", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			_, err := fs.Lookup(many, fmt.Sprintf("file number %d", i*7919%20000))
			must(b, err)
		}
	})
	for _, name := range []string{"plain", "c/lznt1", "wof 0", "wof 1", "wof 3"} {
		b.Run("read "+name, func(b *testing.B) {
			f, err := fs.Open(walk(b, fs, name))
			must(b, err)
			b.SetBytes(f.Size())
			buf := make([]byte, 1<<20)
			for b.Loop() {
				for off := int64(0); off < f.Size(); off += int64(len(buf)) {
					if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
