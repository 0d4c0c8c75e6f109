package raid

import (
	"fmt"

	"cairn/mount/filesys"
)

// Raid10 makes the number of a layout of level 10: so many near copies, so many
// far ones, and whether far copies are in the next stripe (offset).
func Raid10(near, far int, offset bool) int {
	n := near | far<<8
	if offset {
		n |= 1 << 16
	}
	return n
}

// raid10 is level 10. Near copies of a chunk are on legs side by side. Far copies
// are a leg further on, and either a whole section of the legs further down
// ("far") or in the next row ("offset"):
//
//	near 2 on 3 legs     far 2 on 3 legs        offset 2 on 3 legs
//	  0 0 1                0 1 2                  0 1 2
//	  1 2 2                3 4 5                  2 0 1
//	  3 3 4                2 0 1  ← stride        3 4 5
//	  4 5 5                5 3 4                  5 3 4
//
// Newer layouts keep far copies inside sets of legs; a remainder of legs that
// fills no set is joined with the last one.
type raid10 struct {
	n         int64 // legs
	near, far int64
	offset    bool
	set       int64 // legs in a set
	chunk     int64
	stride    int64 // bytes from a copy to the next far one
}

func newRaid10(c Config) (layout, int64, error) {
	n := int64(len(c.Legs))
	r := &raid10{n: n, near: int64(c.Layout & 0xFF), far: int64(c.Layout >> 8 & 0xFF), offset: c.Layout>>16&1 == 1, chunk: c.Chunk}
	if r.near == 0 || r.far == 0 || r.near*r.far > n {
		return nil, 0, fmt.Errorf("raid10 layout %#x on %d devices: %w", c.Layout, n, filesys.ErrCorrupt)
	}
	switch c.Layout >> 17 {
	case 0:
		r.set = n
	case 1:
		r.set = n / r.far
	case 2:
		r.set = r.near * r.far
	default:
		return nil, 0, fmt.Errorf("raid10 layout %#x: %w", c.Layout, filesys.ErrUnsupported)
	}
	chunks := c.LegSize / c.Chunk / r.far * n / r.near // of the array
	if r.stride = c.Chunk; !r.offset {
		rows := (chunks*r.near*r.far + n - 1) / n // used of each leg
		r.stride = rows / r.far * c.Chunk
	}
	return r, chunks * c.Chunk, nil
}

func (r *raid10) copies(off int64, spots []spot) ([]spot, int64) {
	in := off % r.chunk
	first := off / r.chunk * r.near
	row := first / r.n
	if r.offset {
		row *= r.far
	}
	leg, at := first%r.n, row*r.chunk+in
	for range r.near {
		d, s := leg, at
		for f := int64(0); ; {
			spots = append(spots, spot{int(d), s})
			if f++; f == r.far {
				break
			}
			d, s = r.next(d), s+r.stride
		}
		if leg++; leg == r.n {
			leg, at = 0, at+r.chunk
		}
	}
	return spots, r.chunk - in
}

// next is the leg with the next far copy of what d has.
func (r *raid10) next(d int64) int64 {
	set := d / r.set
	d += r.near
	rest := r.n % r.set
	if last := (r.n/r.set - 1) * r.set; rest != 0 && d > last {
		return last + (d-last)%(r.set+rest)
	}
	return set*r.set + d%r.set
}

// loses says whether some chunk has no leg that is there. The pattern of legs
// repeats after so many chunks as there are legs.
func (r *raid10) loses(legs []Leg) bool {
	var spots []spot
	for i := range r.n {
		spots, _ = r.copies(i*r.chunk, spots[:0])
		found := false
		for _, s := range spots {
			found = found || legs[s.leg].Dev != nil
		}
		if !found {
			return true
		}
	}
	return false
}
