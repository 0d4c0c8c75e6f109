package ext4_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestFlippedBits: with metadata_csum, no flipped bit in what a reader reads of
// the metadata changes an answer in silence. An answer may turn into an error,
// and only into one that says so.
func TestFlippedBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, args := range []string{
		"-t ext4 -b 1024 -N 2000 -O ea_inode,inline_data", "-t ext4 -b 4096 -N 2000 -O ^has_journal,metadata_csum_seed",
	} {
		image := mke2fs(t, 12<<20, strings.Fields(args)...)
		dir, unmount := fstest.Mount(t, image, "ext4", false, "")
		p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{3}), Prealloc: true, XattrMax: 800}
		p.Names()
		p.Sizes()
		p.Preallocated()
		p.Links()
		p.Xattrs()
		d := p.Dir("indexed")
		for i := range 150 {
			p.Check(os.Link(p.Path("names/plain"), p.Path(fmt.Sprintf("%s/%d with a name", d, i))))
		}
		unmount()
		b, err := os.ReadFile(image)
		must(t, err)
		fstest.FlipBits(t, b, func(r io.ReaderAt, size int64) (filesys.FS, error) { return ext4.Open(r, size, filesys.Options{}) }, false, 40, seed)
	}
}
