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
// parity is the sum, bit by bit, of all data. RAID6's second parity, which
// stands behind the first, is not used.
func (c *chunk) reconstruct(p []byte, s, row int, off uint64) error {
	count := len(c.stripes)
	skip := -1
	if c.kind&groupRAID6 != 0 {
		skip = (row + count - 1) % count
	}
	clear(p)
	other := make([]byte, len(p))
	for i := range c.stripes {
		if i == s || i == skip {
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
		if c.kind&groupParity != 0 {
			list = append(list, m)
			continue
		}
		s, _, _, _ := c.at(logical-c.start, m)
		switch d := c.stripes[s].dev; {
		case d == nil:
		case d.stale:
			stale = append(stale, m)
		case d.behind:
			behind = append(behind, m)
		default:
			list = append(list, m)
		}
	}
	list = append(list, behind...)
	return append(list, stale...), len(list), nil
}

var firstMirror = []int{0}

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
