package ntfs

import (
	"fmt"

	"cairn/mount/filesys"
)

// maxUnitBits bounds a compression unit to 1 MiB. Windows makes units of 16
// clusters of at most 4 KiB.
const maxUnitBits = 20

// A compressed stream is cut into units of 2^unit clusters. In the runs, a unit
// of data that could not be compressed has all of its clusters; a unit of zeros
// none; any other as many as its compressed form needs, and then a hole.

// unit is where the compressed form of a unit lies.
type unit struct {
	runs     []run
	clusters uint64 // that it has
	whole    bool   // it has all of them, and is not compressed
}

// unitAt finds unit nr.
func (s *stream) unitAt(nr uint64) (unit, error) {
	var u unit
	vcn := nr << s.first.unit
	// A last unit may end with the attribute, if it is not compressed.
	last := (uint64(s.first.allocated) + uint64(s.fs.b.clusterSize()) - 1) >> s.fs.b.clusterBits
	end := min(vcn+1<<s.first.unit, last)
	all, ended := end-vcn, false
	for vcn < end {
		r, err := s.run(vcn)
		if err != nil {
			return u, err
		}
		r.n = min(r.n, end-vcn)
		vcn += r.n
		if r.lcn == hole {
			ended = true
			continue
		}
		if ended {
			return u, corrupt("inode %d: compression unit %d has a hole in it", s.base.num, nr)
		}
		u.runs = append(u.runs, r)
		u.clusters += r.n
	}
	u.whole = u.clusters == all
	return u, nil
}

// readUnits reads [off, off+len(p)), which is initialized.
func (s *stream) readUnits(p []byte, off int64) (done int, err error) {
	bits := s.fs.b.clusterBits + uint(s.first.unit)
	for done < len(p) {
		pos := off + int64(done)
		nr, in := uint64(pos)>>bits, pos&(1<<bits-1)
		part := p[done:]
		if int64(len(part)) > 1<<bits-in {
			part = part[:1<<bits-in]
		}
		if err := s.readUnit(part, nr, in); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// readUnit reads from byte in of unit nr. The unit last decompressed for a part
// of it is likely to be asked for again.
func (s *stream) readUnit(p []byte, nr uint64, in int64) error {
	u, err := s.unitAt(nr)
	if err != nil {
		return err
	}
	switch {
	case u.clusters == 0:
		clear(p)
		return nil
	case u.whole:
		_, err := s.readPlain(p, int64(nr<<s.first.unit<<s.fs.b.clusterBits)+in)
		return err
	}
	size := 1 << (s.fs.b.clusterBits + uint(s.first.unit))
	k := s.unitKey(nr)
	if plain, ok := s.fs.cache.get(k).([]byte); ok {
		copy(p, plain[in:])
		return nil
	}
	packed := make([]byte, u.clusters<<s.fs.b.clusterBits)
	if _, err := s.readPlain(packed, int64(nr<<s.first.unit<<s.fs.b.clusterBits)); err != nil {
		return err
	}
	plain := p
	if len(p) < size {
		plain = make([]byte, size)
	}
	if err := lznt1(plain, packed); err != nil {
		return fmt.Errorf("inode %d: compression unit %d: %w", s.base.num, nr, err)
	}
	if len(p) < size {
		s.fs.cache.put(k, plain, size)
		copy(p, plain[in:])
	}
	return nil
}

// unitKey is where the cache has unit nr.
func (s *stream) unitKey(nr uint64) cacheKey {
	return cacheKey{kind: kindUnit, sub: uint32(s.first.id), a: s.where.num, b: nr}
}

// storedUnit tells where the unit with byte off lies.
func (s *stream) storedUnit(off int64) (filesys.Range, int64, error) {
	bits := s.fs.b.clusterBits + uint(s.first.unit)
	nr, in := uint64(off)>>bits, off&(1<<bits-1)
	n := min(1<<bits-in, s.first.initialized-off)
	u, err := s.unitAt(nr)
	if err != nil {
		return filesys.Range{}, 0, err
	}
	shift := s.fs.b.clusterBits
	switch {
	case u.clusters == 0:
		// A hole of many units is reported as one.
		r, err := s.run(nr << s.first.unit)
		if err != nil {
			return filesys.Range{}, 0, err
		}
		if units := r.n >> s.first.unit; units > 1 {
			n = min(int64(units<<s.first.unit<<shift)-in, s.first.initialized-off)
		}
		return filesys.Range{}, n, nil
	case u.whole:
		for _, r := range u.runs {
			if size := int64(r.n << shift); in < size {
				n = min(n, size-in)
				return filesys.Range{Off: r.lcn<<shift + in, Len: n}, n, nil
			} else {
				in -= size
			}
		}
	case len(u.runs) == 1 && int64(u.clusters<<shift) != n:
		// As many bytes as there is content would look like plain data.
		return filesys.Range{Off: u.runs[0].lcn << shift, Len: int64(u.clusters << shift)}, n, nil
	}
	return filesys.Range{Off: -1, Len: int64(u.clusters << shift)}, n, nil
}
