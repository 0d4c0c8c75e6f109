package raid

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"cairn/mount/filesys"
)

// Layouts of level 0. They differ only where legs have different sizes.
const (
	// Original: the leg is chosen by the number of the chunk in the array.
	Original = 1
	// Alternate: it is chosen by the number of the chunk in its zone.
	Alternate = 2
)

// stripes is level 0. Legs of different sizes make zones: the first has chunks of
// all of them in turn until the smallest is full; the next goes on without that
// one, and so on.
//
//	leg 0  0  3  6 │ 9  11 │
//	leg 1  1  4  7 │ 10 12 │ 13 14
//	leg 2  2  5  8 │
//	       zone 0    zone 1  zone 2
type stripes struct {
	chunk    int64
	original bool
	zones    []zone
}

type zone struct {
	start, end int64 // bytes of the array
	legStart   int64 // where the zone begins on each of its legs
	legs       []int
}

func newStripes(c Config) (layout, int64, error) {
	s := &stripes{chunk: c.Chunk, original: c.Layout == Original}
	var sizes []int64
	for _, l := range c.Legs {
		if l.Dev == nil {
			sizes = append(sizes, 0)
			continue
		}
		sizes = append(sizes, l.Dev.Size()/c.Chunk*c.Chunk)
	}
	if i := slices.Index(sizes, 0); i >= 0 {
		if c.Legs[i].Dev == nil {
			var missing []int
			for i, l := range c.Legs {
				if l.Dev == nil {
					missing = append(missing, i)
				}
			}
			return nil, 0, &MissingError{missing}
		}
		return nil, 0, fmt.Errorf("device %d is smaller than a chunk: %w", i, filesys.ErrCorrupt)
	}
	ends := slices.Clone(sizes)
	slices.Sort(ends)
	ends = slices.Compact(ends)
	if len(ends) > 1 && c.Layout != Original && c.Layout != Alternate {
		return nil, 0, fmt.Errorf("raid0 of devices of different sizes whose layout (original or alternate) is not recorded: %w", filesys.ErrUnsupported)
	}
	if len(ends)*len(sizes) > 1<<20 {
		return nil, 0, fmt.Errorf("raid0 of %d devices of %d sizes: %w", len(sizes), len(ends), filesys.ErrUnsupported)
	}
	var size, legStart int64
	for _, end := range ends {
		z := zone{start: size, legStart: legStart}
		for i, n := range sizes {
			if n >= end {
				z.legs = append(z.legs, i)
			}
		}
		if (end - legStart) > (math.MaxInt64-size)/int64(len(z.legs)) {
			return nil, 0, fmt.Errorf("raid0 of impossible size: %w", filesys.ErrCorrupt)
		}
		size += (end - legStart) * int64(len(z.legs))
		z.end, legStart = size, end
		s.zones = append(s.zones, z)
	}
	return s, size, nil
}

func (s *stripes) copies(off int64, spots []spot) ([]spot, int64) {
	z := &s.zones[sort.Search(len(s.zones)-1, func(i int) bool { return s.zones[i].end > off })]
	in := off % s.chunk
	chunk := (off - z.start) / s.chunk
	n := int64(len(z.legs))
	turn := chunk
	if s.original {
		turn = off / s.chunk
	}
	return append(spots, spot{z.legs[turn%n], z.legStart + chunk/n*s.chunk + in}), s.chunk - in
}
