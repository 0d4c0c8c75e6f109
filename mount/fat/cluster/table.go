package cluster

import (
	"encoding/binary"
	"fmt"
)

// First is the number of the first cluster.
const First = 2

// Table is a file allocation table, and where the clusters that it tells of are.
type Table struct {
	Volume   *Volume
	Off      int64  // where entry 0 is, in bytes
	Width    int    // of an entry in bits: 12, 16 or 32
	Mask     uint32 // the bits of an entry that count
	End      uint32 // entries from here on end a chain
	Clusters uint32 // how many there are, numbered from First
	Heap     int64  // where cluster First is, in bytes
	Bits     uint   // binary logarithm of a cluster's size in bytes

	chains *Cache[chainKey, *Chain]
}

// chainLimit bounds the chains that one Table keeps.
const chainLimit = 8 << 20

// Init makes the table usable, once its fields are set.
func (t *Table) Init() { t.chains = NewCache[chainKey, *Chain](chainLimit) }

// Size is a cluster's size in bytes.
func (t *Table) Size() int64 { return 1 << t.Bits }

// Valid says whether there is a cluster c.
func (t *Table) Valid(c uint32) bool { return c >= First && c-First < t.Clusters }

// Place is where cluster c begins, in bytes.
func (t *Table) Place(c uint32) int64 { return t.Heap + int64(c-First)<<t.Bits }

// Count gives the number of clusters that n bytes take.
func (t *Table) Count(n int64) int64 { return int64((uint64(n) + 1<<t.Bits - 1) >> t.Bits) }

// entry reads the entry of cluster c.
func (t *Table) entry(w *Window, c uint32) (uint32, error) {
	switch t.Width {
	case 12:
		off := t.Off + int64(c) + int64(c>>1)
		b, err := w.At(off, 1)
		if err != nil {
			return 0, err
		}
		v := uint32(b[0])
		if b, err = w.At(off+1, 1); err != nil {
			return 0, err
		}
		v |= uint32(b[0]) << 8
		return v >> (4 * (c & 1)) & t.Mask, nil
	case 16:
		b, err := w.At(t.Off+2*int64(c), 2)
		if err != nil {
			return 0, err
		}
		return uint32(binary.LittleEndian.Uint16(b)) & t.Mask, nil
	default:
		b, err := w.At(t.Off+4*int64(c), 4)
		if err != nil {
			return 0, err
		}
		return binary.LittleEndian.Uint32(b) & t.Mask, nil
	}
}

// Entry reads the entry of any number, for those that have a meaning of their
// own (0 and 1).
func (t *Table) Entry(c uint32) (uint32, error) { return t.entry(t.Volume.Window(), c) }

// broken says why the entry v of cluster c neither goes on nor ends a chain.
func (t *Table) broken(c, v uint32) error {
	switch {
	case v == 0:
		return fmt.Errorf("it leads to cluster %d, which is free", c)
	case v == t.Mask&^8:
		return fmt.Errorf("it leads to cluster %d, which is marked as bad", c)
	}
	return fmt.Errorf("cluster %d leads to %d of %d", c, v, t.Clusters)
}

// countChunk is how much of the table CountFree reads at once.
const countChunk = 1 << 20

// CountFree counts the clusters whose entry is 0. It reads the whole table.
func (t *Table) CountFree() (free uint32, err error) {
	if t.Width == 12 {
		w := t.Volume.Window()
		for c := uint32(First); c < First+t.Clusters; c++ {
			v, err := t.entry(w, c)
			if err != nil {
				return 0, err
			}
			if v == 0 {
				free++
			}
		}
		return free, nil
	}
	size := int64(t.Width / 8)
	off, end := t.Off+First*size, t.Off+(First+int64(t.Clusters))*size
	buf := make([]byte, min(countChunk, end-off))
	for off < end {
		p := buf[:min(int64(len(buf)), end-off)]
		if err := t.Volume.ReadFull(p, off); err != nil {
			return 0, err
		}
		off += int64(len(p))
		if t.Width == 16 {
			for ; len(p) > 0; p = p[2:] {
				if p[0]|p[1] == 0 {
					free++
				}
			}
			continue
		}
		for ; len(p) > 0; p = p[4:] {
			if binary.LittleEndian.Uint32(p)&t.Mask == 0 {
				free++
			}
		}
	}
	return free, nil
}
