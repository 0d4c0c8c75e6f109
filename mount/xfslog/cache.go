package xfslog

import (
	"fmt"
	"slices"
	"sync"

	"cairn/mount/filesys"
)

// cacheSize is how many bytes of records, with the words that stand in for
// cycles put back, are kept.
const cacheSize = 4 << 20

// cacheRecords is how many of them at most: they are looked for one by one.
const cacheRecords = 128

// cache keeps the records that were last used.
type cache struct {
	mu   sync.Mutex
	list []*cached // newest use last
	size int
}

type cached struct {
	at   uint32
	from uint32 // sector of the body
	body []byte
}

func (c *cache) get(at uint32) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.list) - 1; i >= 0; i-- {
		if r := c.list[i]; r.at == at {
			c.list = append(slices.Delete(c.list, i, i+1), r)
			return r
		}
	}
	return nil
}

func (c *cache) put(r *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, r)
	c.size += len(r.body)
	for (c.size > cacheSize || len(c.list) > cacheRecords) && len(c.list) > 1 {
		c.size -= len(c.list[0].body)
		c.list = slices.Delete(c.list, 0, 1)
	}
}

// Kept is about how many bytes of records are kept, to be read again if need be.
func (l *Log) Kept() int64 {
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	return int64(l.cache.size)
}

// Forget lets go of them. Nothing that is read through the overlay changes by it.
func (l *Log) Forget() {
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	l.cache.list, l.cache.size = nil, 0
}

// fetch fills p with what is at byte at of the log, all of it in one record.
func (l *Log) fetch(p []byte, at uint32) error {
	r, err := l.recordOf(at / sector)
	if err != nil {
		return err
	}
	from := int(l.ring.distance(r.from, at/sector))*sector + int(at%sector)
	if from+len(p) > len(r.body) {
		return corrupt("log record at sector %d changed while it was in use", r.at)
	}
	copy(p, r.body[from:])
	return nil
}

// recordOf gives the record whose body has the sector at.
func (l *Log) recordOf(at uint32) (*cached, error) {
	// The last one that begins before it, as seen from the tail.
	d := l.ring.distance(l.first(), at)
	i, found := slices.BinarySearchFunc(l.records, d, func(r, d uint32) int {
		return int(int64(l.ring.distance(l.first(), r)) - int64(d))
	})
	if !found {
		i--
	}
	if i < 0 {
		return nil, fmt.Errorf("no log record at sector %d: %w", at, filesys.ErrCorrupt)
	}
	if r := l.cache.get(l.records[i]); r != nil {
		return r, nil
	}
	h, err := l.ring.headerAt(l.records[i])
	if err != nil {
		return nil, err
	}
	body, _, _, err := l.ring.body(&h, nil, false)
	if err != nil {
		return nil, err
	}
	r := &cached{at: h.at, from: l.ring.add(h.at, h.sectors), body: body}
	l.cache.put(r)
	return r, nil
}

// first is the position of the first record.
func (l *Log) first() uint32 { return l.records[0] }
