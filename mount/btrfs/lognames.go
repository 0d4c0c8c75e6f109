package btrfs

import (
	"bytes"
	"slices"

	"cairn/mount/filesys"
)

func findEntry(item, name []byte) bool {
	for e, err := range dirEntries(item) {
		if err != nil {
			return false
		}
		if bytes.Equal(e.name, name) {
			return true
		}
	}
	return false
}

func appendEntry(b []byte, e entry) []byte {
	b = le.AppendUint64(b, e.location.obj)
	b = append(b, e.location.typ)
	b = le.AppendUint64(b, e.location.off)
	b = le.AppendUint64(b, 0) // the transaction, which no reader asks for
	b = le.AppendUint16(b, uint16(len(e.data)))
	b = le.AppendUint16(b, uint16(len(e.name)))
	b = append(b, e.kind)
	return append(append(b, e.name...), e.data...)
}

// refLogged says whether an item of the log has a reference from a directory
// under a name.
func (r *replayer) refLogged(k key, dir uint64, name []byte) (bool, error) {
	b, ok, err := r.log.get(k)
	if err != nil || !ok {
		return false, err
	}
	refs, err := decodeRefs(k, b)
	if err != nil {
		return false, err
	}
	return hasRef(refs, dir, name), nil
}

func hasRef(refs []nameRef, dir uint64, name []byte) bool {
	return slices.ContainsFunc(refs, func(o nameRef) bool { return o.dir == dir && bytes.Equal(o.name, name) })
}

// indexEntry gives the entry at an index of a directory if it has that name.
func (r *replayer) indexEntry(dir, index uint64, name []byte) (entry, bool, error) {
	b, ok, err := r.t.get(key{dir, typeDirIndex, index})
	if err != nil || !ok {
		return entry{}, false, err
	}
	for e, err := range dirEntries(b) {
		if err != nil {
			return entry{}, false, err
		}
		if bytes.Equal(e.name, name) {
			return e, true, nil
		}
	}
	return entry{}, false, nil
}

// grow changes a directory's size, to which each name adds twice its length.
func (r *replayer) grow(dir uint64, by int) error {
	return r.change(dir, func(b []byte) { le.PutUint64(b[16:], uint64(max(0, int64(le.Uint64(b[16:]))+int64(by)))) })
}

// unlink removes a name of an inode: the entry by hash, the one by index (which
// the reference tells, or hint) and the reference. What of these is not there
// is no matter.
func (r *replayer) unlink(dir, obj uint64, name []byte, hint uint64) error {
	k := key{dir, typeDirItem, nameHash(string(name))}
	b, ok, err := r.t.get(k)
	if err != nil {
		return err
	}
	removed := false
	if ok {
		var keep []byte
		for e, err := range dirEntries(b) {
			if err != nil {
				return err
			}
			if bytes.Equal(e.name, name) {
				removed = true
			} else {
				keep = appendEntry(keep, e)
			}
		}
		if len(keep) == 0 {
			r.remove(k)
		} else if removed {
			r.put(k, keep)
		}
	}
	index, err := r.dropRef(dir, obj, name)
	if err != nil {
		return err
	}
	for _, i := range []uint64{index, hint} {
		if i == 0 {
			continue
		}
		if _, ok, err := r.indexEntry(dir, i, name); err != nil {
			return err
		} else if ok {
			r.remove(key{dir, typeDirIndex, i})
			removed = true
		}
	}
	if !removed {
		return nil
	}
	return r.grow(dir, -2*len(name))
}

// dropRef removes a reference and gives the index that it had, or 0.
func (r *replayer) dropRef(dir, obj uint64, name []byte) (index uint64, err error) {
	for _, k := range []key{{obj, typeInodeRef, dir}, {obj, typeInodeExtref, extrefHash(dir, string(name))}} {
		b, ok, err := r.t.get(k)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		refs, err := decodeRefs(k, b)
		if err != nil {
			return 0, err
		}
		keep := slices.DeleteFunc(slices.Clone(refs), func(o nameRef) bool {
			if o.dir == dir && bytes.Equal(o.name, name) {
				index = o.index
				return true
			}
			return false
		})
		if len(keep) == len(refs) {
			continue
		}
		if len(keep) == 0 {
			r.remove(k)
		} else {
			r.put(k, encodeRefs(k.typ, keep))
		}
		return index, nil
	}
	return 0, nil
}

