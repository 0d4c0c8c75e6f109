package btrfs

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
