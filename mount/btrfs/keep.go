package btrfs

import "cairn/mount/filesys"

var _ filesys.Keeper = (*FS)(nil)

// Kept implements filesys.Keeper, for all subvolumes together.
func (f *FS) Kept() int64 { return f.v.nodes.kept() + f.v.extents.kept() }

// Forget implements filesys.Keeper.
func (f *FS) Forget() {
	f.v.nodes.forget()
	f.v.extents.forget()
}

func (c *cache[K, V]) kept() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.used)
}

// forget drops all but what is being loaded.
func (c *cache[K, V]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for it := c.head.prev; it != &c.head; it = c.head.prev {
		it.unlink()
		delete(c.items, it.key)
		c.used -= it.cost
	}
}
