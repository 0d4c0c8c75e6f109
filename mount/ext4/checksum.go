package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var (
	le         = binary.LittleEndian
	be         = binary.BigEndian // only in the journal
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// crc32c continues a CRC-32C without the inversions that Go's package puts at
// both ends: ext4 keeps the raw register (seed all ones, no final inversion).
func crc32c(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, p)
}

// crc32cLE continues with one little-endian 32-bit number.
func crc32cLE(crc, v uint32) uint32 { return crc32cBytes(crc, v, 4) }

// crc32cBytes continues with the n lowest bytes of v, byte by byte: for so few
// that is quicker than a call that makes them escape to the heap.
func crc32cBytes(crc, v uint32, n int) uint32 {
	for range n {
		crc = castagnoli[byte(crc)^byte(v)] ^ crc>>8
		v >>= 8
	}
	return crc
}

// crc16Table is CRC-16/ARC (polynomial 0x8005, reflected), the checksum of
// group descriptors under uninit_bg.
var crc16Table = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}()

func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc = crc>>8 ^ crc16Table[byte(crc)^b]
	}
	return crc
}
