package btrfs

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
