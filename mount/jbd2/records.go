package jbd2

import (
	"fmt"

	"cairn/mount/filesys"
)

// Flags of a tag.
const (
	flagEscape   = 1
	flagSameUUID = 2
	flagLastTag  = 8
)

// tag is one block that the log holds, and where.
type tag struct {
	block    uint64 // of the file system
	at       uint32 // steps from the log's start, see superblock.logBlock
	tid      uint32 // transaction
	checksum uint32 // of the block in the log; versions 2 and 3
	escaped  bool
}

// tagSize is the length in bytes of a tag without its UUID.
func (sb *superblock) tagSize() int {
	size := 8
	if sb.incompat&incompatCsumV3 != 0 {
		return 16
	}
	if sb.is64() {
		size += 4
	}
	if sb.incompat&incompatCsumV2 != 0 {
		size += 2
	}
	return size
}

// tags appends the tags of a descriptor block that stands at steps from the
// log's start to dst. A descriptor has at least one.
func (sb *superblock) tags(dst []tag, block []byte, at, tid uint32) []tag {
	size, end := sb.tagSize(), len(block)
	if sb.csum23() {
		end -= 4
	}
	for off := headerSize; off+size <= end; {
		t := block[off:]
		flags := be.Uint16(t[6:])
		at++
		e := tag{
			block:   uint64(be.Uint32(t)),
			at:      at,
			tid:     tid,
			escaped: flags&flagEscape != 0,
		}
		if sb.is64() {
			e.block |= uint64(be.Uint32(t[8:])) << 32
		}
		switch {
		case sb.incompat&incompatCsumV3 != 0:
			e.checksum = be.Uint32(t[12:])
		case sb.incompat&incompatCsumV2 != 0:
			e.checksum = uint32(be.Uint16(t[4:]))
		}
		dst = append(dst, e)
		off += size
		if flags&flagSameUUID == 0 {
			off += 16
		}
		if flags&flagLastTag != 0 {
			break
		}
	}
	return dst
}

// revoked calls fn for every block number in a revoke block.
func (sb *superblock) revoked(block []byte, fn func(block uint64)) error {
	used, end, size := be.Uint32(block[headerSize:]), len(block), 4
	if sb.csum23() {
		end -= 4
	}
	if sb.is64() {
		size = 8
	}
	if used > uint32(end) {
		return fmt.Errorf("revoke record of %d bytes in a block of %d: %w", used, len(block), filesys.ErrCorrupt)
	}
	for off := headerSize + 4; off+size <= int(used); off += size {
		if size == 8 {
			fn(be.Uint64(block[off:]))
		} else {
			fn(uint64(be.Uint32(block[off:])))
		}
	}
	return nil
}
