package xfs_test

import (
	"encoding/binary"
	"hash/crc32"
)

// A volume of version 5 that was edited by hand, or damaged by a fuzzer, needs
// checksums again, or nothing but those would be tested.

var (
	be = binary.BigEndian
	le = binary.LittleEndian
)

// region is a piece of a volume with a checksum.
type region struct{ off, size, sum int }

// sealer knows the pieces of a sound volume.
type sealer struct {
	sound   []byte
	block   int
	regions map[int][]region // by the block that they begin in
}

// newSealer finds the pieces of a sound volume. Directory blocks must be as
// large as blocks.
func newSealer(image []byte) *sealer {
	s := &sealer{sound: image, block: int(be.Uint32(image[4:])), regions: map[int][]region{}}
	if be.Uint16(image[100:])&15 != 5 {
		return s
	}
	sector, inode := int(be.Uint16(image[102:])), int(be.Uint16(image[104:]))
	add := func(off, size, sum int) {
		if off+size <= len(image) && le.Uint32(image[off+sum:]) == crc(image[off:off+size], sum) {
			s.regions[off/s.block] = append(s.regions[off/s.block], region{off, size, sum})
		}
	}
	for off := 0; off < len(image); off += 512 {
		b := image[off:]
		switch string(b[:4]) {
		case "XFSB":
			add(off, sector, 224)
		case "XAGF":
			add(off, sector, 216)
		case "XAGI":
			add(off, sector, 312)
		}
		if string(b[:2]) == "IN" && off%inode == 0 && b[4] == 3 {
			add(off, inode, 100)
		}
		if off%s.block != 0 {
			continue
		}
		switch string(b[:4]) {
		case "IAB3":
			add(off, s.block, 52)
		case "BMA3":
			add(off, s.block, 64)
		case "XDB3", "XDD3":
			add(off, s.block, 4)
		case "XARM", "XSLM":
			add(off, s.block, 12)
		}
		switch be.Uint16(b[8:]) {
		case 0x3DF1, 0x3DFF, 0x3EBE, 0x3BEE:
			add(off, s.block, 12)
		}
	}
	return s
}

// crc is the checksum of b, which is stored in it at off.
func crc(b []byte, off int) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	c := crc32.Update(0, table, b[:off])
	c = crc32.Update(c, table, make([]byte, 4))
	return crc32.Update(c, table, b[off+4:])
}

// seal gives the pieces of image in the block at off their checksums.
func (s *sealer) seal(image []byte, off int) {
	for _, r := range s.regions[off/s.block] {
		b := image[r.off : r.off+r.size]
		le.PutUint32(b[r.sum:], crc(b, r.sum))
	}
}

// restore undoes the changes to the block at off.
func (s *sealer) restore(image []byte, off int) {
	start := off / s.block * s.block
	copy(image[start:min(start+s.block, len(image))], s.sound[start:])
}

// inodeOffset is where an inode stands on a volume.
func inodeOffset(image []byte, ino uint64) int {
	agBits, inopBits, blockBits := image[124], image[123], image[120]
	ag := ino >> (agBits + inopBits)
	bno := ino >> inopBits & (1<<agBits - 1)
	index := ino & (1<<inopBits - 1)
	return int((ag*uint64(be.Uint32(image[84:]))+bno)<<blockBits + index*uint64(be.Uint16(image[104:])))
}
