package btrfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cairn/mount/filesys"
)

// TestStored: the places that are told of a file's bytes have those bytes.
func TestStored(t *testing.T) {
	for _, args := range []string{"-d single -m single", "-d dup -m dup"} {
		v := mkfs(t, 1, 260, args)
		dir, unmount := v.mount(t, false, "compress=zstd")
		path := func(name string) string { return filepath.Join(dir, name) }
		writeFile(t, path("noise"), noise)
		writeFile(t, path("compressed"), text(300000))
		half := append(bytes.Clone(noise[:64<<10]), make([]byte, 64<<10)...)
		writeFile(t, path("half"), bytes.Repeat(half, 3))
		writeFile(t, path("small"), noise[:700])
		must(t, os.WriteFile(path("sparse"), nil, 0o644))
		must(t, os.Truncate(path("sparse"), 100000))
		unmount()
		b, err := os.ReadFile(v.images[0])
		must(t, err)
		fs := v.open(t)
		for name, kind := range map[string]string{"noise": "plain", "compressed": "compressed", "half": "compressed", "small": "plain", "sparse": "hole"} {
			f, err := fs.Open(walk(t, fs, name))
			must(t, err)
			for off := int64(0); off < f.Size(); {
				at, n, err := f.(filesys.Stored).Stored(off)
				if err != nil || n < 1 || n > f.Size()-off {
					t.Fatalf("%s at %d: %v, %d, %v", name, off, at, n, err)
				}
				want := make([]byte, n)
				_, err = f.ReadAt(want, off)
				must(t, err)
				switch {
				case kind == "hole" && at.Len != 0, kind != "hole" && (at.Len == 0 || at.Off < 0):
					t.Errorf("%s at %d: %v", name, off, at)
				case kind == "plain" && (at.Len != n || !bytes.Equal(b[at.Off:][:n], want)):
					t.Errorf("%s at %d: something else is at %v", name, off, at)
				case kind == "compressed" && (at.Len == 0 || at.Len > 80<<10 || !bytes.Equal(b[at.Off:][:4], []byte{0x28, 0xb5, 0x2f, 0xfd})):
					t.Errorf("%s at %d: %d bytes are not compressed at %v", name, off, n, at)
				}
				off += max(1, n/2)
			}
			if kind != "compressed" {
				continue
			}
			// As many bytes as there is content would look like plain data.
			for off := int64(0); off < f.Size(); off += 4096 {
				if at, n, err := f.(filesys.Stored).Stored(off); err != nil || at.Len == n && at.Off >= 0 {
					t.Errorf("%s at %d: %d bytes at %v, %v", name, off, n, at, err)
				}
			}
		}
	}
}
