package btrfs

import (
	"fmt"

	"cairn/mount/filesys"
)

// FS shows an opened file system from the root of one of its subvolumes. It is
// immutable but for caches, and safe for concurrent use if the devices are.
type FS struct {
	v   *volume
	top *tree
}

var (
	_ filesys.Briefer = (*FS)(nil)
	_ filesys.Namer   = (*FS)(nil)
	_ filesys.Differ  = (*FS)(nil)
)

func (v *volume) sub(id uint64) (*FS, error) {
	if !isFS(id) {
		return nil, fmt.Errorf("subvolume %d: %w", id, filesys.ErrNotExist)
	}
	t, err := v.tree(id)
	if err != nil {
		if isNotExist(err) && id == topLevelID {
			err = corrupt("%v", err)
		}
		return nil, err
	}
	f := &FS{v, t}
	in, err := f.inode(f.Root())
	if err == nil && !in.isDir() {
		err = corrupt("mode %o", in.mode)
	} else if err != nil && isNotExist(err) {
		err = corrupt("%v", err)
	}
	if err != nil {
		return nil, wrap(err, "root directory of subvolume %d", id)
	}
	return f, nil
}

// Inode numbers. What the guest shows is unique in one subvolume only, where it
// counts from 256; each subvolume begins anew. Here one number stands for both,
// in the first of these forms that has room:
//
//	                number of the inode               in the subvolume at Root
//	1<<42 | tree<<30 | number of the inode            tree < 2^12, inode < 2^30
//	1<<63 | tree<<40 | number of the inode            tree < 2^22, inode < 2^40
//	3<<62 | tree<<40 | number of a subvolume          an entry of tree that
//	                                                  leads to no subvolume
//
// So the numbers of the subvolume that Root shows are those of the guest, and
// most others are below 2^43.
const (
	inoNear  = 1 << 42
	inoWide  = 1 << 63
	inoDead  = 3 << 62
	nearBits = 30
	wideBits = 40
	wideTree = 1 << 22
)

func (f *FS) number(tree, obj uint64) (uint64, error) {
	switch {
	case tree == f.top.id && obj < inoNear:
		return obj, nil
	case tree < inoNear>>nearBits && obj < 1<<nearBits:
		return inoNear | tree<<nearBits | obj, nil
	case tree < wideTree && obj < 1<<wideBits:
		return inoWide | tree<<wideBits | obj, nil
	}
	return 0, unsupported("inode %d of subvolume %d has too large a number", obj, tree)
}

func (f *FS) deadNumber(tree, child uint64) (uint64, error) {
	if tree >= wideTree || child >= 1<<wideBits {
		return 0, unsupported("subvolume %d in subvolume %d has too large a number", child, tree)
	}
	return inoDead | tree<<wideBits | child, nil
}

// split is the inverse of number and deadNumber.
func (f *FS) split(ino uint64) (tree, obj uint64, dead, ok bool) {
	switch {
	case ino < inoNear:
		return f.top.id, ino, false, true
	case ino < 2*inoNear:
		tree, obj = ino>>nearBits&(1<<12-1), ino&(1<<nearBits-1)
	case ino < inoWide:
		return 0, 0, false, false
	default:
		tree, obj = ino>>wideBits&(wideTree-1), ino&(1<<wideBits-1)
		if ino >= inoDead {
			return tree, obj, true, true
		}
	}
	// One inode has one number.
	n, err := f.number(tree, obj)
	return tree, obj, false, err == nil && n == ino
}

// place gives the tree and number of an inode.
func (f *FS) place(ino uint64) (*tree, uint64, error) {
	id, obj, dead, ok := f.split(ino)
	if !ok || dead || !isFS(id) || obj < firstFreeID || obj > lastFreeID {
		return nil, 0, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	if id == f.top.id {
		return f.top, obj, nil
	}
	t, err := f.v.tree(id)
	if err != nil {
		return nil, 0, wrap(err, "inode %d", ino)
	}
	return t, obj, nil
}

// Root is the inode number of the root directory of the subvolume that f shows.
func (f *FS) Root() uint64 { return f.top.info.rootDir }

// Info describes the file system; it is the same for all subvolumes.
func (f *FS) Info() filesys.Info {
	u, info := f.v.countUsage(), f.Brief()
	info.Size, info.Free, info.Available = u.size, u.free, u.available
	return info
}

// Brief describes the file system without reading its block groups.
func (f *FS) Brief() filesys.Info {
	s := f.v.super
	return filesys.Info{
		Type: "btrfs", Label: s.label(), UUID: uuidString(s.fsid), BlockSize: int(s.sector), NameMax: nameMax, Warnings: f.v.warnings,
	}
}
