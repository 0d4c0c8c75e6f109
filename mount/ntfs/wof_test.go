package ntfs_test

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/ntfs"
)

// wofFiles are contents that compress in many ways.
func wofFiles(t testing.TB) map[string][]byte {
	program, err := os.ReadFile("/bin/bash") // has calls
	must(t, err)
	text := []byte{}
	for i := range 30000 {
		text = fmt.Appendf(text, "line %d of a text, %x\n", i, i*i)
	}
	files := map[string][]byte{"program": program, "text": text, "zeros": make([]byte, 300000), "one letter": bytes.Repeat([]byte("a"), 100001),
		"mixed": slices.Concat(text[:50000], noise[:40000], make([]byte, 100000), program[:70000])}
	for _, n := range []int{100, 300, 4095, 4096, 4097, 5000, 8192, 16384, 16385, 32767, 32768, 32769, 65536, 98304} {
		files[fmt.Sprintf("text %d", n)] = text[1000:][:n]
		files[fmt.Sprintf("program %d", n)] = program[5000:][:n]
	}
	return files
}

// wimResources compresses files by wimlib and gives their compressed forms,
// which system compression has as well. Those that do not compress are left out.
func wimResources(t testing.TB, files map[string][]byte, args ...string) map[string][]byte {
	t.Helper()
	src := t.TempDir()
	for name, b := range files {
		must(t, os.WriteFile(filepath.Join(src, name), b, 0o644))
	}
	wim := filepath.Join(t.TempDir(), "wim")
	fstest.Run(t, "wimcapture", append([]string{src, wim, "--threads=1"}, args...)...)
	b, err := os.ReadFile(wim)
	must(t, err)
	resource := func(p []byte) (data []byte, flags byte) {
		size := le.Uint64(p) & (1<<56 - 1)
		return b[le.Uint64(p[8:]):][:size], p[7]
	}
	table, _ := resource(b[48:])
	bySum := map[[20]byte][]byte{}
	for ; len(table) >= 50; table = table[50:] {
		if data, flags := resource(table); flags&4 != 0 {
			bySum[[20]byte(table[30:50])] = data
		}
	}
	packed := map[string][]byte{}
	for name, b := range files {
		if p := bySum[sha1.Sum(b)]; p != nil {
			packed[name] = p
		}
	}
	return packed
}

// TestSystemCompression: files in the four forms of CompactOS, compressed by
// wimlib.
func TestSystemCompression(t *testing.T) {
	files := wofFiles(t)
	for algorithm, args := range [][]string{
		{"--compress=XPRESS", "--chunk-size=4096"}, {"--compress=LZX:20", "--chunk-size=32768"},
		{"--compress=XPRESS", "--chunk-size=8192"}, {"--compress=XPRESS", "--chunk-size=16384"},
		1 + 3: {"--compress=LZX:100", "--chunk-size=32768"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			packed := wimResources(t, files, args...)
			if len(packed) < 20 {
				t.Fatalf("only %d files are compressed", len(packed))
			}
			image := mkntfs(t, 24<<20)
			dir, unmount := mount(t, image, "streams_interface=windows")
			for name, p := range packed {
				path := dir + "/" + name
				must(t, os.WriteFile(path, nil, 0o644))
				must(t, os.WriteFile(path+":WofCompressedData", p, 0o644))
				must(t, os.Truncate(path, int64(len(files[name]))))
				info := []uint32{1, 2, 1, uint32(algorithm)}
				if algorithm == 4 {
					info[3] = 1
				}
				var data []byte
				for _, v := range info {
					data = le.AppendUint32(data, v)
				}
				setReparse(t, path, 0x80000017, data)
			}
			unmount()
			fs := openImage(t, image)
			for name := range packed {
				want := files[name]
				if got := content(t, fs, name); !bytes.Equal(got, want) {
					i := 0
					for i < min(len(got), len(want)) && got[i] == want[i] {
						i++
					}
					t.Errorf("%s of %d bytes: %d bytes, differs at %d", name, len(want), len(got), i)
				}
				ino := walk(t, fs, name)
				pieces(t, fs, ino, want)
				if names, err := fs.Xattrs(ino); err != nil || len(names) > 0 {
					t.Errorf("attributes %q, %v", names, err)
				}
				a, err := fs.Attr(ino)
				if err != nil || a.Mode != filesys.TypeRegular|0o777 || a.Size != int64(len(want)) || a.Blocks*512 < int64(len(packed[name])) {
					t.Errorf("%+v, %v", a, err)
				}
			}
		})
	}
}

// pieces reads a file in pieces of odd sizes.
func pieces(t testing.TB, fs *ntfs.FS, ino uint64, want []byte) {
	t.Helper()
	f, err := fs.Open(ino)
	must(t, err)
	for _, size := range []int{7777, 333333} {
		for off := 0; off < len(want); off += size {
			p := make([]byte, size)
			n, err := f.ReadAt(p, int64(off))
			if n != min(size, len(want)-off) || err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:off+n]) {
				t.Fatalf("%d bytes at %d of inode %d: %d, %v", size, off, ino, n, err)
			}
		}
	}
	covered := int64(0)
	for off := int64(0); off < f.Size(); {
		_, n, err := f.(filesys.Stored).Stored(off)
		must(t, err)
		off += n
		covered += n
	}
	if covered != f.Size() {
		t.Errorf("stored covers %d of %d", covered, f.Size())
	}
}
