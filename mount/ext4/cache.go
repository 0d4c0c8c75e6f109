package ext4

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

// cacheKey names a cached item: a raw block (owner 0), or the node of an extent
// tree, which was checked on behalf of the inode that owns it.
type cacheKey struct {
	block uint64
	owner uint32
}

// cacheItem is an element of the cache's ring, newest behind the head.
type cacheItem struct {
	key        cacheKey
	value      any
	cost       int
	prev, next *cacheItem
}

// cache keeps the most recently used metadata within a number of bytes. Values
// are shared by everyone who asks and are never written to.
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

func (c *cache) get(k cacheKey) any {
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

// put adds a value of about cost bytes. When two callers load the same item,
// the later value replaces its equal.
func (c *cache) put(k cacheKey, v any, cost int) {
	cost += 128 // the item and its place in the map
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.items[k]; old != nil {
		c.drop(old)
	}
	it := &cacheItem{key: k, value: v, cost: cost}
	c.items[k] = it
	it.linkBehind(&c.head)
	c.used += cost
	for c.used > c.limit && c.head.prev != it {
		c.drop(c.head.prev)
	}
}

func (c *cache) drop(it *cacheItem) {
	it.unlink()
	delete(c.items, it.key)
	c.used -= it.cost
}

func (it *cacheItem) unlink() {
	it.prev.next, it.next.prev = it.next, it.prev
}

func (it *cacheItem) linkBehind(at *cacheItem) {
	it.prev, it.next = at, at.next
	at.next.prev, at.next = it, it
}

// block gives one block of metadata through the cache. Callers must not write
// to it.
func (f *FS) block(b uint64) ([]byte, error) {
	if b >= f.sb.blocks {
		return nil, corrupt("block %d of %d", b, f.sb.blocks)
	}
	k := cacheKey{block: b}
	if v, ok := f.cache.get(k).([]byte); ok {
		return v, nil
	}
	p := make([]byte, f.sb.blockSize)
	if err := readFull(f.r, p, int64(b<<f.sb.blockBits)); err != nil {
		return nil, err
	}
	f.cache.put(k, p, len(p))
	return p, nil
}
