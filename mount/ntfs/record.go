package ntfs

import (
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

// stride is how many bytes one entry of an update sequence protects, whatever
// the size of the volume's sectors.
const stride = 512

// Flags of an MFT record.
const (
	recordInUse  = 1
	recordIsDir  = 2
	recordIsView = 8 // has indexes other than of names
)

// fixup checks the update sequence of a record or index block and puts the
// bytes back that it displaced: the last two bytes of every 512 are a number
// that changes with each write, so that a torn write shows.
func fixup(p []byte) error {
	off, n := int(le.Uint16(p[4:])), int(le.Uint16(p[6:]))
	if n != len(p)/stride+1 || off&1 != 0 || off < 8 || off+2*n > stride-2 {
		return corrupt("update sequence of %d numbers at %d", n, off)
	}
	usn := p[off : off+2]
	for i := 1; i < n; i++ {
		at := i*stride - 2
		if p[at] != usn[0] || p[at+1] != usn[1] {
			return corrupt("torn write: sector %d has update sequence %02x%02x instead of %02x%02x", i-1, p[at+1], p[at], usn[1], usn[0])
		}
		copy(p[at:at+2], p[off+2*i:])
	}
	return nil
}

// record is a checked MFT record. It may be an inode's base or hold more of its
// attributes.
type record struct {
	num   uint64
	seq   uint16
	links uint16
	flags uint16
	base  uint64 // reference to the base record, 0 in a base record
	attrs []attr
}

// parseRecord checks the bytes of record num, which it changes. Records that
// are not in use have no attributes.
func parseRecord(p []byte, num uint64) (*record, error) {
	if string(p[:4]) != "FILE" {
		return nil, corrupt("MFT record %d: it begins with %q", num, p[:4])
	}
	if err := fixup(p); err != nil {
		return nil, fmt.Errorf("MFT record %d: %w", num, err)
	}
	// Since NTFS 3.1 a record knows its number.
	if usa := le.Uint16(p[4:]); usa >= 0x30 && le.Uint32(p[0x2C:]) != uint32(num) {
		return nil, corrupt("MFT record %d: it is record %d", num, le.Uint32(p[0x2C:]))
	}
	rec := &record{num: num, seq: le.Uint16(p[0x10:]), links: le.Uint16(p[0x12:]), flags: le.Uint16(p[0x16:]), base: le.Uint64(p[0x20:])}
	if rec.flags&recordInUse == 0 {
		return rec, nil
	}
	first, used := int(le.Uint16(p[0x14:])), le.Uint32(p[0x18:])
	if uint64(used) > uint64(len(p)) || first < 0x2A || first > int(used) {
		return nil, corrupt("MFT record %d: attributes from %d to %d", num, first, used)
	}
	var err error
	if rec.attrs, err = parseAttrs(p[first:used]); err != nil {
		return nil, fmt.Errorf("MFT record %d: %w", num, err)
	}
	return rec, nil
}

// cost is about what a record takes in memory.
func (r *record) cost(size int) int { return size + 192*len(r.attrs) }

// find gives the first attribute of a type and name, nil without one.
func (r *record) find(typ uint32, name string) *attr {
	for i := range r.attrs {
		if a := &r.attrs[i]; a.typ == typ && a.name == name {
			return a
		}
	}
	return nil
}

// fileAttrs are the file attributes in a base record's standard information.
func (r *record) fileAttrs() uint32 {
	std := r.find(attrStandard, "")
	if std == nil || std.nonresident || len(std.value) < 36 {
		return 0
	}
	return le.Uint32(std.value[32:])
}

// A reference names a record and the use of it: 48 bits of number, 16 bits that
// count how often the record was taken into use.
func refNum(ref uint64) uint64 { return ref & (1<<48 - 1) }
func refSeq(ref uint64) uint16 { return uint16(ref >> 48) }

// record reads a record, in use or not. Of the first ones the volume keeps a
// copy, which is read when the original is damaged.
func (f *FS) record(num uint64) (*record, error) {
	k := cacheKey{kind: kindRecord, a: num}
	if rec, ok := f.cache.get(k).(*record); ok {
		return rec, nil
	}
	size := 1 << f.b.recordBits
	p := make([]byte, size)
	err := f.mft.read(f, p, num)
	var rec *record
	if err == nil {
		rec, err = parseRecord(p, num)
	}
	if num < mirrored && errors.Is(err, filesys.ErrCorrupt) {
		if copied, mirrorErr := f.mirrorRecord(num); mirrorErr == nil {
			rec, err = copied, nil
		}
	}
	if err != nil {
		return nil, err
	}
	f.cache.put(k, rec, rec.cost(size))
	return rec, nil
}

// mirrored is how many records $MFTMirr has at least.
const mirrored = 4

// mirrorRecord reads record num from $MFTMirr.
func (f *FS) mirrorRecord(num uint64) (*record, error) {
	if f.b.mirror >= f.b.clusters {
		return nil, corrupt("mirror of the MFT in cluster %d of %d", f.b.mirror, f.b.clusters)
	}
	p := make([]byte, 1<<f.b.recordBits)
	if err := readFull(f.r, p, int64(f.b.mirror<<f.b.clusterBits+num<<f.b.recordBits)); err != nil {
		return nil, err
	}
	return parseRecord(p, num)
}

// extension reads the record that ref names, for more attributes of in.
func (f *FS) extension(base *record, ref uint64) (*record, error) {
	num := refNum(ref)
	if num == base.num {
		if refSeq(ref) != base.seq {
			return nil, corrupt("inode %d: its attribute list is of another file", base.num)
		}
		return base, nil
	}
	rec, err := f.record(num)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", base.num, err)
	}
	if rec.flags&recordInUse == 0 || rec.seq != refSeq(ref) || refNum(rec.base) != base.num || rec.base>>48 != uint64(base.seq) {
		return nil, corrupt("inode %d: MFT record %d does not belong to it", base.num, num)
	}
	return rec, nil
}
