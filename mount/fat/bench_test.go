package fat_test

import (
	"bytes"
	"fmt"
	"testing"

	"cairn/mount/fat"
	"cairn/mount/filesys"
)

// BenchmarkList lists a directory of 20,000 entries with stat, cold.
func BenchmarkList(b *testing.B) {
	m := newMaker(b, 60<<20, "-F", "32", "-s", "1")
	const n = 20000
	d := m.rooted.folder("large", n*3*32/512+1, true)
	for i := range n {
		d.file(fmt.Sprintf("entry number %d", i), nil, false)
	}
	for b.Loop() {
		fs, err := fat.Open(bytes.NewReader(m.b), int64(len(m.b)), filesys.Options{})
		must(b, err)
		count := 0
		must(b, fs.ReadDir(lookup(b, fs, 1, "large"), 0, func(e filesys.DirEntry) bool {
			_, err := fs.Attr(e.Ino)
			must(b, err)
			count++
			return true
		}))
		if count != n {
			b.Fatal(count)
		}
	}
}

// BenchmarkRead reads 4 KiB at random of a file whose clusters are all apart,
// and one in one piece.
func BenchmarkRead(b *testing.B) {
	m := newMaker(b, 60<<20, "-F", "32", "-s", "1")
	size := int64(30 << 20)
	m.rooted.file("apart", bytes.Repeat(noise, 8)[:size], true)
	m.rooted.file("together", noise, false)
	fs := m.open()
	for _, name := range []string{"apart", "together"} {
		b.Run(name, func(b *testing.B) {
			f, err := fs.Open(lookup(b, fs, 1, name))
			must(b, err)
			p := make([]byte, 4096)
			b.SetBytes(4096)
			for b.Loop() {
				_, err := f.ReadAt(p, m.rand.Int64N(f.Size()-4096))
				must(b, err)
			}
		})
	}
}
