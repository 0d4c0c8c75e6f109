package btrfs

import (
	"cmp"
	"errors"
	"slices"

	"cairn/mount/filesys"
)

// usage is what statfs tells, in bytes.
type usage struct {
	size, free, available int64
}

// maxGroups bounds how many block groups are counted: each costs a search of
// the extent tree. With more, 4 TiB of data at least, free space is estimated
// from the superblock's count.
const maxGroups = 1 << 12

// profile is what statfs needs to know of one.
type profile struct {
	bit      uint64
	copies   uint64
	minDevs  int
	perDev   uint64 // stripes on one device
	allDevs  bool
	stripes  int
	parities int
}

// profiles in the order in which Linux goes through its lists: the last one in
// use counts.
var profiles = []profile{
	{groupRAID10, 2, 2, 1, true, 0, 0},
	{groupRAID1, 2, 2, 1, false, 2, 0},
	{groupDUP, 2, 1, 2, false, 1, 0},
	{groupRAID0, 1, 1, 1, true, 0, 0},
	{0, 1, 1, 1, false, 1, 0},
	{groupRAID5, 1, 2, 1, true, 0, 1},
	{groupRAID6, 1, 3, 1, true, 0, 2},
	{groupRAID1C3, 3, 3, 1, false, 3, 0},
	{groupRAID1C4, 4, 4, 1, false, 4, 0},
}

// countUsage computes what statfs shows on a mount of Linux: free space as the
// block groups' own counts have it, less what Linux keeps back for itself, and
// as available what data could still be written, in new chunks included. What
// cannot be read counts as full, and all of it if a device does not answer, until
// it does.
func (v *volume) countUsage() usage {
	sector := uint64(v.super.sector)
	v.usageMu.Lock()
	defer v.usageMu.Unlock()
	if v.usage != nil {
		return *v.usage
	}
	groups, err := v.blockGroups()
	var used, freeData uint64
	seen := uint64(0)
	have := map[uint64]bool{}
	for i, c := range v.chunks.list {
		p := profileOf(c.kind)
		taken := min(groups[i], c.length)
		used += taken * p.copies
		if c.kind&groupData != 0 {
			freeData += (c.length - taken) * p.copies
			have[p.bit] = true
			seen |= p.bit
		}
	}
	factor := uint64(1)
	for _, p := range profiles {
		if have[p.bit] {
			factor = p.copies
		}
	}
	u := usage{size: int64(v.super.total / factor / sector * sector)}
	if err != nil {
		return u
	}
	u.free = max(0, u.size-int64(used/factor/sector*sector))
	if reserve := int64(v.reserve() / sector * sector); u.free >= reserve {
		u.free -= reserve
	} else {
		u.free = 0
	}
	available := freeData/factor + v.unallocated(allocProfile(seen, len(v.devItems)))/factor
	u.available = int64(available / sector * sector)
	v.usage = &u
	return u
}

func profileOf(kind uint64) profile {
	for _, p := range profiles {
		if kind&groupProfiles == p.bit {
			return p
		}
	}
	return profile{copies: 1}
}

// allocProfile is the profile in which Linux would make the next data chunk.
func allocProfile(seen uint64, devices int) profile {
	for _, bit := range []uint64{groupRAID1C4, groupRAID6, groupRAID1C3, groupRAID5, groupRAID10, groupRAID1, groupDUP, groupRAID0} {
		if p := profileOf(bit); seen&bit != 0 && devices >= p.minDevs {
			return p
		}
	}
	return profileOf(0)
}

// blockGroups gives how many bytes of each chunk are in use. A device that does not
// answer is not asked again for the rest.
func (v *volume) blockGroups() ([]uint64, error) {
	used := make([]uint64, len(v.chunks.list))
	id := uint64(extentTreeID)
	if v.super.ro&roBlockGroupTree != 0 {
		id = blockGroupTreeID
	}
	if len(used) > maxGroups {
		v.estimateGroups(used)
		return used, nil
	}
	for i, c := range v.chunks.list {
		used[i] = c.length
	}
	t, err := v.tree(id)
	for i, c := range v.chunks.list {
		var b []byte
		var ok bool
		if err == nil {
			b, ok, err = t.get(key{c.start, typeBlockGroup, c.length})
		}
		switch {
		case err == nil && ok && len(b) >= 24:
			used[i] = le.Uint64(b)
		case err != nil && !errors.Is(err, filesys.ErrCorrupt) && !isNotExist(err):
			return used, err
		case t != nil:
			err = nil // of this one
		}
	}
	return used, nil
}

// estimateGroups spreads what the superblock counts as used over all chunks.
func (v *volume) estimateGroups(used []uint64) {
	total := 0.0
	for _, c := range v.chunks.list {
		total += float64(c.length)
	}
	share := min(1, float64(le.Uint64(v.super.raw[0x78:]))/total)
	for i, c := range v.chunks.list {
		used[i] = uint64(share * float64(c.length))
	}
}

// reserve is the size of Linux's global block reserve: room for the trees that
// every transaction may have to change.
func (v *volume) reserve() uint64 {
	ids := []uint64{extentTreeID, csumTreeID}
	perRef := uint64(1)
	if v.super.ro&roFreeSpaceTree != 0 {
		ids = append(ids, freeSpaceTreeID)
		perRef = 2
	}
	if v.super.ro&roBlockGroupTree != 0 {
		ids = append(ids, blockGroupTreeID)
	}
	bytes := v.rootTreeUsed()
	items := uint64(1 + 6) // the root tree, and an unlink
	for _, id := range ids {
		if t, err := v.tree(id); err == nil {
			bytes += t.info.used
			items++
		}
	}
	perItem := uint64(v.super.nodeSize) * maxLevel * 2
	return min(max(bytes, perItem*(items+6*perRef)), 512<<20)
}

// rootTreeUsed: the root tree has no root item; Linux counts what it finds in
// the extent tree only while it runs, and begins with nothing.
func (v *volume) rootTreeUsed() uint64 { return 0 }

// unallocated is how much room new data chunks of a profile would have, with
// all their copies. Like Linux it keeps one MiB of each device free.
func (v *volume) unallocated(p profile) uint64 {
	const kept = 1 << 20
	minimum := p.perDev * stripeLen
	var devs []uint64
	for _, d := range v.devItems {
		if d.total < d.used {
			continue
		}
		room := (d.total - d.used) / stripeLen * stripeLen
		if room > kept+minimum {
			devs = append(devs, room-kept)
		}
	}
	slices.SortFunc(devs, func(a, b uint64) int { return cmp.Compare(b, a) })
	stripes := p.stripes
	if p.allDevs {
		stripes = len(devs)
		if p.bit == groupRAID10 {
			stripes = 4
		}
	}
	var sum uint64
	for n := len(devs); n >= max(p.minDevs, 1); n-- {
		stripes = min(stripes, n)
		room := devs[n-1]
		if room < minimum || stripes == 0 {
			continue
		}
		sum += room * uint64(stripes)
		for i := n - stripes; i < n; i++ {
			devs[i] -= room
		}
	}
	return sum
}