func encodeRefs(typ uint8, refs []nameRef) (b []byte) {
	for _, o := range refs {
		if typ == typeInodeExtref {
			b = le.AppendUint64(b, o.dir)
		}
		b = le.AppendUint64(b, o.index)
		b = le.AppendUint16(b, uint16(len(o.name)))
		b = append(b, o.name...)
	}
	return b
}

// link adds a name, unless the directory has it or the index already. It leaves
// the reference to the caller.
func (r *replayer) link(dir uint64, in *inode, name []byte, index uint64) (bool, error) {
	k := key{dir, typeDirItem, nameHash(string(name))}
	b, _, err := r.t.get(k)
	if err != nil {
		return false, err
	}
	_, taken, err := r.t.get(key{dir, typeDirIndex, index})
	if err != nil || taken || findEntry(b, name) {
		return false, err
	}
	e := entry{location: key{in.obj, typeInode, 0}, name: name}
	for kind, mode := range types {
		if mode == in.mode&filesys.TypeMask {
			e.kind = uint8(kind)
		}
	}
	r.put(k, appendEntry(bytes.Clone(b), e))
	r.put(key{dir, typeDirIndex, index}, appendEntry(nil, e))
	return true, r.grow(dir, 2*len(name))
}

// entry replays an entry of a directory that was synced.
func (r *replayer) entry(k key, b []byte) error {
	for e, err := range dirEntries(b) {
		if err == nil {
			err = checkName(e.name)
		}
		if err == nil && e.location.typ != typeInode {
			err = unsupported("an entry for a subvolume")
		}
		if err == nil {
			err = r.oneEntry(k, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *replayer) oneEntry(k key, e entry) error {
	dir, err := r.has(k.obj)
	if err == nil && dir == nil {
		err = corrupt("its directory is not there")
	}
	if err != nil {
		return err
	}
	in, err := r.has(e.location.obj)
	if err != nil {
		return err
	}
	// Whatever has the name or the index, and is something else, gives way.
	same := 0
	if old, ok, err := r.t.lookup(k.obj, string(e.name)); err != nil {
		return err
	} else if ok {
		if old.location == e.location {
			same++
		} else if in != nil {
			if err := r.giveWay(k.obj, old, 0); err != nil {
				return err
			}
		}
	}
	if old, ok, err := r.indexEntry(k.obj, k.off, e.name); err != nil {
		return err
	} else if ok {
		if old.location == e.location {
			same++
		} else if in != nil {
			if err := r.giveWay(k.obj, old, k.off); err != nil {
				return err
			}
		}
	}
	if same == 2 {
		return nil
	}
	// A name whose reference is in the log is added with that.
	for _, ref := range []key{{e.location.obj, typeInodeRef, k.obj}, {e.location.obj, typeInodeExtref, extrefHash(k.obj, string(e.name))}} {
		if logged, err := r.refLogged(ref, k.obj, e.name); err != nil || logged {
			return err
		}
	}
	if in == nil {
		return nil
	}
	added, err := r.link(k.obj, in, e.name, k.off)
	if err != nil || !added {
		return err
	}
	ref := key{in.obj, typeInodeRef, k.obj}
	refs, _, err := r.t.get(ref)
	if err != nil {
		return err
	}
	r.put(ref, append(bytes.Clone(refs), encodeRefs(typeInodeRef, []nameRef{{dir: k.obj, index: k.off, name: e.name}})...))
	if !in.isDir() {
		r.fixup[in.obj] = true
	}
	return nil
}

// giveWay removes an entry that stands where another has to.
func (r *replayer) giveWay(dir uint64, e entry, index uint64) error {
	if e.location.typ != typeInode {
		return unsupported("an entry that replaces a subvolume")
	}
	r.fixup[e.location.obj] = true
	return r.unlink(dir, e.location.obj, e.name, index)
}
