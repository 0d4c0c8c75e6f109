package exfat

import (
	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

var _ filesys.Keeper = (*FS)(nil)

// Kept implements filesys.Keeper.
func (f *FS) Kept() int64 {
	return cluster.Kept(f.volume, f.table, f.dirs, f.indexes)
}

// Forget implements filesys.Keeper.
func (f *FS) Forget() {
	cluster.Forget(f.volume, f.table, f.dirs, f.indexes)
}
