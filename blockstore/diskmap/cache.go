package diskmap

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"cairn/blockstore/block"
)

// IntoReader is a BlockReader that puts blocks into memory that it is given, so
// that an Image which reads a disk from one end to the other needs no new memory
// for every block.
type IntoReader interface {
	BlockReader
	// ReadBlocksInto is ReadBlocks that decodes the i-th block into into[i][:0]
	// and leaves it there. What does not fit is put elsewhere, and into[i]
	// refers to that. After the return nothing writes to that memory any more;
	// if there is an error, what it holds means nothing.
	ReadBlocksInto(ctx context.Context, ds []block.Digest, into [][]byte) error
}

// cache holds blocks by digest, least recently used out first, and sees to it
// that a block that several callers want at once is fetched once.
//
// A failed fetch is reported to the caller that made it. Those who waited for
// it try themselves: the failure may have been the other's cancelled context,
// or another block of the same batch.
//
// Memory of blocks that were pushed out is used again as soon as nobody holds
// them. Who never releases what he got keeps it, and leaves it to the garbage
// collector.
type cache struct {
	mu     sync.Mutex
	limit  int64 // bytes; what is in flight or held comes on top
	size   int64
	blocks map[block.Digest]*cached
	lru    list.List // of *cached, most recent in front
	free   [][]byte  // to be used again, all of one capacity
}

// maxFree bounds the memory that waits to be used again, in bytes: what two
// batches of read-ahead need.
const maxFree = 4 << 20

type cached struct {
	d     block.Digest
	plain []byte        // valid once fetched
	fetch *fetch        // who brings it, or has
	elem  *list.Element // nil while in flight, and when pushed out
	pins  int           // who holds it
	ours  bool          // plain is memory of this cache
}

// fetch is one ReadBlocks call, under way or done.
type fetch struct {
	done chan struct{} // closed when plain and err are set
	err  error
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, blocks: map[block.Digest]*cached{}}
}

// held is blocks in the hands of a caller of get, nil for block.Zero.
type held struct {
	c      *cache
	es     []*cached
	blocks [][]byte
}

// get returns the blocks of ds in order. All that is missing is asked for in one
// call of r, in memory for blocks of size bytes.
func (c *cache) get(ctx context.Context, r BlockReader, ds []block.Digest, size int) (*held, error) {
	h := &held{c: c, es: make([]*cached, len(ds)), blocks: make([][]byte, len(ds))}
	for {
		mine, wait := h.claim(ds)
		if len(mine) > 0 {
			if err := c.fill(ctx, r, mine, size); err != nil {
				h.release()
				return nil, err
			}
		}
		if !wait {
			return h, nil
		}
		again, err := h.wait(ctx)
		if err != nil {
			h.release()
			return nil, err
		}
		if !again {
			return h, nil
		}
	}
}

// claim takes hold of what is there or under way, and returns the entries that
// the caller has to fetch now. wait: some are not there yet.
func (h *held) claim(ds []block.Digest) (mine []*cached, wait bool) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	var f *fetch
	for i, d := range ds {
		if d == block.Zero || h.es[i] != nil {
			continue
		}
		e := c.blocks[d]
		switch {
		case e == nil:
			if f == nil {
				f = &fetch{done: make(chan struct{})}
			}
			e = &cached{d: d, fetch: f}
			c.blocks[d] = e
			mine, wait = append(mine, e), true
		case e.elem != nil:
			c.lru.MoveToFront(e.elem)
			h.blocks[i] = e.plain
		default:
			wait = true
		}
		e.pins++
		h.es[i] = e
	}
	return mine, wait
}

// wait waits for what is under way. again: a fetch failed, and what it should
// have brought must be claimed once more.
func (h *held) wait(ctx context.Context) (again bool, err error) {
	for i, e := range h.es {
		if e == nil || h.blocks[i] != nil {
			continue
		}
		select {
		case <-e.fetch.done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if e.fetch.err != nil {
			h.es[i], again = nil, true // it is forgotten, and has no memory
			continue
		}
		h.blocks[i] = e.plain
	}
	return again, nil
}

// release gives the blocks back; they must not be looked at any more.
func (h *held) release() {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range h.es {
		if e == nil {
			continue
		}
		if e.pins--; e.pins == 0 && e.elem == nil {
			c.recycle(e)
		}
	}
	h.es, h.blocks = nil, nil
}

// recycle takes the memory of an entry that nobody can see any more.
func (c *cache) recycle(e *cached) {
	if !e.ours || cap(e.plain) == 0 {
		return
	}
	if len(c.free) > 0 && cap(c.free[0]) != cap(e.plain) {
		c.free = nil // of a disk with other blocks
	}
	if len(c.free)*cap(e.plain) < maxFree {
		c.free = append(c.free, e.plain[:0])
	}
	e.plain, e.ours = nil, false
}

// memory is room for n blocks of size bytes.
func (c *cache) memory(n, size int) [][]byte {
	out := make([][]byte, n)
	c.mu.Lock()
	if len(c.free) > 0 && cap(c.free[0]) == size {
		k := min(n, len(c.free))
		copy(out, c.free[len(c.free)-k:])
		clear(c.free[len(c.free)-k:])
		c.free = c.free[:len(c.free)-k]
	}
	c.mu.Unlock()
	for i := range out {
		if out[i] == nil {
			out[i] = make([]byte, 0, size)
		}
	}
	return out
}

// fill fetches claimed entries, publishes them and makes room.
func (c *cache) fill(ctx context.Context, r BlockReader, mine []*cached, size int) (err error) {
	ds := make([]block.Digest, len(mine))
	for i, e := range mine {
		ds[i] = e.d
	}
	f := mine[0].fetch
	f.err = fmt.Errorf("read of %d blocks did not return", len(ds)) // if it panics
	into, ours := r.(IntoReader)
	var got [][]byte
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, e := range mine {
			if f.err != nil {
				delete(c.blocks, e.d)
				if ours && got != nil {
					c.recycle(&cached{plain: got[i], ours: cap(got[i]) == size})
				}
				continue
			}
			if e.plain = got[i]; e.plain == nil {
				e.plain = []byte{} // nil would be taken for zeros
			}
			e.ours = ours && cap(e.plain) == size
			e.elem = c.lru.PushFront(e)
			c.size += int64(len(e.plain))
		}
		for c.size > c.limit {
			e := c.lru.Remove(c.lru.Back()).(*cached)
			e.elem = nil
			c.size -= int64(len(e.plain))
			delete(c.blocks, e.d)
			if e.pins == 0 {
				c.recycle(e)
			}
		}
		close(f.done)
	}()
	if ours {
		got = c.memory(len(ds), size)
		f.err = into.ReadBlocksInto(ctx, ds, got)
		return f.err
	}
	got, f.err = r.ReadBlocks(ctx, ds)
	if f.err == nil && len(got) != len(ds) {
		f.err = fmt.Errorf("reader returned %d blocks for %d", len(got), len(ds))
	}
	return f.err
}
