package raid

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// Limits of what is believed of an array's geometry.
const (
	maxLegs  = 4096
	maxChunk = 1 << 40 // bytes; the kernel's own limit is 2 GiB
)

// Range is a run of bytes.
type Range struct {
	Off, Len int64
}

// Leg is one of the devices that an array is made of.
type Leg struct {
	// Dev holds the array's data and nothing else: what the superblock, bitmaps
	// and logs take is outside of it. Nil is a missing leg.
	Dev blockdev.Device
	// InSync is how many bytes from the start of Dev are valid. A leg that is
	// being rebuilt has the rest still to come.
	InSync int64
	// Bad are ranges of Dev whose content is known to be lost, ascending and
	// disjoint.
	Bad []Range
	// Avoid: read this one last (write-mostly).
	Avoid bool
}

// Config describes an array.
type Config struct {
	Level  int   // 0, 1, 4, 5, 6 or 10
	Layout int   // as md numbers it, for levels 0, 5, 6 and 10
	Chunk  int64 // bytes, a multiple of 512; not used by level 1
	Size   int64 // of the array in bytes; what the legs cannot hold is refused
	Legs   []Leg // in the order of their slots
	// LegSize is how much of each leg the array uses, in bytes. Level 0 uses
	// what each has, rounded down to chunks.
	LegSize int64
	// InStep tells whether the parity of the n bytes at off of each leg is known
	// to match the data, in levels 4, 5 and 6. Where it is not, nothing is
	// computed from parity; nil is nowhere.
	InStep func(off, n int64) (bool, error)
}

// layout knows where the bytes of an array are.
type layout interface {
	// copies appends the places of the byte at off to spots, in the order in
	// which they are to be read, and tells for how many bytes all of them go on
	// in step.
	copies(off int64, spots []spot) ([]spot, int64)
}

type spot struct {
	leg int
	off int64
}

// New makes the array's device. It fails when the geometry makes no sense
// (ErrCorrupt) or is not known (ErrUnsupported), and when legs are missing
// without which not all bytes can be had (MissingError).
func New(c Config) (blockdev.Device, error) {
	l, room, err := newLayout(c)
	if err != nil {
		return nil, err
	}
	if c.Size < 0 || c.Size > room {
		return nil, fmt.Errorf("array of %d bytes where its devices hold %d: %w", c.Size, room, filesys.ErrCorrupt)
	}
	d := &device{size: c.Size, legs: slices.Clone(c.Legs), layout: l}
	d.parity, _ = l.(*parity)
	return d, d.complete(c)
}

// Size gives the size of the array that the legs can hold, in bytes. Config.Size
// is not looked at.
func Size(c Config) (int64, error) {
	_, room, err := newLayout(c)
	return room, err
}

func newLayout(c Config) (layout, int64, error) {
	n := len(c.Legs)
	if n == 0 || n > maxLegs {
		return nil, 0, fmt.Errorf("array of %d devices: %w", n, filesys.ErrCorrupt)
	}
	if c.Level != 1 && (c.Chunk <= 0 || c.Chunk > maxChunk || c.Chunk%512 != 0) {
		return nil, 0, fmt.Errorf("chunk size %d: %w", c.Chunk, filesys.ErrCorrupt)
	}
	// Layouts multiply by the number of legs and of copies.
	if c.LegSize < 0 || c.LegSize > math.MaxInt64/int64(n)/256 {
		return nil, 0, fmt.Errorf("%d bytes used of each device: %w", c.LegSize, filesys.ErrCorrupt)
	}
	switch c.Level {
	case 0:
		return newStripes(c)
	case 1:
		return &mirror{order: preference(c.Legs), size: c.LegSize}, c.LegSize, nil
	case 10:
		return newRaid10(c)
	case 4, 5, 6:
		return newParity(c)
	}
	return nil, 0, fmt.Errorf("raid level %d: %w", c.Level, filesys.ErrUnsupported)
}

// complete checks that each byte can be had from what is there, whole legs
// considered. Legs that are valid in part show when they are read.
func (d *device) complete(c Config) error {
	var missing []int
	for i, l := range d.legs {
		if l.Dev == nil {
			missing = append(missing, i)
		}
	}
	lost := false
	switch n := len(d.legs); c.Level {
	case 0:
		lost = len(missing) > 0
	case 1:
		lost = len(missing) == n
	case 4, 5:
		lost = len(missing) > 1
	case 6:
		lost = len(missing) > 2
	case 10:
		lost = d.layout.(*raid10).loses(d.legs)
	}
	if lost {
		return &MissingError{Legs: missing}
	}
	return nil
}

