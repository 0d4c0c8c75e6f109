package btrfs

import (
	"bytes"
	"errors"
	"slices"

	"cairn/mount/filesys"
)

// replayer applies the log of one subvolume to its tree, in memory, with the
// results of Linux's own replay. That it does in three passes over the log: the
// inodes, so that they are there; the entries of directories; then names,
// attributes and extents. At last it counts links anew where names have changed.
type replayer struct {
	t, log *tree
	fixup  map[uint64]bool // inodes whose links are to be counted
	spent  int             // bytes held by others
}

func (r *replayer) size() int { return r.spent + r.t.over.bytes }

func (r *replayer) run() error {
	for _, pass := range []func(key, []byte) error{r.inodePass, r.entryPass, r.lastPass} {
		skip := uint64(0) // an inode without names
		count := 0
		c, err := r.log.seek(key{})
		for ; err == nil && c.ok; err = c.next() {
			if count++; count > maxLogItems {
				return errLogSize
			}
			if c.k.obj < firstFreeID || c.k.obj > lastFreeID {
				continue
			}
			if c.k.typ == typeInode {
				if len(c.data) != inodeSize || c.k.off != 0 {
					return corrupt("inode item %v of %d bytes", c.k, len(c.data))
				}
				if le.Uint32(c.data[40:]) == 0 {
					skip = c.k.obj
				}
			}
			if c.k.obj == skip {
				continue
			}
			if err := pass(c.k, c.data); err != nil {
				return wrap(err, "item %v", c.k)
			}
			if r.size() > maxLog {
				return errLogSize
			}
		}
		if err != nil {
			return err
		}
	}
	return r.fixLinks()
}

func (r *replayer) put(k key, data []byte) {
	r.t.over.set(overItem{k: k, data: bytes.Clone(data)})
}

func (r *replayer) remove(k key) { r.t.over.set(overItem{k: k, deleted: true}) }

// change calls fn with a copy of an inode's item and puts that back.
func (r *replayer) change(obj uint64, fn func(b []byte)) error {
	b, ok, err := r.t.get(key{obj, typeInode, 0})
	if err != nil {
		return err
	}
	if !ok || len(b) != inodeSize {
		return corrupt("inode %d is not there", obj)
	}
	b = bytes.Clone(b)
	fn(b)
	r.t.over.set(overItem{k: key{obj, typeInode, 0}, data: b})
	return nil
}

// has gives an inode of the subvolume, nil if it is not there.
func (r *replayer) has(obj uint64) (*inode, error) {
	in, err := r.t.inode(obj)
	if errors.Is(err, filesys.ErrNotExist) {
		return nil, nil
	}
	return in, err
}

func (r *replayer) inodePass(k key, b []byte) error {
	if k.typ != typeInode {
		return nil
	}
	if err := r.xattrDeletes(k.obj); err != nil {
		return err
	}
	mode := le.Uint32(b[52:]) & filesys.TypeMask
	if mode == filesys.TypeDir {
		if err := r.entryDeletes(k.obj, false); err != nil {
			return err
		}
	}
	if err := r.putInode(k, b); err != nil {
		return err
	}
	if mode == filesys.TypeRegular {
		// What was allocated behind the end may not be so any more.
		in, err := r.t.inode(k.obj)
		if err != nil {
			return err
		}
		sector := uint64(r.t.v.super.sector)
		if err := r.dropExtents(k.obj, (uint64(in.size)+sector-1)/sector*sector, maxOffset); err != nil {
			return err
		}
	}
	r.fixup[k.obj] = true
	return nil
}

// putInode overwrites an inode item. The bytes that a file takes are counted as
// its extents are replayed, the size of a directory as its entries are. A log
// that only says that an inode exists (generation 0) does not change it.
func (r *replayer) putInode(k key, b []byte) error {
	item := bytes.Clone(b)
	old, err := r.has(k.obj)
	if err != nil {
		return err
	}
	isDir := le.Uint32(b[52:])&filesys.TypeMask == filesys.TypeDir
	if old == nil {
		le.PutUint64(item[24:], 0)
		if isDir {
			le.PutUint64(item[16:], 0)
		}
		r.put(k, item)
		return nil
	}
	if le.Uint64(b) == 0 {
		if size := le.Uint64(b[16:]); le.Uint32(b[52:])&filesys.TypeMask == filesys.TypeRegular && old.isRegular() && size != 0 {
			return r.change(k.obj, func(b []byte) { le.PutUint64(b[16:], size) })
		}
		return nil
	}
	le.PutUint64(item[24:], old.nbytes)
	if isDir && old.isDir() {
		le.PutUint64(item[16:], uint64(old.size))
	}
	r.put(k, item)
	return nil
}

func (r *replayer) entryPass(k key, b []byte) error {
	if k.typ != typeDirIndex {
		return nil
	}
	return r.entry(k, b)
}

func (r *replayer) lastPass(k key, b []byte) error {
	switch k.typ {
	case typeXattr:
		r.put(k, b)
	case typeInodeRef, typeInodeExtref:
		return r.refs(k, b)
	case typeExtentData:
		return r.extent(k, b)
	}
	return nil
}

// xattrDeletes removes the attributes that the log no longer has.
func (r *replayer) xattrDeletes(obj uint64) error {
	type item struct {
		k    key
		data []byte
	}
	var items []item
	size := 0
	c, err := r.t.seek(key{obj, typeXattr, 0})
	for ; err == nil && c.at(obj, typeXattr); err = c.next() {
		if size += 64 + len(c.data); size > maxLog/4 {
			return errLogSize
		}
		items = append(items, item{c.k, bytes.Clone(c.data)})
	}
	if err != nil {
		return err
	}
	for _, it := range items {
		logged, _, err := r.log.get(it.k)
		if err != nil {
			return err
		}
		var keep []byte
		for e, err := range dirEntries(it.data) {
			if err != nil {
				return err
			}
			if findEntry(logged, e.name) {
				keep = appendEntry(keep, e)
			}
		}
		switch {
		case len(keep) == 0:
			r.remove(it.k)
		case len(keep) < len(it.data):
			r.put(it.k, keep)
		}
	}
	return nil
}

// fixLinks counts the names of inodes. What has none is deleted, and what is in
// it loses its names.
func (r *replayer) fixLinks() error {
	for len(r.fixup) > 0 {
		var list []uint64
		for obj := range r.fixup {
			list = append(list, obj)
		}
		clear(r.fixup)
		slices.Sort(list)
		for _, obj := range list {
			in, err := r.has(obj)
			if err != nil {
				return err
			}
			if in == nil {
				continue
			}
			n := uint32(0)
			if obj == r.t.info.rootDir {
				n = 1
			} else if err := r.t.eachRef(obj, func(nameRef) (bool, error) { n++; return true, nil }); err != nil {
				return err
			}
			if n != in.nlink {
				if err := r.change(obj, func(b []byte) { le.PutUint32(b[40:], n) }); err != nil {
					return err
				}
			}
			if n == 0 && in.isDir() {
				if err := r.entryDeletes(obj, true); err != nil {
					return err
				}
			}
		}
		if r.size() > maxLog {
			return errLogSize
		}
	}
	return nil
}
