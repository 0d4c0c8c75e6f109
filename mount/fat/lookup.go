package fat

import (
	"fmt"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// Lookup finds a name: as it stands, or in another case, or the short one.
func (f *FS) Lookup(ino uint64, name string) (uint64, error) {
	d, err := f.dir(ino)
	if err != nil {
		return 0, err
	}
	e, err := f.find(d, name)
	if err != nil {
		return 0, err
	}
	if e == nil {
		return 0, fmt.Errorf("%q in directory %d: %w", name, ino, filesys.ErrNotExist)
	}
	if e.isDir() {
		if err := f.parents.Note(e.ino, ino); err != nil {
			return 0, err
		}
	}
	return e.ino, nil
}

// find gives the entry of a name, or nil. In a damaged directory, a name that
// is not found may have been lost, so that is an error.
func (f *FS) find(d *dir, name string) (found *entry, err error) {
	if !usable(name) {
		return nil, nil
	}
	folded, rank := fold(name), 0
	match := func(e *entry) bool {
		switch {
		case e.name == name:
			found, rank = e, 3
		case rank < 2 && fold(e.name) == folded:
			found, rank = e, 2
		case rank < 1 && fold(e.alias) == folded:
			found, rank = e, 1
		}
		return rank < 3
	}
	index, err := f.indexes.Get(d.ino, func(x *cluster.Index) error {
		return f.scan(d, 0, func(e *entry) bool {
			for _, h := range hashes(e) {
				x.Add(h, e.start)
			}
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	if index == nil {
		if err := f.scan(d, 0, match); found == nil {
			return nil, err
		}
		return found, nil
	}
	index.Find(cluster.Hash(folded), func(slot int64) bool {
		more := true
		err = f.scan(d, slot, func(e *entry) bool {
			more = match(e)
			return false
		})
		return more && err == nil
	})
	if found == nil && err == nil {
		err = index.Damage
	}
	return found, err
}
