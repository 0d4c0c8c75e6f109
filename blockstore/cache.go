package blockstore

import (
	"container/list"
	"sync"

	"cairn/blockstore/block"
)

// verifiedCache keeps plain blocks that were re-hashed, the least recently used
// go first. Entries belong to a store: a vault answers only for what it holds.
type verifiedCache struct {
	mu    sync.Mutex
	room  int64 // bytes left
	byKey map[cacheKey]*list.Element
	order list.List // of cacheEntry, most recent first
}

type cacheKey struct {
	store  uint64
	digest block.Digest
}

type cacheEntry struct {
	key   cacheKey
	plain []byte
}

func newVerifiedCache(size int64) *verifiedCache {
	return &verifiedCache{room: size, byKey: map[cacheKey]*list.Element{}}
}

func (c *verifiedCache) get(store uint64, d block.Digest) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[cacheKey{store, d}]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(cacheEntry).plain
}

func (c *verifiedCache) put(store uint64, d block.Digest, plain []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := cacheKey{store, d}
	if c.byKey[k] != nil {
		return
	}
	c.byKey[k] = c.order.PushFront(cacheEntry{k, plain})
	c.room -= int64(len(plain))
	for c.room < 0 {
		c.drop(c.order.Back())
	}
}

// forget drops a closed store's blocks.
func (c *verifiedCache) forget(store uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.order.Front(); e != nil; {
		next := e.Next()
		if e.Value.(cacheEntry).key.store == store {
			c.drop(e)
		}
		e = next
	}
}

func (c *verifiedCache) drop(e *list.Element) {
	v := c.order.Remove(e).(cacheEntry)
	delete(c.byKey, v.key)
	c.room += int64(len(v.plain))
}
