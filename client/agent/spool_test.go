package agent

import (
	"testing"

	"cairn/blockstore/block"
)

// What went in comes out in order, from memory and from the file.
func TestSpoolReplaysInOrder(t *testing.T) {
	for _, n := range []uint64{0, 3, 2 * spoolMemory / uint64(recordSize)} {
		var s spool
		defer s.close()
		for i := range n {
			var err error
			if i%5 == 4 {
				err = s.setZero(i*10, i)
			} else {
				err = s.set(i*10, block.Digest{byte(i), byte(i >> 8), byte(i >> 16), 1})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if onDisk := s.file != nil; onDisk != (n > 100) {
			t.Errorf("%d entries: spooled to a file: %v", n, onDisk)
		}
		for range 2 { // a transfer that broke replays again
			i := uint64(0)
			check := func(index uint64, ok bool) error {
				if index != i*10 || !ok {
					t.Fatalf("entry %d of %d came back as index %d, right: %v", i, n, index, ok)
				}
				i++
				return nil
			}
			err := s.replay(
				func(index uint64, d block.Digest) error {
					return check(index, i%5 != 4 && d == block.Digest{byte(i), byte(i >> 8), byte(i >> 16), 1})
				},
				func(index, count uint64) error { return check(index, i%5 == 4 && count == i) })
			if err != nil {
				t.Fatal(err)
			}
			if i != n {
				t.Fatalf("%d of %d entries came back", i, n)
			}
		}
	}
}
