package xfs

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"cairn/mount/filesys"
)

// cacheBytes bounds what one FS keeps of the volume's metadata.
const cacheBytes = 32 << 20

// corrupt makes an error that says what contradicts the format.
func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrCorrupt)...)
}

func wrap(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// readFull fills p from off. A volume that ends early is an error of its own:
// the superblock promised those bytes.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// kind says as what a block of metadata was checked.
type kind uint8

const (
	kindInodes kind = iota // a block of inodes, each of which is checked by itself
	kindHeader             // sector of a group
	kindInobt
	kindBmbt
	kindData // block of a directory's or attribute fork's space; addr counts there
	kindDirTree
	kindAttr
)

// cacheKey names a cached block: where it is, as what it was checked, and on
// behalf of which inode or group.
type cacheKey struct {
	addr  uint64
	owner uint64
	kind  kind
}

// cacheItem is an element of the cache's ring, newest behind the head.
type cacheItem struct {
	key        cacheKey
	value      []byte
	prev, next *cacheItem
}

// itemCost is about what an item and its place in the map take.
const itemCost = 160

// cache keeps the most recently used metadata within a number of bytes. What it
// holds was checked before it was put there, is shared by everyone who asks, and
// is never written to.
type cache struct {
	mu    sync.Mutex
	items map[cacheKey]*cacheItem
	head  cacheItem // of the ring
	used  int
	limit int
}

func newCache(limit int) *cache {
	c := &cache{items: map[cacheKey]*cacheItem{}, limit: limit}
	c.head.prev, c.head.next = &c.head, &c.head
	return c
}

func (c *cache) get(k cacheKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.items[k]
	if it == nil {
		return nil
	}
	it.unlink()
	it.linkBehind(&c.head)
	return it.value
}

// put adds a block. When two callers load the same one, the later value replaces
// its equal.
func (c *cache) put(k cacheKey, v []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.items[k]; old != nil {
		c.drop(old)
	}
	it := &cacheItem{key: k, value: v}
	c.items[k] = it
	it.linkBehind(&c.head)
	c.used += len(v) + itemCost
	for c.used > c.limit && c.head.prev != it {
		c.drop(c.head.prev)
	}
}

func (c *cache) drop(it *cacheItem) {
	it.unlink()
	delete(c.items, it.key)
	c.used -= len(it.value) + itemCost
}

func (it *cacheItem) unlink() {
	it.prev.next, it.next.prev = it.next, it.prev
}

func (it *cacheItem) linkBehind(at *cacheItem) {
	it.prev, it.next = at, at.next
	at.next.prev, at.next = it, it
}

// block gives one block of the volume, by its place, through the cache, after
// check has approved of it. Callers must not write to it.
func (f *FS) block(k kind, block, owner uint64, check func(b []byte) error) ([]byte, error) {
	key := cacheKey{addr: block, owner: owner, kind: k}
	if b := f.cache.get(key); b != nil {
		return b, nil
	}
	b := make([]byte, f.sb.blockSize)
	if err := readFull(f.r, b, int64(block<<f.sb.blockBits)); err != nil {
		return nil, err
	}
	if check != nil {
		if err := check(b); err != nil {
			return nil, wrap(err, "block %d", block)
		}
	}
	f.cache.put(key, b)
	return b, nil
}
