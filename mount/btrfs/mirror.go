package btrfs

import (
	"fmt"
	"slices"
	"strings"
)

// readMirror fills p from a logical address, of one mirror.
func (v *volume) readMirror(p []byte, logical uint64, mirror int) error {
	for len(p) > 0 {
		c, err := v.chunks.find(logical)
		if err != nil {
			return err
		}
		if mirror >= c.mirrors() {
			return corrupt("%d has no mirror %d", logical, mirror)
		}
		m := mirror
		if c.kind&groupParity != 0 {
			m = 0
		}
		s, row, phys, n := c.at(logical-c.start, m)
		part := p[:min(uint64(len(p)), n)]
		if c.kind&groupParity != 0 && mirror == 1 {
			err = c.reconstruct(part, s, row, phys-c.stripes[s].off)
		} else {
			err = c.stripes[s].read(part, phys)
		}
		if err != nil {
			return wrap(err, "logical address %d", logical)
		}
		p, logical = p[len(part):], logical+uint64(len(part))
	}
	return nil
}

func (s *stripe) read(p []byte, phys uint64) error {
	if s.dev == nil {
		return corrupt("device %d is missing", s.devID)
	}
	return wrapDevice(readFull(s.dev, p, int64(phys)), s.devID)
}

func wrapDevice(err error, id uint64) error {
	if err != nil {
		return wrap(err, "device %d", id)
	}
	return nil
}

// reconstruct computes what stripe s has at off from the rest of its row: the
// parity is the sum, bit by bit, of all data.
func (c *chunk) reconstruct(p []byte, s, row int, off uint64) error {
	clear(p)
	other := make([]byte, len(p))
	for i := range c.stripes {
		if i == s || i == c.unused(row) {
			continue
		}
		if err := c.stripes[i].read(other, c.stripes[i].off+off); err != nil {
			return wrap(err, "reconstruct stripe %d", s)
		}
		for j := range p {
			p[j] ^= other[j]
		}
	}
	return nil
}

// order lists the mirrors of an address, those on the newest devices first. What
// is not there at all is left out. fresh says how many are not stale.
func (v *volume) order(logical uint64) (list []int, fresh int, err error) {
	c, err := v.chunks.find(logical)
	if err != nil {
		return nil, 0, err
	}
	if len(v.devices) == 1 && c.mirrors() == 1 && c.stripes[0].dev != nil {
		return firstMirror, 1, nil
	}
	var behind, stale []int
	for m := range min(c.mirrors(), 16) {
		switch c.age(logical-c.start, m) {
		case isThere:
			list = append(list, m)
		case isBehind:
			behind = append(behind, m)
		case isStale:
			stale = append(stale, m)
		}
	}
	list = append(list, behind...)
	return append(list, stale...), len(list), nil
}

var firstMirror = []int{0}

// age says how far a device, or what is read of several, is from the newest state.
type age uint8

const (
	isThere age = iota
	isBehind
	isStale
	isMissing
)

func (s *stripe) age() age {
	switch d := s.dev; {
	case d == nil:
		return isMissing
	case d.stale:
		return isStale
	case d.behind:
		return isBehind
	}
	return isThere
}

// age of what a mirror has at off in the chunk. What is computed of several
// stripes is as old as the oldest of them.
func (c *chunk) age(off uint64, mirror int) age {
	if c.kind&groupParity == 0 {
		s, _, _, _ := c.at(off, mirror)
		return c.stripes[s].age()
	}
	s, row, _, _ := c.at(off, 0)
	if mirror == 0 {
		return c.stripes[s].age()
	}
	oldest := isThere
	for i := range c.stripes {
		if i != s && i != c.unused(row) {
			oldest = max(oldest, c.stripes[i].age())
		}
	}
	return oldest
}

// unused is the stripe of a row that has RAID6's second parity, which stands
// behind the first and is not used; -1 without one.
func (c *chunk) unused(row int) int {
	if c.kind&groupRAID6 == 0 {
		return -1
	}
	return (row + len(c.stripes) - 1) % len(c.stripes)
}

// missing tells what is not there of the devices that chunks lie on: an error
// if a chunk cannot be read for that, or else a warning.
func (v *volume) missing() (warning string, err error) {
	gone := map[uint64]bool{}
	for _, c := range v.chunks.list {
		lost := 0
		for _, s := range c.stripes {
			if s.dev == nil {
				gone[s.devID] = true
				lost++
			}
		}
		if lost == 0 {
			continue
		}
		bad := lost == len(c.stripes)
		switch {
		case c.kind&groupMirrors != 0:
		case c.kind&groupRAID10 != 0:
			for i := 0; i < len(c.stripes); i += c.sub {
				group := 0
				for _, s := range c.stripes[i : i+c.sub] {
					if s.dev == nil {
						group++
					}
				}
				bad = bad || group == c.sub
			}
		case c.kind&groupParity != 0:
			bad = lost > 1
		default:
			bad = true
		}
		if bad {
			return "", fmt.Errorf("device %s of this file system is missing: %w", idList(gone), ErrMissingDevice)
		}
	}
	if len(gone) == 0 {
		return "", nil
	}
	return fmt.Sprintf("Device %s is missing; everything is read from the others.", idList(gone)), nil
}

func idList(ids map[uint64]bool) string {
	var list []uint64
	for id := range ids {
		list = append(list, id)
	}
	slices.Sort(list)
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list[:min(len(list), 16)]), " ", ", "), "[]")
}
