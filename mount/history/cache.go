package history

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// DefaultCache is a good size for a Cache, in bytes: the map pages and metadata
// that the lookups of a path touch in some hundred points.
const DefaultCache = 64 << 20

// Cache keeps blocks and map pages that several points read, by digest, least
// recently used out first. It is safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	limit int64
	size  int64
	items map[block.Digest]*list.Element
	lru   list.List // of cacheItem, most recent in front
	busy  map[block.Digest]chan struct{}

	fetched atomic.Int64
	bytes   atomic.Int64
}

type cacheItem struct {
	d     block.Digest
	plain []byte
}

// NewCache makes a cache of at most limit bytes.
func NewCache(limit int64) *Cache {
	return &Cache{limit: limit, items: map[block.Digest]*list.Element{}, busy: map[block.Digest]chan struct{}{}}
}

// Fetched is how many blocks and pages were read through the cache that it did
// not have, and how many bytes they are.
func (c *Cache) Fetched() (blocks, bytes int64) { return c.fetched.Load(), c.bytes.Load() }

// Reader reads through the cache; what it does not have comes from r.
func (c *Cache) Reader(r diskmap.BlockReader) diskmap.BlockReader { return &cachedReader{c, r} }

type cachedReader struct {
	c *Cache
	r diskmap.BlockReader
}

// ReadBlocks implements diskmap.BlockReader. What another call is fetching is
// waited for; if that call fails this one tries itself.
func (r *cachedReader) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	out := make([][]byte, len(ds))
	for {
		mine, wait := r.c.claim(ds, out)
		if len(mine) > 0 {
			if err := r.fetch(ctx, ds, mine, out); err != nil {
				return nil, err
			}
		}
		if wait == nil {
			return out, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// claim fills out with what is there. It gives the indexes of what the caller
// has to fetch now, and a channel to wait on if somebody else fetches the rest.
func (c *Cache) claim(ds []block.Digest, out [][]byte) (mine []int, wait chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := map[block.Digest]bool{}
	for i, d := range ds {
		switch e := c.items[d]; {
		case out[i] != nil:
		case e != nil:
			c.lru.MoveToFront(e)
			out[i] = e.Value.(cacheItem).plain
		case own[d]:
			mine = append(mine, i) // asked for twice
		case c.busy[d] != nil:
			wait = c.busy[d]
		default:
			c.busy[d] = make(chan struct{})
			own[d] = true
			mine = append(mine, i)
		}
	}
	return mine, wait
}

func (r *cachedReader) fetch(ctx context.Context, ds []block.Digest, mine []int, out [][]byte) error {
	c := r.c
	want := make([]block.Digest, len(mine))
	for k, i := range mine {
		want[k] = ds[i]
	}
	var got [][]byte
	err := fmt.Errorf("read of %d blocks did not return", len(want)) // if it panics
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for k, d := range want {
			if ch := c.busy[d]; ch != nil {
				delete(c.busy, d)
				close(ch)
			}
			if err == nil {
				c.put(d, got[k])
			}
		}
	}()
	got, err = r.r.ReadBlocks(ctx, want)
	if err == nil && len(got) != len(want) {
		err = fmt.Errorf("reader returned %d blocks for %d", len(got), len(want))
	}
	if err != nil {
		return err
	}
	for k, i := range mine {
		if got[k] == nil {
			got[k] = []byte{} // nil would be asked for again
		}
		out[i] = got[k]
		c.fetched.Add(1)
		c.bytes.Add(int64(len(got[k])))
	}
	return nil
}

func (c *Cache) put(d block.Digest, plain []byte) {
	if c.items[d] != nil {
		return
	}
	c.items[d] = c.lru.PushFront(cacheItem{d, plain})
	c.size += int64(len(plain))
	for c.size > c.limit && c.lru.Len() > 1 {
		it := c.lru.Remove(c.lru.Back()).(cacheItem)
		c.size -= int64(len(it.plain))
		delete(c.items, it.d)
	}
}
