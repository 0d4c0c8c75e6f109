package ext4

import (
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

// A file that was unlinked while it was open, or that was being truncated, is
// noted as an orphan: in a list through the inodes that begins in the
// superblock, or in the orphan file. When the kernel mounts such a volume it
// deletes the former and finishes the truncation of the latter, by writing.
//
// Seen from outside that changes little, and all of it is told here without
// writing: an unlinked orphan has no name (and no inode, for Attr), a truncated
// one already has its new size, behind which nothing is readable. What is left
// are st_blocks of the truncated, and the free space, which are computed as if
// the blocks behind the end had been freed. The one difference is that the
// kernel sets the truncated files' mtime and ctime to the time of its mount,
// and here they keep what the guest wrote.
const (
	maxOrphans      = 1 << 16 // noted on one volume; more are left uncounted
	maxOrphanNodes  = 1 << 16 // tree nodes read in order to count their blocks
	maxOrphanBlocks = 512     // of the orphan file, as in Linux
	orphanMagic     = 0x0B10CA04
)

// freedSpace is what cleaning up would free.
type freedSpace struct {
	clusters, inodes uint64
}

// cleanOrphans notes what the kernel would free. Like the kernel it leaves
// volumes alone on which errors were noted, or that it would not write to.
func (f *FS) cleanOrphans() {
	if f.sb.state()&stateErrors != 0 || f.sb.ro&^roKnown != 0 {
		return
	}
	c := &cleaner{FS: f, seen: map[uint32]bool{}, budget: maxOrphanNodes}
	f.orphans = map[uint32]int64{}
	err := errors.Join(c.list(), c.file())
	if c.deleted+c.truncated > 0 {
		f.warnings = append(f.warnings, fmt.Sprintf(
			"%d files had been deleted but were still open, and %d were being truncated; they are shown as after that.",
			c.deleted, c.truncated))
	}
	if err != nil {
		f.warnings = append(f.warnings, fmt.Sprintf("The list of deleted but open files is damaged: %v.", err))
	}
}

// cleaner walks the orphans of a volume.
type cleaner struct {
	*FS
	seen               map[uint32]bool
	budget             int
	deleted, truncated int
}

// list follows the list through the inodes: each names the next one in its
// field for the time of deletion.
func (c *cleaner) list() error {
	for next := c.sb.u32(0xE8); next != 0; {
		in, err := c.orphan(next)
		if in == nil {
			return err
		}
		next = le.Uint32(in.raw[0x14:])
	}
	return nil
}

// file reads the orphan file: blocks of inode numbers, with a magic number and
// a checksum at their ends.
func (c *cleaner) file() error {
	if c.sb.compat&compatOrphanFile == 0 {
		return nil
	}
	in, err := c.anyInode(uint64(c.sb.u32(0x280)))
	if err != nil {
		return wrap(err, "orphan file")
	}
	blocks := uint64(in.size) >> c.sb.blockBits
	if blocks > maxOrphanBlocks {
		return corrupt("orphan file of %d blocks", blocks)
	}
	for lblk := range blocks {
		r, err := c.mapBlock(in, lblk)
		if err != nil {
			return wrap(err, "orphan file")
		}
		if r.phys == 0 {
			return corrupt("orphan file, block %d: a hole", lblk)
		}
		b, err := c.block(r.phys)
		if err != nil {
			return wrap(err, "orphan file")
		}
		list, tail := b[:len(b)-8], b[len(b)-8:]
		if le.Uint32(tail) != orphanMagic {
			return corrupt("orphan file, block %d: no magic number", lblk)
		}
		sum := crc32cLE(crc32cLE(in.seed, uint32(r.phys)), uint32(r.phys>>32))
		if c.sb.metadataCsum() && crc32c(sum, list) != le.Uint32(tail[4:]) {
			return corrupt("orphan file, block %d: wrong checksum", lblk)
		}
		for ; len(list) > 0; list = list[4:] {
			if ino := le.Uint32(list); ino != 0 {
				if _, err := c.orphan(ino); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// orphan counts what cleaning up one inode would free. It gives nil when the
// list should not be followed any further.
func (c *cleaner) orphan(ino uint32) (*inode, error) {
	if c.seen[ino] || len(c.seen) == maxOrphans {
		return nil, corrupt("orphan %d comes again, or too late", ino)
	}
	c.seen[ino] = true
	if ino < c.sb.firstIno {
		return nil, corrupt("orphan %d is a reserved inode", ino)
	}
	in, err := c.loadInode(uint64(ino), true)
	if err != nil {
		return nil, wrap(err, "orphan %d", ino)
	}
	perCluster := int64(c.sb.blockSize >> 9 << c.sb.clusterBits)
	if le.Uint16(in.raw[0x1A:]) == 0 {
		c.deleted++
		c.freed.inodes++
		sectors := c.sectors(in)
		if in.acl != 0 && c.sharedXattrs(in) {
			sectors -= perCluster
		}
		c.freed.clusters += uint64(max(0, sectors/perCluster))
		return in, nil
	}
	c.truncated++
	if in.isInline() || in.mode&filesys.TypeMask == filesys.TypeSymlink && c.fastSymlink(in) {
		return in, nil
	}
	end := (uint64(in.size) + c.sb.blockSize - 1) >> c.sb.blockBits
	var n uint64
	if in.root != nil {
		n, err = c.extentsBehind(in, in.root, 1<<32, end)
	} else {
		n, err = c.pointersBehind(in, end)
	}
	if err != nil {
		return in, wrap(err, "orphan %d", ino)
	}
	c.orphans[ino] = min(int64(n)*perCluster, c.sectors(in))
	c.freed.clusters += n
	return in, nil
}

// sharedXattrs says whether other inodes refer to in's attribute block.
func (c *cleaner) sharedXattrs(in *inode) bool {
	b, err := c.block(in.acl)
	return err == nil && le.Uint32(b[4:]) > 1
}

func (c *cleaner) spend() error {
	if c.budget--; c.budget < 0 {
		return corrupt("orphans have too many blocks to be counted")
	}
	return nil
}

// extentsBehind counts the clusters that hold the file's blocks from end on,
// and the nodes that only map such.
func (c *cleaner) extentsBehind(in *inode, node *extentNode, limit, end uint64) (clusters uint64, err error) {
	bits := c.sb.clusterBits
	keep := (end + 1<<bits - 1) >> bits // first logical cluster to go
	for _, x := range node.extents {
		first := max(uint64(x.lblk)>>bits, keep)
		last := (uint64(x.lblk) + uint64(x.n) - 1) >> bits
		if first > last {
			continue
		}
		clusters += last - first + 1
		keep = last + 1 // two extents may share a cluster
	}
	for i, ix := range node.indexes {
		below := limit
		if i+1 < len(node.indexes) {
			below = uint64(node.indexes[i+1].lblk)
		}
		if below <= end {
			continue
		}
		if err := c.spend(); err != nil {
			return 0, err
		}
		child, err := c.extentChild(in, ix, below, node.depth-1)
		if err != nil {
			return 0, err
		}
		n, err := c.extentsBehind(in, child, below, end)
		if err != nil {
			return 0, err
		}
		clusters += n
		if first, _ := child.bounds(); first >= end {
			clusters++
		}
	}
	return clusters, nil
}

// pointersBehind is the same for blocks mapped by pointers.
func (c *cleaner) pointersBehind(in *inode, end uint64) (blocks uint64, err error) {
	perBits := c.sb.blockBits - 2
	first := uint64(0)
	for i := range uint64(directBlocks + 3) {
		level := uint(max(int(i)-directBlocks+1, 0))
		n, _, err := c.pointerBehind(uint64(le.Uint32(in.iblock()[4*i:])), level, first, end)
		if err != nil {
			return 0, err
		}
		blocks += n
		first += 1 << (level * perBits)
	}
	return blocks, nil
}

// pointerBehind counts what goes below one pointer, itself included, and says
// whether anything stays.
func (c *cleaner) pointerBehind(ptr uint64, level uint, first, end uint64) (blocks uint64, stays bool, err error) {
	switch {
	case ptr == 0:
		return 0, false, nil
	case level == 0 && first >= end:
		return 1, false, nil
	case level == 0:
		return 0, true, nil
	}
	if err := c.spend(); err != nil {
		return 0, false, err
	}
	b, err := c.block(ptr)
	if err != nil {
		return 0, false, err
	}
	span := uint64(1) << ((level - 1) * (c.sb.blockBits - 2))
	for ; len(b) > 0; b, first = b[4:], first+span {
		n, s, err := c.pointerBehind(uint64(le.Uint32(b)), level-1, first, end)
		if err != nil {
			return 0, false, err
		}
		blocks += n
		stays = stays || s
	}
	if !stays {
		blocks++
	}
	return blocks, stays, nil
}
