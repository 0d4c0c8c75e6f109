package btrfs

import (
	"fmt"

	"cairn/mount/filesys"
)

// A snapshot has the entries of the subvolumes within its original, but not
// these themselves: Linux shows an empty directory in such a place, which it
// makes up with inode number 2. Here each has a number of its own.

// deadEntry is where such an entry was met.
type deadEntry struct {
	dir  uint64 // inode number of the directory
	name string
}

func (f *FS) isDead(ino uint64) bool { return ino >= inoDead }

// noteDead gives the number of a dead entry, and remembers where it is: nothing
// leads back from it.
func (f *FS) noteDead(dir *inode, e entry) (uint64, error) {
	ino, err := f.deadNumber(dir.t.id, e.location.obj)
	if err != nil {
		return 0, err
	}
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	if _, ok := f.v.dead[ino]; !ok {
		if len(f.v.dead) >= maxDead {
			clear(f.v.dead)
		}
		// By tree and inode, not by the number that this view gives it.
		f.v.dead[ino] = deadEntry{dir.obj, string(e.name)}
	}
	return ino, nil
}

// deadAttr is like what Linux makes up.
func (f *FS) deadAttr(ino uint64) (filesys.Attr, error) {
	tree, child, _, _ := f.split(ino)
	if !isFS(tree) || !isFS(child) {
		return filesys.Attr{}, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	t, err := f.v.tree(tree)
	if err != nil {
		return filesys.Attr{}, wrap(err, "inode %d", ino)
	}
	// Linux gives the time of the mount or of the last commit.
	root, err := t.inode(t.info.rootDir)
	if err != nil {
		return filesys.Attr{}, wrap(err, "inode %d: root of subvolume %d", ino, tree)
	}
	at := stamp(root.raw[136:])
	return filesys.Attr{Ino: ino, Mode: filesys.TypeDir | 0o755, Nlink: 1,
		Atime: at, Mtime: at, Ctime: at}, nil
}

func (f *FS) deadNames(ino uint64) ([]filesys.Name, error) {
	tree, _, _, _ := f.split(ino)
	f.v.mu.Lock()
	e, ok := f.v.dead[ino]
	f.v.mu.Unlock()
	if !ok {
		return nil, unsupported("inode %d is an entry that leads nowhere, and was not met yet: its names", ino)
	}
	dir, err := f.number(tree, e.dir)
	if err != nil {
		return nil, err
	}
	return []filesys.Name{{Parent: dir, Name: e.name}}, nil
}
