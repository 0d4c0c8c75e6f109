package xfs

import (
	"errors"
	"math/bits"
	"sync"

	"cairn/mount/filesys"
)

// maxInodes is the number of inodes that a volume can have (56 bits).
const maxInodes = 1<<56 - 1

// usage is what statfs tells, in blocks and inodes.
type usage struct {
	size, free       uint64
	inodes, freeNode uint64
}

// countUsage computes what statfs shows on a read-only mount of Linux: without
// the log, and without the blocks that each group keeps back so that it can
// always free some. An inode can be made wherever there is free space, up to the
// share of the volume that its superblock allows to inodes. An error tells of a
// group that could not be counted.
func (f *FS) countUsage() (usage, error) {
	raw := f.sb.raw
	inodes, freeInodes, free := be.Uint64(raw[128:]), be.Uint64(raw[136:]), be.Uint64(raw[144:])
	g := f.sumGroups()
	if (f.recount || free > f.sb.blocks || freeInodes > inodes) && !g.partly {
		inodes, freeInodes, free = g.inodes, g.freeInodes, g.free
	}
	if f.replayed != nil {
		n, blocks := f.unlinked()
		freeInodes += n
		free += blocks
	}
	freeInodes = min(freeInodes, inodes)
	// Blocks of the free space btrees count as free, and are not.
	kept := 8*f.sb.agCount + g.trees
	u := usage{size: f.sb.blocks}
	if log := uint64(be.Uint32(raw[96:])); be.Uint64(raw[48:]) != 0 && log < u.size {
		u.size -= log
	}
	if free > kept {
		u.free = min(free-kept, f.sb.blocks)
	}
	u.inodes = min(inodes+u.free<<f.sb.inopBits, maxInodes)
	if limit := f.maxInodes(); limit > 0 {
		u.inodes = min(u.inodes, limit)
	}
	u.inodes = max(u.inodes, inodes)
	if used := inodes - freeInodes; used < u.inodes {
		u.freeNode = u.inodes - used
	}
	return u, g.bad
}

// counted is countUsage, which is done once unless a read failed.
func (f *FS) counted() (usage, error) {
	f.usage.mu.Lock()
	defer f.usage.mu.Unlock()
	if !f.usage.done {
		f.usage.usage, f.usage.err = f.countUsage()
		f.usage.done = f.usage.err == nil || errors.Is(f.usage.err, filesys.ErrCorrupt)
	}
	return f.usage.usage, f.usage.err
}

// onceUsage remembers what was counted.
type onceUsage struct {
	mu    sync.Mutex
	done  bool
	usage usage
	err   error
}

// maxInodes is how many inodes the superblock allows, in whole chunks; 0 for as
// many as fit.
func (f *FS) maxInodes() uint64 {
	percent := uint64(f.sb.raw[127])
	if percent == 0 {
		return 0
	}
	chunk := max(uint64(chunkInodes), 1<<f.sb.inopBits) >> f.sb.inopBits
	high, low := bits.Mul64(f.sb.blocks, percent)
	if high >= 100 {
		return 0
	}
	blocks, _ := bits.Div64(high, low, 100)
	return blocks / chunk * chunk << f.sb.inopBits
}

// maxCounted bounds how many groups are asked for their counters: 64 TiB of the
// smallest that mkfs makes.
const maxCounted = 1 << 16

// groupCounters are sums of the counters of all groups, in blocks and inodes.
type groupCounters struct {
	inodes, freeInodes, free uint64
	trees                    uint64 // blocks of the free space btrees, less their roots
	partly                   bool   // there are too many groups
	bad                      error  // what kept a group from being counted
}

// sumGroups adds up the counters of all groups, which after a crash are right
// where the superblock's are not. A group that cannot be read counts as full. Of
// errors, one that may pass is told before one of damage.
func (f *FS) sumGroups() (g groupCounters) {
	note := func(err error) {
		if g.bad == nil || errors.Is(g.bad, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrCorrupt) {
			g.bad = err
		}
	}
	if f.sb.agCount > maxCounted {
		return groupCounters{partly: true}
	}
	for ag := range f.sb.agCount {
		if agi, err := f.header(ag, 2); err == nil {
			g.inodes += uint64(be.Uint32(agi[16:]))
			g.freeInodes += uint64(be.Uint32(agi[28:]))
		} else {
			note(err)
		}
		agf, err := f.header(ag, 1)
		if err != nil {
			note(err)
			continue
		}
		trees := uint64(be.Uint32(agf[60:]))
		g.free += uint64(be.Uint32(agf[52:])) + uint64(be.Uint32(agf[48:])) + trees
		// Those of the reverse mappings, but for its root, are in that count.
		if f.sb.ro&roRmapbt != 0 {
			trees -= min(trees, uint64(be.Uint32(agf[80:]))-1)
		}
		g.trees += trees
	}
	return g
}

// maxUnlinked bounds how many inodes without a name are counted in all.
const maxUnlinked = 1 << 20

// unlinked counts the inodes that the guest had open without a name, which Linux
// deletes after the replay of the log, and the blocks that they take. Each group
// has 64 lists of them, chained through the inodes. Blocks that are shared with
// other files are among them, although they are not freed.
func (f *FS) unlinked() (inodes, blocks uint64) {
	if f.sb.agCount > maxCounted {
		return 0, 0
	}
	for ag := range f.sb.agCount {
		agi, err := f.header(ag, 2)
		if err != nil {
			continue
		}
		for i := range 64 {
			n, b := f.unlinkedList(ag, be.Uint32(agi[40+4*i:]), maxUnlinked-inodes)
			inodes, blocks = inodes+n, blocks+b
		}
	}
	return inodes, blocks
}

// unlinkedList counts at most limit inodes of the list that begins with agino. A
// list in circles, which is found as in Brent's method, ends there.
func (f *FS) unlinkedList(ag uint64, agino uint32, limit uint64) (inodes, blocks uint64) {
	seen, power := uint32(nullAgino), uint64(1)
	for agino != nullAgino && agino != seen && inodes < limit {
		ino := ag<<(f.sb.agBits+f.sb.inopBits) | uint64(agino)
		if !f.sb.validInode(ino) {
			break
		}
		in, err := f.anyInode(ino)
		if err != nil || in.nlink != 0 {
			break
		}
		if inodes++; inodes == power {
			seen, power = agino, 2*power
		}
		blocks += be.Uint64(in.raw[64:])
		agino = be.Uint32(in.raw[96:])
	}
	return inodes, blocks
}
