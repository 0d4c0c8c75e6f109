package jbd2

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros4     [4]byte
)

// crc32c continues the checksum crc over p, without the inversions at both ends
// that hash/crc32 adds.
func crc32c(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, p)
}

// crc32cZeroed is the checksum of p with the four bytes at off taken as zero.
func crc32cZeroed(crc uint32, p []byte, off int) uint32 {
	crc = crc32c(crc, p[:off])
	crc = crc32c(crc, zeros4[:])
	return crc32c(crc, p[off+4:])
}

// crc32BE continues the checksum crc over p, most significant bit first and
// without inversions: the mirror image of what hash/crc32 computes for the same
// polynomial, so it is computed on mirrored bytes. p is destroyed; its length
// is a multiple of eight.
func crc32BE(crc uint32, p []byte) uint32 {
	for i := 0; i+8 <= len(p); i += 8 {
		// Reversing all 64 bits and storing them in the opposite byte order
		// mirrors each byte in its place.
		x := binary.LittleEndian.Uint64(p[i:])
		binary.BigEndian.PutUint64(p[i:], bits.Reverse64(x))
	}
	return bits.Reverse32(^crc32.Update(^bits.Reverse32(crc), crc32.IEEETable, p))
}

// tailOK verifies the checksum at the end of a descriptor or revoke block.
func (sb *superblock) tailOK(block []byte) bool {
	if !sb.csum23() {
		return true
	}
	at := len(block) - 4
	return be.Uint32(block[at:]) == crc32cZeroed(sb.seed, block, at)
}

const (
	commitChecksum   = 16 // offset in a commit block
	commitTime       = 48
	commitHeaderSize = 64 // with the padding that C adds
)

// commitOK verifies a commit block of checksum version 2 or 3. Commits were
// once written in which only the header is defined and the checksum covers
// zeros behind it; the kernel accepts these too.
func (sb *superblock) commitOK(block []byte) bool {
	if !sb.csum23() {
		return true
	}
	want := be.Uint32(block[commitChecksum:])
	if want == crc32cZeroed(sb.seed, block, commitChecksum) {
		return true
	}
	bare := make([]byte, len(block))
	copy(bare, block[:commitHeaderSize])
	return want == crc32cZeroed(sb.seed, bare, commitChecksum)
}

// dataOK verifies a block as it stands in the log against its tag.
func (sb *superblock) dataOK(t *tag, block []byte) bool {
	if !sb.csum23() {
		return true
	}
	var seq [4]byte
	be.PutUint32(seq[:], t.tid)
	crc := crc32c(crc32c(sb.seed, seq[:]), block)
	if sb.incompat&incompatCsumV2 != 0 {
		crc &= 0xffff
	}
	return crc == t.checksum
}
