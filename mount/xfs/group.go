package xfs

import (
	"bytes"
	"math/bits"
)

const (
	agfMagic = 0x58414746 // "XAGF"
	agiMagic = 0x58414749 // "XAGI"

	inobtMagic   = 0x49414254 // "IABT"
	inobtMagicV5 = 0x49414233 // "IAB3"

	// chunkInodes is how many inodes one record of the inode btree tells of.
	chunkInodes = 64
	// maxInobtLevels is more than a group of 2^31 blocks needs with blocks of
	// 512 bytes.
	maxInobtLevels = 10
	// nullAgino stands at the end of a list of inodes.
	nullAgino = 1<<32 - 1
)

// header reads and checks the AGF (sector 1) or AGI (sector 2) of a group.
func (f *FS) header(ag uint64, sector int) ([]byte, error) {
	s := f.sb
	key := cacheKey{addr: ag, owner: uint64(sector), kind: kindHeader}
	if b := f.cache.get(key); b != nil {
		return b, nil
	}
	off := ag*s.agBlocks<<s.blockBits + uint64(sector)*s.sectSize
	b := make([]byte, s.sectSize)
	if err := readFull(f.r, b, int64(off)); err != nil {
		return nil, err
	}
	name, magic, uuid, crc := "AGF", uint32(agfMagic), 64, 216
	if sector == 2 {
		name, magic, uuid, crc = "AGI", agiMagic, 296, 312
	}
	if got := be.Uint32(b); got != magic {
		return nil, corrupt("%s of group %d begins with %08x", name, ag, got)
	}
	if s.v5 {
		if got, want := checksum(b, crc), le.Uint32(b[crc:]); got != want {
			return nil, corrupt("%s of group %d: checksum is %08x, stored %08x", name, ag, got, want)
		}
		if !bytes.Equal(b[uuid:uuid+16], s.uuid[:]) {
			return nil, corrupt("%s of group %d belongs to the volume %x", name, ag, b[uuid:uuid+16])
		}
	}
	if nr, length := uint64(be.Uint32(b[8:])), uint64(be.Uint32(b[12:])); nr != ag || length != s.agLength(ag) {
		return nil, corrupt("%s of group %d says that it is group %d of %d blocks", name, ag, nr, length)
	}
	f.cache.put(key, b)
	return b, nil
}

// chunk is a record of the inode btree: 64 inodes, or those of them that exist.
type chunk struct {
	start uint32 // number of the first in its group
	free  uint64 // which are not in use, by bit
	hole  uint64 // which do not exist (sparse chunks)
}

// used are the inodes of the chunk that are in use, by bit.
func (c chunk) used() uint64 { return ^(c.free | c.hole) }

// decodeChunk takes a record: startino (32 bits); freecount (32), or with
// sparse chunks holemask, count and freecount (16, 8, 8); free (64). Each bit of
// holemask stands for 4 inodes.
func (f *FS) decodeChunk(b []byte) chunk {
	c := chunk{start: be.Uint32(b), free: be.Uint64(b[8:])}
	if f.sb.incompat&incompatSparse != 0 {
		for mask := be.Uint16(b[4:]); mask != 0; mask &= mask - 1 {
			c.hole |= 0xF << (4 * bits.TrailingZeros16(mask))
		}
	}
	return c
}

// inobtBlock reads a block of a group's inode btree, which stands at the given
// level: 0 for leaves.
func (f *FS) inobtBlock(ag, bno uint64, level int) ([]byte, error) {
	s := f.sb
	if bno >= s.agLength(ag) {
		return nil, corrupt("inode btree of group %d: block %d", ag, bno)
	}
	block := ag*s.agBlocks + bno
	b, err := f.block(kindInobt, block, ag, func(b []byte) error {
		want := uint32(inobtMagic)
		if s.v5 {
			want = inobtMagicV5
			if err := s.verify(b, stampShort, s.daddr(block), 0); err != nil {
				return err
			}
			if owner := be.Uint32(b[48:]); uint64(owner) != ag {
				return corrupt("it belongs to group %d, not %d", owner, ag)
			}
		}
		if got := be.Uint32(b); got != want {
			return corrupt("it begins with %08x", got)
		}
		return nil
	})
	if err != nil {
		return nil, wrap(err, "inode btree of group %d", ag)
	}
	n, limit := int(be.Uint16(b[6:])), f.inobtMax(level)
	if got := int(be.Uint16(b[4:])); got != level || n > limit {
		return nil, corrupt("inode btree of group %d: block %d has level %d, not %d, and %d entries", ag, bno, got, level, n)
	}
	return b, nil
}

