package ntfs

import "cairn/mount/filesys"

var _ filesys.Keeper = (*FS)(nil)

// Kept implements filesys.Keeper.
func (f *FS) Kept() int64 {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	return int64(f.cache.used)
}

// Forget implements filesys.Keeper.
func (f *FS) Forget() {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	for f.cache.order.Len() > 0 {
		f.cache.drop(f.cache.order.Back())
	}
}
