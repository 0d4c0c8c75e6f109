package xfs

import (
	"bytes"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of b with the four bytes at off taken as zeros, where
// it is stored, as the only little-endian number.
func checksum(b []byte, off int) uint32 {
	var zero [4]byte
	c := crc32.Update(0, castagnoli, b[:off])
	c = crc32.Update(c, castagnoli, zero[:])
	return crc32.Update(c, castagnoli, b[off+4:])
}

// stamp says where a kind of metadata block keeps what version 5 added to it.
type stamp struct {
	crc, block, uuid, owner int // offsets; -1 where there is none
}

var (
	stampShort   = stamp{crc: 52, block: 16, uuid: 32, owner: -1} // btree of a group; its owner has 32 bits
	stampLong    = stamp{crc: 64, block: 24, uuid: 40, owner: 56} // btree of an inode
	stampDirData = stamp{crc: 4, block: 8, uuid: 24, owner: 40}
	stampDA      = stamp{crc: 12, block: 16, uuid: 32, owner: 48} // index blocks, attribute leaves
	stampRemote  = stamp{crc: 12, block: 40, uuid: 16, owner: 32} // attribute values, symlinks
)

// verify checks a block of version 5: that it is sound, belongs to this volume,
// this place and this owner.
func (s *superblock) verify(b []byte, at stamp, daddr, owner uint64) error {
	if got, want := checksum(b, at.crc), le.Uint32(b[at.crc:]); got != want {
		return corrupt("checksum is %08x, stored %08x", got, want)
	}
	if !bytes.Equal(b[at.uuid:][:16], s.uuid[:]) {
		return corrupt("it belongs to the volume %x", b[at.uuid:][:16])
	}
	if got := be.Uint64(b[at.block:]); got != daddr {
		return corrupt("it belongs at sector %d, not %d", got, daddr)
	}
	if at.owner >= 0 {
		if got := be.Uint64(b[at.owner:]); got != owner {
			return corrupt("it belongs to inode %d, not %d", got, owner)
		}
	}
	return nil
}