// MissingError says that an array lacks devices.
type MissingError struct {
	Legs []int // slots
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("too many devices are missing: slots %v", e.Legs)
}

// Unwrap makes it one of filesys' errors: nothing is wrong with the format.
func (e *MissingError) Unwrap() error { return filesys.ErrUnsupported }

// device is an array.
type device struct {
	size   int64
	layout layout
	legs   []Leg
	parity *parity // of levels 4, 5 and 6
}

func (d *device) Size() int64 { return d.size }

// usable says whether a leg's bytes at off may be read, and for how many bytes
// from there that answer holds.
func (l *Leg) usable(off int64) (bool, int64) {
	if l.Dev == nil {
		return false, math.MaxInt64
	}
	end := min(l.InSync, l.Dev.Size())
	if off >= end {
		return false, math.MaxInt64
	}
	i := sort.Search(len(l.Bad), func(i int) bool { return l.Bad[i].Off+l.Bad[i].Len > off })
	if i == len(l.Bad) {
		return true, end - off
	}
	if b := l.Bad[i]; b.Off <= off {
		return false, b.Off + b.Len - off
	}
	return true, min(end, l.Bad[i].Off) - off
}

// piece finds the copies of the byte at off and for how many bytes, at most
// limit, they and what is known of their legs stay the same. The first good of
// spots are those that may be read.
func (d *device) piece(off, limit int64, buf []spot) (spots []spot, good int, n int64) {
	spots, n = d.layout.copies(off, buf)
	n = min(n, limit)
	for i := range spots {
		ok, run := d.legs[spots[i].leg].usable(spots[i].off)
		n = min(n, run)
		if ok {
			s := spots[i] // keeps the order of the good ones
			copy(spots[good+1:i+1], spots[good:i])
			spots[good] = s
			good++
		}
	}
	return spots, good, n
}

// retry is how finely a read is split in which every copy failed somewhere.
const retry = 4096

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	fineUntil := int64(-1)
	return ReadPieces(p, off, d.size, func(p []byte, off int64) (int, error) {
		limit := int64(len(p))
		for {
			if off < fineUntil {
				limit = min(limit, retry-off%retry)
			}
			n, err := d.readPiece(p[:limit], off)
			if err == nil {
				return n, nil
			}
			if off < fineUntil || n <= retry {
				return 0, err
			}
			fineUntil = off + int64(n)
		}
	})
}

// readPiece reads the first bytes of p from the first copy that can be read, and
// says how many those are, with an error as well.
func (d *device) readPiece(p []byte, off int64) (int, error) {
	var buf [8]spot
	spots, good, n := d.piece(off, int64(len(p)), buf[:0])
	p = p[:n]
	var errs []error
	for _, s := range spots[:good] {
		_, err := Full(d.legs[s.leg].Dev, p, s.off)
		if err == nil {
			return len(p), nil
		}
		errs = append(errs, fmt.Errorf("device %d of the array: %w", s.leg, err))
	}
	if d.parity != nil {
		m := min(len(p), rebuildPiece)
		err := d.rebuild(p[:m], spots[0])
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
		return len(p), errors.Join(errs...)
	}
	if len(errs) == 0 {
		return len(p), fmt.Errorf("bytes from %d on: no device of the array has them: %w", off, filesys.ErrCorrupt)
	}
	return len(p), errors.Join(errs...)
}

func (d *device) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= d.size {
		return blockdev.Place{}, 0, outside(off, d.size)
	}
	var buf [8]spot
	spots, good, n := d.piece(off, d.size-off, buf[:0])
	if good > 0 {
		p, m, err := d.legs[spots[0].leg].Dev.Place(spots[0].off)
		return p, min(n, m), err
	}
	if d.parity != nil {
		return blockdev.Place{}, 0, fmt.Errorf("byte %d is computed from parity and stored nowhere: %w", off, filesys.ErrUnsupported)
	}
	return blockdev.Place{}, 0, fmt.Errorf("byte %d: no device of the array has it: %w", off, filesys.ErrCorrupt)
}

// preference is the order in which a mirror's legs are read.
func preference(legs []Leg) []int {
	var first, last []int
	for i, l := range legs {
		if l.Avoid {
			last = append(last, i)
		} else {
			first = append(first, i)
		}
	}
	return append(first, last...)
}

// mirror is level 1.
type mirror struct {
	order []int
	size  int64
}

func (m *mirror) copies(off int64, spots []spot) ([]spot, int64) {
	for _, i := range m.order {
		spots = append(spots, spot{i, off})
	}
	return spots, m.size - off
}
