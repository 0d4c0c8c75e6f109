package btrfs

import "sync"

const (
	// nodeCache bounds the tree blocks that are kept, extentCache the
	// decompressed extents.
	nodeCache   = 16 << 20
	extentCache = 16 << 20
)

// cache keeps the most recently used values within a number of bytes. Whoever
// asks for one that is being loaded waits for it.
type cache[K comparable, V any] struct {
	mu    sync.Mutex
	items map[K]*cacheItem[K, V]
	head  cacheItem[K, V] // of a ring, newest behind it
	used  int
	limit int
}

type cacheItem[K comparable, V any] struct {
	key        K
	value      V
	err        error
	cost       int
	ready      chan struct{} // closed once value or err stands
	loaded     bool          // it is linked into the ring
	prev, next *cacheItem[K, V]
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	c := &cache[K, V]{items: map[K]*cacheItem[K, V]{}, limit: limit}
	c.head.prev, c.head.next = &c.head, &c.head
	return c
}

// get gives the value of k, which load makes with its cost in bytes. Values are
// shared and never written to. Errors are not kept.
func (c *cache[K, V]) get(k K, load func() (V, int, error)) (V, error) {
	c.mu.Lock()
	if it := c.items[k]; it != nil {
		if it.loaded {
			it.unlink()
			it.linkBehind(&c.head)
			c.mu.Unlock()
			return it.value, nil
		}
		c.mu.Unlock()
		<-it.ready
		return it.value, it.err
	}
	it := &cacheItem[K, V]{key: k, ready: make(chan struct{})}
	c.items[k] = it
	c.mu.Unlock()

	it.value, it.cost, it.err = load()
	it.cost += 192 // the item and its place in the map

	c.mu.Lock()
	if it.err != nil {
		delete(c.items, k)
	} else {
		it.loaded = true
		it.linkBehind(&c.head)
		c.used += it.cost
		for c.used > c.limit && c.head.prev != it {
			old := c.head.prev
			old.unlink()
			delete(c.items, old.key)
			c.used -= old.cost
		}
	}
	c.mu.Unlock()
	close(it.ready)
	return it.value, it.err
}

func (it *cacheItem[K, V]) unlink() { it.prev.next, it.next.prev = it.next, it.prev }

func (it *cacheItem[K, V]) linkBehind(at *cacheItem[K, V]) {
	it.prev, it.next = at, at.next
	at.next.prev, at.next = it, it
}
