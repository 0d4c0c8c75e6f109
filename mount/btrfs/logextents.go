package btrfs

import "bytes"

// extent replays an extent of a file: what it overlaps gives way.
func (r *replayer) extent(k key, b []byte) error {
	v := r.t.v
	e, err := v.decodeExtent(k, b)
	if err != nil {
		return err
	}
	in, err := r.has(k.obj)
	if err == nil && in == nil {
		err = corrupt("its inode is not there")
	}
	if err != nil {
		return err
	}
	hole := b[20] != extentInline && e.disk == 0
	stop, taken := e.end, uint64(0)
	switch {
	case e.kind == kindInline:
		taken = e.ram
		sector := uint64(v.super.sector)
		stop = (e.ram + sector - 1) / sector * sector
	case !hole:
		taken = e.end - e.start
	}
	if e.kind != kindInline {
		if old, ok, err := r.t.get(k); err != nil || ok && bytes.Equal(old, b) {
			return err
		}
	}
	if err := r.dropExtents(k.obj, k.off, stop); err != nil {
		return err
	}
	if !hole || v.super.incompat&incompatNoHoles == 0 {
		r.put(k, b)
	}
	return r.change(k.obj, func(b []byte) { le.PutUint64(b[24:], le.Uint64(b[24:])+taken) })
}

// dropBatch is how many extents are held while they are dropped.
const dropBatch = 4096

// dropExtents cuts a range out of a file, and takes what it held from the bytes
// that the inode counts.
func (r *replayer) dropExtents(obj, start, end uint64) error {
	freed := uint64(0)
	for {
		dropped, n, err := r.dropSome(obj, start, end)
		if err != nil {
			return err
		}
		freed += n
		if dropped < dropBatch {
			break
		}
		if r.size() > maxLog {
			return errLogSize
		}
	}
	if freed == 0 {
		return nil
	}
	return r.change(obj, func(b []byte) { le.PutUint64(b[24:], le.Uint64(b[24:])-min(freed, le.Uint64(b[24:]))) })
}

// dropSome drops a batch, and says how many extents and bytes that were.
func (r *replayer) dropSome(obj, start, end uint64) (dropped int, freed uint64, err error) {
	type item struct {
		k    key
		data []byte
		e    extent
	}
	var items []item
	c, err := r.t.seekLast(key{obj, typeExtentData, start})
	for ; err == nil && c.at(obj, typeExtentData) && c.k.off < end && len(items) < dropBatch; err = c.next() {
		e, err := r.t.v.decodeExtent(c.k, c.data)
		if err != nil {
			return 0, 0, err
		}
		if e.end > start || e.end == e.start && e.end >= start {
			items = append(items, item{c.k, c.data, e})
		}
	}
	if err != nil {
		return 0, 0, err
	}
	for _, it := range items {
		e := it.e
		if e.kind == kindInline {
			if start > 0 {
				return 0, 0, unsupported("inline data that is cut at %d", start)
			}
			freed += e.ram
			r.remove(it.k)
			continue
		}
		if e.disk != 0 {
			freed += min(e.end, end) - max(e.start, start)
		}
		r.remove(it.k)
		if e.start < start {
			r.put(it.k, cutExtent(it.data, e, e.start, start))
		}
		if end < e.end {
			r.put(key{obj, typeExtentData, end}, cutExtent(it.data, e, end, e.end))
		}
	}
	return len(items), freed, nil
}

// cutExtent gives the item of a part of an extent.
func cutExtent(b []byte, e extent, from, to uint64) []byte {
	b = bytes.Clone(b)
	if e.disk != 0 {
		le.PutUint64(b[37:], e.off+from-e.start)
	}
	le.PutUint64(b[45:], to-from)
	return b
}