// inobtHeader is the length of the header of a btree block of a group.
func (f *FS) inobtHeader() int {
	if f.sb.v5 {
		return 56
	}
	return 16
}

// inobtMax is how many records (16 bytes) or keys and pointers (4 each) fit in
// a block.
func (f *FS) inobtMax(level int) int {
	room := int(f.sb.blockSize) - f.inobtHeader()
	if level == 0 {
		return room / 16
	}
	return room / 8
}

// inobtRoot gives the root of a group's inode btree and its level.
func (f *FS) inobtRoot(ag uint64) (bno uint64, level int, err error) {
	agi, err := f.header(ag, 2)
	if err != nil {
		return 0, 0, err
	}
	bno, level = uint64(be.Uint32(agi[20:])), int(be.Uint32(agi[24:]))-1
	if level < 0 || level >= maxInobtLevels {
		return 0, 0, corrupt("inode btree of group %d has %d levels", ag, level+1)
	}
	return bno, level, nil
}

// findChunk finds the record that tells of an inode of a group, if there is one.
func (f *FS) findChunk(ag uint64, agino uint32) (c chunk, ok bool, err error) {
	bno, level, err := f.inobtRoot(ag)
	if err != nil {
		return c, false, err
	}
	header := f.inobtHeader()
	for ; ; level-- {
		b, err := f.inobtBlock(ag, bno, level)
		if err != nil {
			return c, false, err
		}
		n, width := int(be.Uint16(b[6:])), 4
		if level == 0 {
			width = 16
		}
		// The last one that does not begin behind agino.
		low, high := 0, n
		for low < high {
			if mid := (low + high) / 2; be.Uint32(b[header+mid*width:]) <= agino {
				low = mid + 1
			} else {
				high = mid
			}
		}
		if low == 0 {
			return c, false, nil
		}
		if level == 0 {
			c = f.decodeChunk(b[header+(low-1)*16:])
			return c, agino-c.start < chunkInodes, nil
		}
		bno = uint64(be.Uint32(b[header+f.inobtMax(level)*4+(low-1)*4:]))
	}
}

// eachChunk calls fn with the records of a group's inode btree, in order, until
// fn returns false. Records must ascend, so that the walk ends.
func (f *FS) eachChunk(ag uint64, fn func(chunk) bool) error {
	bno, level, err := f.inobtRoot(ag)
	if err != nil {
		return err
	}
	last, header := int64(-1), f.inobtHeader()
	var visit func(bno uint64, level int, root bool) (more bool, err error)
	visit = func(bno uint64, level int, root bool) (bool, error) {
		b, err := f.inobtBlock(ag, bno, level)
		if err != nil {
			return false, err
		}
		n := int(be.Uint16(b[6:]))
		if n == 0 && (level > 0 || !root) {
			return false, corrupt("inode btree of group %d: block %d is empty", ag, bno)
		}
		for i := range n {
			if level > 0 {
				child := uint64(be.Uint32(b[header+f.inobtMax(level)*4+i*4:]))
				if more, err := visit(child, level-1, false); err != nil || !more {
					return false, err
				}
				continue
			}
			c := f.decodeChunk(b[header+i*16:])
			if int64(c.start) <= last || last >= 0 && int64(c.start) < last+chunkInodes {
				return false, corrupt("inode btree of group %d: inode %d behind %d", ag, c.start, last)
			}
			last = int64(c.start)
			if !fn(c) {
				return false, nil
			}
		}
		return true, nil
	}
	_, err = visit(bno, level, true)
	return err
}

// inUse asks the inode btree whether an inode is in use. Where the btree is
// damaged, or stale because the log is ignored, everything may be.
func (f *FS) inUse(ino uint64) bool {
	if f.stale {
		return true
	}
	ag, _, _ := f.sb.inodePlace(ino)
	agino := uint32(ino & (1<<(f.sb.agBits+f.sb.inopBits) - 1))
	c, ok, err := f.findChunk(ag, agino)
	if err != nil {
		return true // the inode itself is checked all the same
	}
	return ok && c.used()>>(agino-c.start)&1 != 0
}

// hidden are inodes that hold the volume's own data.
func (f *FS) hidden(ino uint64) bool {
	raw := f.sb.raw
	for _, off := range [...]int{64, 72, 160, 168} { // real-time bitmap and summary, quota
		if f.sb.incompat&incompatMetadir == 0 && be.Uint64(raw[off:]) == ino {
			return true
		}
	}
	if f.sb.v5 && be.Uint64(raw[232:]) == ino && f.sb.incompat&incompatMetadir == 0 { // project quota
		return true
	}
	return f.sb.incompat&incompatMetadir != 0 && be.Uint64(raw[264:]) == ino
}
