package cluster

// What a file system keeps of its metadata is in the caches of this package, and
// is read again when it is needed. Parents are not among it: what they forget has
// to be searched in the whole tree, for each directory anew.

// Keeping is something that keeps bytes, and can let go of them.
type Keeping interface {
	// Kept is about how many bytes it keeps now.
	Kept() int64
	// Forget lets go of them.
	Forget()
}

// Kept is the sum of what all of them keep.
func Kept(all ...Keeping) (sum int64) {
	for _, k := range all {
		sum += k.Kept()
	}
	return sum
}

// Forget lets go of what all of them keep.
func Forget(all ...Keeping) {
	for _, k := range all {
		k.Forget()
	}
}

var (
	_ Keeping = (*Cache[int, int])(nil)
	_ Keeping = (*Volume)(nil)
	_ Keeping = (*Table)(nil)
	_ Keeping = (*Indexes)(nil)
)

// Kept implements Keeping.
func (c *Cache[K, V]) Kept() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.used)
}

// Forget implements Keeping.
func (c *Cache[K, V]) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.items) > 0 {
		c.drop(c.head.prev)
	}
}

// Kept implements Keeping.
func (v *Volume) Kept() int64 { return v.pages.Kept() }

// Forget implements Keeping.
func (v *Volume) Forget() { v.pages.Forget() }

// Kept implements Keeping.
func (t *Table) Kept() int64 { return t.chains.Kept() }

// Forget implements Keeping.
func (t *Table) Forget() { t.chains.Forget() }

// Kept implements Keeping.
func (xs *Indexes) Kept() int64 { return xs.cache.Kept() }

// Forget implements Keeping.
func (xs *Indexes) Forget() { xs.cache.Forget() }
