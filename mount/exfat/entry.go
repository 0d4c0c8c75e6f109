package exfat

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// Types of directory entries, with the bit that says that they are in use.
const (
	typeEnd    = 0x00
	typeBitmap = 0x81
	typeUpcase = 0x82
	typeLabel  = 0x83
	typeFile   = 0x85
	// typePadding is TexFAT's, and the only primary without a checksum.
	typePadding = 0xA1
	typeStream  = 0xC0
	typeName    = 0xC1

	bitInUse     = 0x80
	bitSecondary = 0x40
	bitBenign    = 0x20
)

// File attributes.
const (
	attrReadOnly  = 0x01
	attrDirectory = 0x10
)

const (
	nameUnits = 15  // in an entry
	maxUnits  = 255 // in a name
)

// entry is a file or directory as its set of entries tells.
type entry struct {
	ino         uint64
	start, next int64 // slots, in its directory
	name        string
	attr        uint16
	contiguous  bool
	first       uint32
	size        int64
	valid       int64
	created     time.Time
	modified    time.Time
	accessed    time.Time
}

func (e *entry) isDir() bool { return e.attr&attrDirectory != 0 }

// reader gives entry number i of a set.
type reader func(i int) ([]byte, error)

// parseSet reads the entries of a file. Errors that wrap ErrCorrupt or
// ErrUnsupported are about this set, and not about what is around it.
func parseSet(read reader) (*entry, error) {
	p, err := read(0)
	if err != nil {
		return nil, err
	}
	if p[0] != typeFile {
		return nil, cluster.Corrupt("an entry of type %#x instead of a file", p[0])
	}
	n, want := int(p[1]), le.Uint16(p[2:])
	if n < 2 {
		return nil, cluster.Corrupt("a file of %d entries", n+1)
	}
	e := &entry{
		attr:     le.Uint16(p[4:]),
		created:  stamp(le.Uint32(p[8:]), p[20], p[22]),
		modified: stamp(le.Uint32(p[12:]), p[21], p[23]),
		accessed: stamp(le.Uint32(p[16:]), 0, p[24]),
	}
	sum := setChecksum(0, p, true)
	var units []uint16
	length := 0
	for i := 1; i <= n; i++ {
		if p, err = read(i); err != nil {
			return nil, err
		}
		switch {
		case i == 1 && p[0] == typeStream:
			length = int(p[3])
			e.contiguous = p[1]&2 != 0
			e.valid, e.size = int64(le.Uint64(p[8:])), int64(le.Uint64(p[24:]))
			e.first = le.Uint32(p[20:])
		case i == 1:
			return nil, cluster.Corrupt("a file without a stream")
		case p[0] == typeName && len(units) < length:
			for k := 0; k < nameUnits && len(units) < length; k++ {
				units = append(units, le.Uint16(p[2+2*k:]))
			}
		case p[0]&(bitInUse|bitSecondary) != bitInUse|bitSecondary:
			return nil, cluster.Corrupt("an entry of type %#x within a file", p[0])
		case len(units) < length:
			return nil, cluster.Corrupt("a name of %d characters instead of %d", len(units), length)
		case p[0]&bitBenign == 0 && p[0] != typeName:
			return nil, fmt.Errorf("secondary directory entries of type %#x: %w", p[0], filesys.ErrUnsupported)
		}
		sum = setChecksum(sum, p, false)
	}
	switch {
	case sum != want:
		return nil, cluster.Corrupt("entries have the wrong checksum")
	case length == 0 || len(units) < length:
		return nil, cluster.Corrupt("a name of %d characters instead of %d", len(units), length)
	case e.size < 0 || e.valid < 0 || e.valid > e.size:
		return nil, cluster.Corrupt("a file of %d bytes, %d of them valid", uint64(e.size), uint64(e.valid))
	}
	e.name = cluster.DecodeUTF16(units)
	if !usable(e.name) {
		return nil, cluster.Corrupt("a file with the name %q", e.name)
	}
	return e, nil
}

// setChecksum goes on with a set's checksum, which leaves out itself.
func setChecksum(sum uint16, p []byte, first bool) uint16 {
	for i, c := range p {
		if !first || i != 2 && i != 3 {
			sum = bits.RotateLeft16(sum, -1) + uint16(c)
		}
	}
	return sum
}

// stamp makes a time of date and time in DOS format, hundredths of a second,
// and the offset from UTC in quarters of an hour, which counts if its top bit
// is set.
func stamp(at uint32, ms10, offset byte) time.Time {
	t := cluster.Stamp(uint16(at>>16), uint16(at), ms10)
	if offset&0x80 == 0 || t.IsZero() {
		return t
	}
	quarters := int8(offset<<1) >> 1
	return t.Add(-time.Duration(quarters) * 15 * time.Minute)
}

// usable says whether a path can have a name.
func usable(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// load reads the entries that an inode number names.
//
// They may go on in another cluster of the directory. The number does not tell
// which directory that is; but it goes on either in the next cluster of the
// volume or in the one that the table names, and the checksum tells which.
func (f *FS) load(ino uint64) (*entry, error) {
	b := f.boot
	heap, end := uint64(b.heap), uint64(b.heap)+uint64(b.clusters)<<b.clusterBits
	if ino >= end/cluster.SlotSize || ino*cluster.SlotSize < heap || ino*cluster.SlotSize >= uint64(f.volume.Size()) {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	off := int64(ino * cluster.SlotSize)
	w := f.volume.Window()
	head, err := w.At(off, cluster.SlotSize)
	if err == nil && head[0] != typeFile {
		err = filesys.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	c := cluster.First + uint32((off-b.heap)>>b.clusterBits)
	left := int((f.table.Place(c) + f.table.Size() - off) / cluster.SlotSize)
	follow := func(c uint32, byTable bool) (uint32, error) {
		next, err := c+1, error(nil)
		if byTable {
			next, err = f.table.Entry(c)
		}
		if err == nil && !f.table.Valid(next) {
			err = cluster.Corrupt("entries go on in cluster %d of %d", next, b.clusters)
		}
		return next, err
	}
	parse := func(byTable bool) (*entry, error) {
		return parseSet(func(i int) ([]byte, error) {
			if i < left {
				return w.At(off+int64(i)*cluster.SlotSize, cluster.SlotSize)
			}
			// A set of 19 entries, which is 608 bytes, can take part in three
			// clusters if those are of 512 bytes.
			at, err := follow(c, byTable)
			i -= left
			for per := int(f.table.Size() / cluster.SlotSize); err == nil && i >= per; i -= per {
				at, err = follow(at, byTable)
			}
			if err != nil {
				return nil, err
			}
			return w.At(f.table.Place(at)+int64(i)*cluster.SlotSize, cluster.SlotSize)
		})
	}
	e, err := parse(true)
	if cluster.Damaged(err) && left <= int(head[1]) {
		if other, otherErr := parse(false); otherErr == nil {
			e, err = other, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	e.ino = ino
	return e, nil
}
