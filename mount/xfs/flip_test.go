package xfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"cairn/mount/filesys/fstest"
)

// TestFlippedBits: on version 5, no flipped bit in what a reader reads of the
// metadata changes an answer in silence. An answer may turn into an error, and
// only into one that says so.
func TestFlippedBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i, args := range []string{"-b size=1024 -d agcount=1", "-d agcount=1 -m rmapbt=1 -i nrext64=1"} {
		image := made(t, 32, args, func(dir string) {
			p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{3}), Prealloc: true,
				XattrMax: 20000, SymlinkMax: 1023}
			p.Names()
			p.Sizes()
			p.Preallocated()
			p.Links()
			p.Xattrs()
			d := p.Dir("indexed")
			for i := range 300 {
				p.Check(os.Link(p.Path("names/plain"), p.Path(fmt.Sprintf("%s/%d with a name", d, i))))
			}
		})
		b, err := os.ReadFile(image)
		must(t, err)
		fstest.FlipBits(t, b, openAny, false, 60, seed+uint64(i))
	}
}
