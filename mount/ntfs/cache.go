package ntfs

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"sync"

	"cairn/mount/filesys"
)

// cacheBytes bounds what one FS keeps of the volume's metadata and of data that
// it decompressed.
const cacheBytes = 32 << 20

// corrupt makes an error that says what contradicts the format.
func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrCorrupt)...)
}

// unsupported makes an error that names what is not understood.
func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrUnsupported)...)
}

// readFull fills p from off. A volume that ends early is an error of its own:
// the boot sector promised those bytes.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", filesys.ErrCorrupt, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// lazy is a value that is made when it is first asked for. One that could not be
// made, as the volume could not be read, is made again the next time.
type lazy[T any] struct {
	mu   sync.Mutex
	done bool
	v    T
}

// get gives the value. load's error is that of the volume below.
func (l *lazy[T]) get(load func() (T, error)) (v T, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		if v, err = load(); err != nil {
			return v, err
		}
		l.v, l.done = v, true
	}
	return l.v, nil
}

// unread gives an error that tells of the way to the volume, and nil for one that
// tells of what is on it.
func unread(err error) error {
	for _, s := range []error{filesys.ErrCorrupt, filesys.ErrUnsupported, filesys.ErrNotExist, io.EOF} {
		if errors.Is(err, s) {
			return nil
		}
	}
	return err
}

// kind tells apart what is cached.
type kind uint8

const (
	kindChunk  kind = iota // part of the MFT as it lies on the volume, by its number
	kindRecord             // a checked MFT record, by number
	kindInode              // an inode, by number
	kindRuns               // the runs of one piece of an attribute, by record and attribute instance
	kindIndex              // a checked index block, by inode (and index) and number
	kindUnit               // a decompressed unit, by inode (and stream) and number
)

// cacheKey names a cached item.
type cacheKey struct {
	kind kind
	sub  uint32
	a, b uint64
}

type cacheItem struct {
	key   cacheKey
	value any
	cost  int
}

// cache keeps the most recently used items within a number of bytes. Values are
// shared by everyone who asks and are never written to.
type cache struct {
	mu    sync.Mutex
	items map[cacheKey]*list.Element
	order *list.List // newest in front
	used  int
	limit int
}

func newCache(limit int) *cache {
	return &cache{items: map[cacheKey]*list.Element{}, order: list.New(), limit: limit}
}

func (c *cache) get(k cacheKey) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.items[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cacheItem).value
}

// put adds a value of about cost bytes. When two callers load the same item,
// the later value replaces its equal.
func (c *cache) put(k cacheKey, v any, cost int) {
	cost += 200 // the item, its element and its place in the map
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.items[k]; old != nil {
		c.drop(old)
	}
	c.items[k] = c.order.PushFront(&cacheItem{k, v, cost})
	c.used += cost
	for c.used > c.limit && c.order.Len() > 1 {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	it := c.order.Remove(e).(*cacheItem)
	delete(c.items, it.key)
	c.used -= it.cost
}
