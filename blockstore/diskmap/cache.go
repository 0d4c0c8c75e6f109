package diskmap

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"cairn/blockstore/block"
)

// cache holds blocks by digest, least recently used out first, and sees to it
// that a block that several callers want at once is fetched once.
//
// A failed fetch is reported to the caller that made it. Those who waited for
// it try themselves: the failure may have been the other's cancelled context,
// or another block of the same batch.
type cache struct {
	r BlockReader

	mu     sync.Mutex
	limit  int64 // bytes; what is in flight comes on top
	size   int64
	blocks map[block.Digest]*cached
	lru    list.List // of *cached, most recent in front
}

type cached struct {
	d     block.Digest
	plain []byte        // nil until fetched
	fetch *fetch        // who brings it
	elem  *list.Element // nil while in flight
}

// fetch is one ReadBlocks call under way.
type fetch struct {
	done chan struct{} // closed when plain and err are set
	err  error
}

func newCache(r BlockReader, limit int64) *cache {
	return &cache{r: r, limit: limit, blocks: map[block.Digest]*cached{}}
}

// get returns the blocks of ds in order, nil for block.Zero. All that is
// missing is asked for in one call.
func (c *cache) get(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	out := make([][]byte, len(ds))
	for {
		mine, wait := c.claim(ds, out)
		if len(mine) > 0 {
			if err := c.fill(ctx, mine); err != nil {
				return nil, err
			}
		}
		for _, e := range wait {
			select {
			case <-e.fetch.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if c.collect(ds, out, mine, wait) {
			return out, nil
		}
	}
}

// claim fills out with what is there, and returns the entries that the caller
// has to fetch now, and those that are being fetched.
func (c *cache) claim(ds []block.Digest, out [][]byte) (mine, wait []*cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var f *fetch
	for i, d := range ds {
		if d == block.Zero || out[i] != nil {
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
			mine = append(mine, e)
		case e.elem != nil:
			c.lru.MoveToFront(e.elem)
			out[i] = e.plain
		default:
			wait = append(wait, e)
		}
	}
	return mine, wait
}

// fill fetches claimed entries, publishes them and makes room.
func (c *cache) fill(ctx context.Context, mine []*cached) (err error) {
	ds := make([]block.Digest, len(mine))
	for i, e := range mine {
		ds[i] = e.d
	}
	f := mine[0].fetch
	f.err = fmt.Errorf("read of %d blocks did not return", len(ds)) // if it panics
	var got [][]byte
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, e := range mine {
			if f.err != nil {
				delete(c.blocks, e.d)
				continue
			}
			if e.plain = got[i]; e.plain == nil {
				e.plain = []byte{} // nil would be taken for zeros
			}
			e.elem = c.lru.PushFront(e)
			c.size += int64(len(e.plain))
		}
		for c.size > c.limit {
			e := c.lru.Remove(c.lru.Back()).(*cached)
			c.size -= int64(len(e.plain))
			delete(c.blocks, e.d)
		}
		close(f.done)
	}()
	got, f.err = c.r.ReadBlocks(ctx, ds)
	if f.err == nil && len(got) != len(ds) {
		f.err = fmt.Errorf("reader returned %d blocks for %d", len(got), len(ds))
	}
	return f.err
}

// collect takes over what was fetched, evicted again or not. It is false when a
// fetch of someone else failed.
func (c *cache) collect(ds []block.Digest, out [][]byte, mine, wait []*cached) bool {
	if len(mine) == 0 && len(wait) == 0 {
		return true
	}
	got := make(map[block.Digest][]byte, len(mine)+len(wait))
	all := true
	for _, es := range [][]*cached{mine, wait} {
		for _, e := range es {
			if e.fetch.err != nil {
				all = false
				continue
			}
			got[e.d] = e.plain
		}
	}
	for i, d := range ds {
		if out[i] == nil {
			out[i] = got[d]
		}
	}
	return all
}
