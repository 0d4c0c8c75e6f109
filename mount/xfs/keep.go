package xfs

import "cairn/mount/filesys"

var _ filesys.Keeper = (*FS)(nil)

// Kept implements filesys.Keeper.
func (f *FS) Kept() int64 {
	n := int64(0)
	if f.log != nil {
		n = f.log.Kept()
	}
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	return n + int64(f.cache.used)
}

// Forget implements filesys.Keeper.
func (f *FS) Forget() {
	if f.log != nil {
		f.log.Forget()
	}
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	for len(f.cache.items) > 0 {
		f.cache.drop(f.cache.head.prev)
	}
}
