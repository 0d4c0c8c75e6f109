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

// entryDeletes removes the entries of a directory that are within a range that
// the log speaks of (all: within any) and not in the log.
func (r *replayer) entryDeletes(dir uint64, all bool) error {
	in, err := r.has(dir)
	if err != nil || in == nil {
		return err
	}
	type span struct{ from, to uint64 }
	spans := []span{{0, maxOffset}}
	if !all {
		spans = nil
		c, err := r.log.seek(key{dir, typeDirLogIndex, 0})
		for ; err == nil && c.at(dir, typeDirLogIndex); err = c.next() {
			if len(c.data) < 8 {
				return corrupt("range of a directory's log of %d bytes", len(c.data))
			}
			spans = append(spans, span{c.k.off, le.Uint64(c.data)})
		}
		if err != nil {
			return err
		}
	}
	next := uint64(0) // entries below it were looked at
	for _, s := range spans {
		if s.to < next || s.to < s.from {
			continue
		}
		for at, more := max(s.from, next), true; more; {
			var doomed []doomedEntry
			doomed, at, more, err = r.doomed(dir, at, s.to, all)
			if err == nil {
				err = r.unlinkAll(dir, doomed)
			}
			if err != nil {
				return err
			}
		}
		if s.to == maxOffset {
			break
		}
		next = s.to + 1
	}
	return nil
}

// doomedEntry is an entry that the log no longer has.
type doomedEntry struct {
	index uint64
	e     entry
}

// doomed finds a batch of entries of a directory that are to be removed, from
// one index to another; more says that next is where to go on.
func (r *replayer) doomed(dir, from, to uint64, all bool) (list []doomedEntry, next uint64, more bool, err error) {
	c, err := r.t.seek(key{dir, typeDirIndex, from})
	for ; err == nil && c.at(dir, typeDirIndex) && c.k.off <= to; err = c.next() {
		if len(list) >= dropBatch {
			return list, c.k.off, true, nil
		}
		logged, _, err := r.log.get(c.k)
		if err != nil {
			return nil, 0, false, err
		}
		for e, err := range dirEntries(c.data) {
			if err != nil {
				return nil, 0, false, err
			}
			if all || !findEntry(logged, e.name) {
				list = append(list, doomedEntry{c.k.off, e})
			}
		}
	}
	return list, 0, false, err
}

func (r *replayer) unlinkAll(dir uint64, list []doomedEntry) error {
	for _, d := range list {
		if d.e.location.typ != typeInode {
			continue // subvolumes are not the log's business
		}
		r.fixup[d.e.location.obj] = true
		if err := r.unlink(dir, d.e.location.obj, d.e.name, d.index); err != nil {
			return err
		}
		if r.size() > maxLog {
			return errLogSize
		}
	}
	return nil
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

// refs replays the references of an inode: the names that it has are those, and
// no others in the same item.
func (r *replayer) refs(k key, b []byte) error {
	in, err := r.has(k.obj)
	if err == nil && in == nil {
		err = corrupt("its inode is not there")
	}
	if err != nil {
		return err
	}
	refs, err := decodeRefs(k, b)
	if err != nil {
		return err
	}
	for _, o := range refs {
		if k.obj == r.t.info.rootDir {
			return nil // the root's reference to itself
		}
		dir, err := r.has(o.dir)
		if err != nil {
			return err
		}
		if dir == nil {
			if k.typ == typeInodeRef {
				return nil // the directory was not logged
			}
			continue
		}
		if err := checkName(o.name); err != nil {
			return err
		}
		if ok, err := r.inDir(in, o); err != nil {
			return err
		} else if ok {
			continue
		}
		if err := r.makeRoom(in, o); err != nil {
			return err
		}
		if _, err := r.link(o.dir, in, o.name, o.index); err != nil {
			return err
		}
	}
	// Names that the item had, and has no longer.
	old, ok, err := r.t.get(k)
	if err != nil {
		return err
	}
	if ok {
		had, err := decodeRefs(k, old)
		if err != nil {
			return err
		}
		for _, o := range had {
			if !hasRef(refs, o.dir, o.name) {
				r.fixup[in.obj] = true
				if err := r.unlink(o.dir, in.obj, o.name, o.index); err != nil {
					return err
				}
			}
		}
	}
	r.put(k, b)
	r.fixup[in.obj] = true
	return nil
}

// inDir says whether both entries of a name are as the reference says.
func (r *replayer) inDir(in *inode, o nameRef) (bool, error) {
	want := key{in.obj, typeInode, 0}
	e, ok, err := r.indexEntry(o.dir, o.index, o.name)
	if err != nil || !ok || e.location != want {
		return false, err
	}
	e, ok, err = r.t.lookup(o.dir, string(o.name))
	return ok && e.location == want, err
}

// makeRoom removes what conflicts with a name that is to be added: names of the
// same inode in the same directory that are not in the log, and other entries at
// its index or of its name.
func (r *replayer) makeRoom(in *inode, o nameRef) error {
	for _, k := range []key{{in.obj, typeInodeRef, o.dir}, {in.obj, typeInodeExtref, extrefHash(o.dir, string(o.name))}} {
		b, ok, err := r.t.get(k)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		old, err := decodeRefs(k, b)
		if err != nil {
			return err
		}
		for _, victim := range old {
			if victim.dir != o.dir {
				continue
			}
			logged, err := r.refLogged(k, victim.dir, victim.name)
			if err != nil {
				return err
			}
			if !logged {
				r.fixup[in.obj] = true
				if err := r.unlink(victim.dir, in.obj, victim.name, victim.index); err != nil {
					return err
				}
			}
		}
	}
	if e, ok, err := r.indexEntry(o.dir, o.index, o.name); err != nil {
		return err
	} else if ok {
		if err := r.giveWay(o.dir, e, o.index); err != nil {
			return err
		}
	}
	e, ok, err := r.t.lookup(o.dir, string(o.name))
	if err != nil || !ok {
		return err
	}
	return r.giveWay(o.dir, e, 0)
}
