package server

import (
	"slices"
	"sync"

	"google.golang.org/grpc/mem"
)

// storedSizes are the sizes of memory for stored blocks on their way out. A
// block of 64 KiB takes about 25 KiB, and 4 more than its own size if it does not
// shrink.
var storedSizes = []int{4 << 10, 8 << 10, 16 << 10, 24 << 10, 32 << 10, 48 << 10, 68 << 10, 132 << 10, 264 << 10}

// storedPool is memory that is used again once gRPC has sent what is in it. gRPC's
// own pools know no sizes between 32 KiB and 1 MiB, and clear what they give.
type storedPool struct{ pools []sync.Pool }

var _ mem.BufferPool = (*storedPool)(nil)

func newStoredPool() *storedPool { return &storedPool{make([]sync.Pool, len(storedSizes))} }

// Get implements mem.BufferPool. What the bytes are is not defined.
func (p *storedPool) Get(n int) *[]byte {
	i, _ := slices.BinarySearch(storedSizes, n)
	if i == len(storedSizes) {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.pools[i].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, storedSizes[i])
	return &b
}

// Put implements mem.BufferPool.
func (p *storedPool) Put(b *[]byte) {
	if i, ok := slices.BinarySearch(storedSizes, cap(*b)); ok {
		p.pools[i].Put(b)
	}
}
