package cluster

import "sync"

// Cache keeps the most recently used of some values within a number of bytes.
// Values are shared by all who ask and must not be written to.
type Cache[K comparable, V any] struct {
	mu    sync.Mutex
	items map[K]*item[K, V]
	head  item[K, V] // of the ring, newest behind it
	used  int
	limit int
}

type item[K comparable, V any] struct {
	key        K
	value      V
	cost       int
	prev, next *item[K, V]
}

// itemCost is what an item takes besides its value, roughly.
const itemCost = 128

// NewCache makes a cache of at most limit bytes.
func NewCache[K comparable, V any](limit int) *Cache[K, V] {
	c := &Cache[K, V]{items: map[K]*item[K, V]{}, limit: limit}
	c.head.prev, c.head.next = &c.head, &c.head
	return c
}

// Get gives the value of k, if it is there.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.items[k]
	if it == nil {
		return v, false
	}
	it.unlink()
	it.linkBehind(&c.head)
	return it.value, true
}

// Put adds a value of about cost bytes, which may push out others; one that is
// larger than the cache itself is not kept. When two callers load the same, the
// later value replaces its equal.
func (c *Cache[K, V]) Put(k K, v V, cost int) {
	cost += itemCost
	if cost > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.items[k]; old != nil {
		c.drop(old)
	}
	it := &item[K, V]{key: k, value: v, cost: cost}
	c.items[k] = it
	it.linkBehind(&c.head)
	c.used += cost
	for c.used > c.limit {
		c.drop(c.head.prev)
	}
}

func (c *Cache[K, V]) drop(it *item[K, V]) {
	it.unlink()
	delete(c.items, it.key)
	c.used -= it.cost
}

func (it *item[K, V]) unlink() { it.prev.next, it.next.prev = it.next, it.prev }

func (it *item[K, V]) linkBehind(at *item[K, V]) {
	it.prev, it.next = at, at.next
	at.next.prev, at.next = it, it
}
