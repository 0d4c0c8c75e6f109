package btrfs

import (
	"fmt"
	"math"

	"cairn/mount/filesys"
)

// maxNames bounds what Names gives: Linux allows 65,535 links.
const maxNames = 1 << 16

// Names lists the names that an inode's references record. The root of a
// subvolume has the name under which that hangs.
func (f *FS) Names(ino uint64) ([]filesys.Name, error) {
	if ino == f.Root() {
		return nil, fmt.Errorf("names of the root: %w", filesys.ErrInvalid)
	}
	if !f.isDead(ino) {
		if _, err := f.inode(ino); err != nil {
			return nil, err
		}
	}
	return f.names(ino, maxNames)
}

func (f *FS) names(ino uint64, limit int) (list []filesys.Name, err error) {
	if f.isDead(ino) {
		return f.deadNames(ino)
	}
	t, obj, err := f.place(ino)
	if err != nil {
		return nil, err
	}
	if obj == t.info.rootDir {
		links, err := f.v.links(t.id)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			dir, err := f.number(l.parent, l.dir)
			if err != nil {
				return nil, err
			}
			list = append(list, filesys.Name{Parent: dir, Name: l.name})
		}
		return list, nil
	}
	err = t.eachRef(obj, func(r nameRef) (bool, error) {
		if err := checkName(r.name); err != nil {
			return false, err
		}
		dir, err := f.number(t.id, r.dir)
		list = append(list, filesys.Name{Parent: dir, Name: string(r.name)})
		return len(list) < limit, err
	})
	if err != nil {
		return nil, wrap(err, "names of inode %d", ino)
	}
	return list, nil
}

// nameRef is a reference from an inode back to one of its names.
type nameRef struct {
	dir, index uint64
	name       []byte
}

// eachRef calls fn with the references of an inode, of both kinds.
func (t *tree) eachRef(obj uint64, fn func(nameRef) (bool, error)) error {
	c, err := t.seek(key{obj, typeInodeRef, 0})
	for ; err == nil && (c.at(obj, typeInodeRef) || c.at(obj, typeInodeExtref)); err = c.next() {
		refs, err := decodeRefs(c.k, c.data)
		if err != nil {
			return err
		}
		for _, r := range refs {
			if more, err := fn(r); err != nil || !more {
				return err
			}
		}
	}
	return err
}

// decodeRefs reads the references in an item: those of one directory, or those
// of one hash.
func decodeRefs(k key, b []byte) (list []nameRef, err error) {
	head := 10
	if k.typ == typeInodeExtref {
		head = 18
	}
	for len(b) > 0 {
		if len(b) < head {
			return nil, corrupt("%d bytes behind the last reference of %v", len(b), k)
		}
		r := nameRef{dir: k.off, index: le.Uint64(b[head-10:])}
		if head == 18 {
			r.dir = le.Uint64(b)
		}
		end := head + int(le.Uint16(b[head-2:]))
		if end > len(b) || len(list) > math.MaxUint16 {
			return nil, corrupt("a reference of %d bytes in %d of %v", end, len(b), k)
		}
		r.name = b[head:end]
		list = append(list, r)
		b = b[end:]
	}
	return list, nil
}
