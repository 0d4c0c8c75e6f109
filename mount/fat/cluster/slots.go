package cluster

import "io"

// SlotSize is the size of a directory entry in both formats, in bytes.
const SlotSize = 32

// Slots is a directory as a row of entries of 32 bytes: along a chain, or in
// the fixed place where FAT12 and FAT16 keep their root directory.
type Slots struct {
	volume *Volume
	chain  *Chain
	off    int64 // of the fixed place
	n      int64 // entries
	end    error // what stands behind the last
}

// ChainSlots are the entries along a chain: as many as it has clusters for, but
// not more than max. Behind the last is an error if the chain breaks there, or
// if it goes on behind max.
func ChainSlots(c *Chain, max int64) *Slots {
	s := &Slots{volume: c.t.Volume, chain: c, n: c.n << c.t.Bits / SlotSize, end: io.EOF}
	if err := c.Ended(); err != nil {
		s.end = err
	}
	if c.n > c.t.Count(max*SlotSize) {
		s.end = Corrupt("a directory of more than %d entries", max)
	}
	s.n = min(s.n, max)
	return s
}

// FixedSlots are n entries from off on.
func FixedSlots(v *Volume, off, n int64) *Slots {
	return &Slots{volume: v, off: off, n: n, end: io.EOF}
}

// Cost is about what s takes in memory.
func (s *Slots) Cost() int {
	if s.chain == nil {
		return 64
	}
	return 64 + s.chain.cost()
}

// Len is the number of entries.
func (s *Slots) Len() int64 { return s.n }

// place tells where a slot is, and how many follow each other from there.
func (s *Slots) place(slot int64) (off, n int64, err error) {
	if s.chain == nil {
		return s.off + slot*SlotSize, s.n - slot, nil
	}
	bits := s.chain.t.Bits
	at := slot * SlotSize
	first, k, err := s.chain.At(at>>bits, 16)
	if err != nil {
		return 0, 0, err
	}
	in := at & (1<<bits - 1)
	return s.chain.t.Place(first) + in, (k<<bits - in) / SlotSize, nil
}

// Cursor reads entries one by one. It is not safe for concurrent use.
type Cursor struct {
	s          *Slots
	w          *Window
	start, end int64 // the slots of a run, which is
	off        int64 // here on the volume
}

// Cursor gives a new one.
func (s *Slots) Cursor() *Cursor { return &Cursor{s: s, w: s.volume.Window()} }

// At gives the entry in a slot, and where it is on the volume. Behind the last
// it gives io.EOF, or what is wrong with the chain there. The entry must not be
// written to.
func (c *Cursor) At(slot int64) (entry []byte, off int64, err error) {
	if slot < 0 || slot >= c.s.n {
		return nil, 0, c.s.end
	}
	if slot < c.start || slot >= c.end {
		off, n, err := c.s.place(slot)
		if err != nil {
			return nil, 0, err
		}
		c.start, c.end, c.off = slot, slot+n, off
	}
	off = c.off + (slot-c.start)*SlotSize
	entry, err = c.w.At(off, SlotSize)
	return entry, off, err
}
