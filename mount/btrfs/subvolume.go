package btrfs

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"cairn/mount/filesys"
)

// TopLevel is the number of the subvolume that contains all others.
const TopLevel = topLevelID

const (
	maxSubvolumes = 1 << 16
	maxDepth      = 4096 // of directories above a subvolume
	maxPaths      = 8 << 20
)

// Subvolume describes one of a file system's subvolumes or snapshots.
type Subvolume struct {
	ID       uint64
	Parent   uint64 // the subvolume where it hangs, 0 for the top level
	Path     string // from the top level, without a leading slash; "" for itself
	Default  bool   // a plain mount shows it
	Snapshot bool
	ReadOnly bool
	Created  time.Time // zero if unknown
}

// Subvolumes lists the top level and all subvolumes, by number. Those that are
// being deleted are left out.
func (f *FS) Subvolumes() ([]Subvolume, error) {
	v := f.v
	byDefault, err := v.defaultSubvolume()
	if err != nil {
		return nil, wrap(err, "default subvolume")
	}
	list := []Subvolume{}
	bytes := 0 // of all paths
	add := func(id uint64) error {
		t, err := v.tree(id)
		if isNotExist(err) && id != topLevelID {
			return nil
		} else if err != nil {
			return err
		}
		s := Subvolume{ID: id, Default: id == byDefault, Snapshot: t.info.snapshot, ReadOnly: t.info.readOnly, Created: t.info.created}
		if id != topLevelID {
			if s.Parent, s.Path, err = v.path(id); err != nil {
				if isNotExist(err) {
					return nil // it hangs nowhere
				}
				return wrap(err, "path of subvolume %d", id)
			}
		}
		if bytes += len(s.Path); bytes > maxPaths || len(list) >= maxSubvolumes {
			return unsupported("more than %d subvolumes, or %d bytes of their paths", maxSubvolumes, maxPaths)
		}
		list = append(list, s)
		return nil
	}
	if err := add(topLevelID); err != nil {
		return nil, err
	}
	c, err := v.rootTree.seek(key{firstFreeID, 0, 0})
	for err == nil && c.ok && c.k.obj <= lastFreeID {
		id := c.k.obj
		if c.k.typ == typeRoot {
			if err := add(id); err != nil {
				return nil, err
			}
		}
		// Past all that there is of this one.
		next := key{id, typeRoot, 0}
		if c.k.typ >= typeRoot {
			next = key{id + 1, 0, 0}
		}
		c, err = v.rootTree.seek(next)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Subvolume) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// path climbs from a subvolume to the top level.
func (v *volume) path(id uint64) (parent uint64, path string, err error) {
	var names []string
	for depth := 0; id != topLevelID; {
		links, err := v.links(id)
		if err != nil {
			return 0, "", err
		}
		if len(links) == 0 {
			return 0, "", filesys.ErrNotExist
		}
		l := links[0]
		if parent == 0 {
			parent = l.parent
		}
		names = append(names, l.name)
		t, err := v.tree(l.parent)
		if err != nil {
			return 0, "", err
		}
		for dir := l.dir; dir != t.info.rootDir; depth++ {
			if depth > maxDepth {
				return 0, "", corrupt("more than %d directories above it", maxDepth)
			}
			found := false
			err := t.eachRef(dir, func(r nameRef) (bool, error) {
				names = append(names, string(r.name))
				dir, found = r.dir, true
				return false, nil
			})
			if err == nil && !found {
				err = filesys.ErrNotExist
			}
			if err != nil {
				return 0, "", err
			}
		}
		if id, depth = l.parent, depth+1; depth > maxDepth {
			return 0, "", corrupt("more than %d directories above it", maxDepth)
		}
	}
	slices.Reverse(names)
	return parent, strings.Join(names, "/"), nil
}

// Sub shows subvolume id from its root. Its inode numbers are its own: they
// mean nothing to f. It shares f's devices and caches.
func (f *FS) Sub(id uint64) (*FS, error) {
	s, err := f.v.sub(id)
	if err != nil {
		return nil, wrap(err, "subvolume %d", id)
	}
	return s, nil
}
