package ext4_test

import (
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// countingReader counts the bytes that are read.
type countingReader struct {
	r io.ReaderAt
	n atomic.Int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n.Add(int64(n))
	return n, err
}

// recorder notes which bytes of a volume are read.
type recorder struct {
	r    io.ReaderAt
	mu   sync.Mutex
	read map[int64]int // offset to length
}

func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	r.read[off] = max(r.read[off], len(p))
	r.mu.Unlock()
	return r.r.ReadAt(p, off)
}

// offsets are those of every KiB that was read, in order.
func (r *recorder) offsets() (list []int64) {
	for _, off := range slices.Sorted(maps.Keys(r.read)) {
		for n := r.read[off]; n > 0; n, off = n-1024, off+1024 {
			list = append(list, off)
		}
	}
	return slices.Compact(list)
}
