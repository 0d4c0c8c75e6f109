package ntfs

import "fmt"

// maxList is the largest attribute list that Windows makes.
const maxList = 256 << 10

// listEntry says in which record a piece of an attribute is.
type listEntry struct {
	typ  uint32
	id   uint16
	low  uint64
	ref  uint64
	name string
}

// listEntries reads an inode's attribute list.
func (f *FS) listEntries(base *record, a *attr) ([]listEntry, error) {
	p, err := f.listValue(base, a)
	if err != nil {
		return nil, fmt.Errorf("inode %d: attribute list: %w", base.num, err)
	}
	var entries []listEntry
	for len(p) > 0 {
		if len(p) < 26 {
			return nil, corrupt("inode %d: the attribute list ends in the middle of an entry", base.num)
		}
		n, nameOff, nameLen := int(le.Uint16(p[4:])), int(p[7]), 2*int(p[6])
		if n < 26 || n&7 != 0 || n > len(p) || nameLen > 0 && nameOff+nameLen > n {
			return nil, corrupt("inode %d: an entry of %d bytes in the attribute list", base.num, n)
		}
		e := listEntry{typ: le.Uint32(p), low: le.Uint64(p[8:]), ref: le.Uint64(p[16:]), id: le.Uint16(p[24:])}
		if nameLen > 0 {
			e.name = string(p[nameOff : nameOff+nameLen])
		}
		if last := len(entries) - 1; last >= 0 && e.typ == entries[last].typ && e.name == entries[last].name && e.low != 0 && e.low <= entries[last].low {
			return nil, corrupt("inode %d: the attribute list is not in order", base.num)
		}
		entries = append(entries, e)
		p = p[n:]
	}
	return entries, nil
}

// listValue reads the value of an attribute list, all of whose runs are in the
// base record.
func (f *FS) listValue(base *record, a *attr) ([]byte, error) {
	if !a.nonresident {
		return a.value, nil
	}
	if a.low != 0 || a.size > maxList {
		return nil, corrupt("%d bytes from cluster %d", a.size, a.low)
	}
	s := &stream{fs: f, base: base, first: a, pieces: []listEntry{{typ: attrList, id: a.id, ref: uint64(base.seq)<<48 | base.num}}}
	return s.readAll(maxList)
}

// piece finds the attribute record that an entry of the list names.
func (r *record) piece(e listEntry) (*attr, error) {
	for i := range r.attrs {
		a := &r.attrs[i]
		if a.typ == e.typ && a.id == e.id && a.name == e.name && a.low == e.low {
			return a, nil
		}
	}
	return nil, corrupt("MFT record %d has no attribute %#x with number %d", r.num, e.typ, e.id)
}
