package btrfs

import (
	"slices"
	"sort"
)

// Profiles of chunks, as bits of their type.
const (
	groupData     = 1
	groupMetadata = 4
	groupRAID0    = 0x8
	groupRAID1    = 0x10
	groupDUP      = 0x20
	groupRAID10   = 0x40
	groupRAID5    = 0x80
	groupRAID6    = 0x100
	groupRAID1C3  = 0x200
	groupRAID1C4  = 0x400

	groupMirrors  = groupRAID1 | groupDUP | groupRAID1C3 | groupRAID1C4
	groupParity   = groupRAID5 | groupRAID6
	groupProfiles = groupMirrors | groupParity | groupRAID0 | groupRAID10
	groupKnown    = 7 | groupProfiles

	stripeLen = 64 << 10 // of every striped chunk there is
	// maxStripes bounds the memory of the chunk map: 32 TiB at least, in chunks
	// of one GiB on four devices.
	maxStripes = 1 << 17

	chunkHead, stripeSize = 48, 32
)

// chunk maps a range of logical addresses to devices.
type chunk struct {
	start, length uint64
	kind          uint64
	sub           int // stripes that hold the same, in RAID10
	stripes       []stripe
}

type stripe struct {
	devID uint64
	off   uint64
	dev   *device // nil: not among those given
}

// chunkMap is sorted by start; no two overlap.
type chunkMap struct {
	list    []*chunk
	stripes int
}

// decodeChunk reads a chunk item; n is how much of b it takes.
func (v *volume) decodeChunk(start uint64, b []byte) (c *chunk, n int, err error) {
	if len(b) < chunkHead+stripeSize {
		return nil, 0, corrupt("chunk %d of %d bytes", start, len(b))
	}
	c = &chunk{start: start, length: le.Uint64(b), kind: le.Uint64(b[24:]), sub: int(le.Uint16(b[46:]))}
	count := int(le.Uint16(b[44:]))
	if n = chunkHead + count*stripeSize; count == 0 || n > len(b) {
		return nil, 0, corrupt("chunk %d with %d stripes in %d bytes", start, count, len(b))
	}
	if unknown := c.kind &^ groupKnown; unknown != 0 {
		return nil, 0, unsupported("chunk %d of type %#x", start, c.kind)
	}
	profile := c.kind & groupProfiles
	valid := true
	switch profile {
	case 0:
		valid = count == 1
	case groupDUP, groupRAID1, groupRAID1C3, groupRAID1C4:
		valid = count >= 2
	case groupRAID10:
		valid = c.sub >= 2 && count%c.sub == 0
	case groupRAID0:
	case groupRAID5:
		valid = count >= 2
	case groupRAID6:
		valid = count >= 3
	default:
		valid = false
	}
	if !valid || le.Uint64(b[16:]) != stripeLen || c.length == 0 || c.length > 1<<50 || start > 1<<62 ||
		start%uint64(v.super.sector) != 0 || c.length%uint64(v.super.sector) != 0 {
		return nil, 0, corrupt("chunk %d of %d bytes, type %#x, with %d stripes of %d", start, c.length, c.kind, count, le.Uint64(b[16:]))
	}
	for s := b[chunkHead:n]; len(s) > 0; s = s[stripeSize:] {
		st := stripe{devID: le.Uint64(s), off: le.Uint64(s[8:])}
		if st.off > 1<<62 {
			return nil, 0, corrupt("chunk %d at %d on device %d", start, st.off, st.devID)
		}
		for _, d := range v.devices {
			if d.super.dev.uuid == [16]byte(s[16:32]) && d.super.dev.id == st.devID {
				st.dev = d
			}
		}
		c.stripes = append(c.stripes, st)
	}
	return c, n, nil
}

// add puts a chunk into the map. The same one may come twice.
func (m *chunkMap) add(c *chunk) error {
	i := sort.Search(len(m.list), func(i int) bool { return m.list[i].start >= c.start })
	if i < len(m.list) && m.list[i].start == c.start && m.list[i].length == c.length {
		m.stripes -= len(m.list[i].stripes)
		m.list[i] = c
	} else {
		if i < len(m.list) && c.start+c.length > m.list[i].start ||
			i > 0 && m.list[i-1].start+m.list[i-1].length > c.start {
			return corrupt("chunk %d overlaps another", c.start)
		}
		m.list = slices.Insert(m.list, i, c)
	}
	if m.stripes += len(c.stripes); m.stripes > maxStripes {
		return unsupported("more than %d stripes of chunks", maxStripes)
	}
	return nil
}

// find gives the chunk of a logical address.
func (m *chunkMap) find(logical uint64) (*chunk, error) {
	i := sort.Search(len(m.list), func(i int) bool { return m.list[i].start > logical }) - 1
	if i < 0 || logical-m.list[i].start >= m.list[i].length {
		return nil, corrupt("no chunk has the logical address %d", logical)
	}
	return m.list[i], nil
}

// mirrors is how many ways there are to read a byte of the chunk.
func (c *chunk) mirrors() int {
	switch {
	case c.kind&groupMirrors != 0:
		return len(c.stripes)
	case c.kind&groupRAID10 != 0:
		return c.sub
	case c.kind&groupParity != 0:
		return 2 // the second is computed from the other devices
	}
	return 1
}

// parities is how many stripes of a row hold no data.
func (c *chunk) parities() int {
	switch {
	case c.kind&groupRAID5 != 0:
		return 1
	case c.kind&groupRAID6 != 0:
		return 2
	}
	return 0
}

// at says which stripe has the byte at off in the chunk, in one of its mirrors,
// where on its device, and for how many bytes that goes on.
func (c *chunk) at(off uint64, mirror int) (s, row int, phys, n uint64) {
	nr, in := off/stripeLen, off%stripeLen
	count := uint64(len(c.stripes))
	switch {
	case c.kind&groupRAID0 != 0:
		s, n = int(nr%count), stripeLen-in
		phys = nr/count*stripeLen + in
	case c.kind&groupRAID10 != 0:
		groups := count / uint64(c.sub)
		s, n = int(nr%groups)*c.sub+mirror, stripeLen-in
		phys = nr/groups*stripeLen + in
	case c.kind&groupParity != 0:
		data := count - uint64(c.parities())
		full := nr / data
		s, n = int((nr%data+full)%count), stripeLen-in
		phys = full*stripeLen + in
		row = int(full % count)
	default:
		s, n = mirror, c.length-off
		phys = off
	}
	return s, row, c.stripes[s].off + phys, min(n, c.length-off)
}
