package xfslog

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// Types of buffers, as their log items name them. Kernels before 3.10 name none.
const (
	blftUnknown    = 0
	blftUserDquot  = 1
	blftGroupDquot = 3
	blftInode      = 8
	blftBitmap     = 19 // of the realtime device, without a header
	blftSummary    = 20
)

// layout is where in a block of metadata of version 5 its sequence number, UUID
// and checksum are. The checksum is the crc32c of all of the block with zeros in
// its place, stored little-endian.
type layout struct{ lsn, uuid, crc int }

// Blocks of most kinds begin with a magic number.
var layouts = map[uint32]layout{
	0x58465342: {240, 0, 224},   // XFSB: the superblock; its UUID is looked up apart
	0x58414746: {208, 64, 216},  // XAGF: free space of an allocation group
	0x5841464C: {24, 8, 32},     // XAFL: its free list
	0x58414749: {320, 296, 312}, // XAGI: its inodes

	// B+trees of an allocation group.
	0x41423342: shortTree, 0x41423343: shortTree, // AB3B, AB3C: free space
	0x49414233: shortTree, 0x46494233: shortTree, // IAB3, FIB3: inodes
	0x524D4233: shortTree, 0x52334643: shortTree, // RMB3, R3FC: owners, references
	// B+trees of an inode.
	0x424D4133: longTree,                       // BMA3: mapping of a fork
	0x4D415052: longTree, 0x52434E54: longTree, // MAPR, RCNT: of the realtime device

	0x58534C4D: {48, 16, 12}, // XSLM: symbolic link
	// Directory: single block, data, free space.
	0x58444233: {16, 24, 4}, 0x58444433: {16, 24, 4}, 0x58444633: {16, 24, 4},
	0x424D505A: realtime, 0x53554D59: realtime, // BMPZ, SUMY
}

var (
	shortTree = layout{24, 32, 52}
	longTree  = layout{32, 40, 64}
	realtime  = layout{24, 32, 4}
	// daBlock is that of directory leaves and nodes, and of attributes, whose
	// magic number, of 16 bits, is at offset 8.
	daBlock = layout{24, 32, 12}
)

const (
	magicSuper   = 0x58465342
	magicTree    = 0x424D4133
	magicTreeV4  = 0x424D4150 // BMAP
	magicDirLeaf = 0x3DF1
	magicDirNode = 0x3DFF
	magicDaNode  = 0x3EBE
	magicAttr    = 0x3BEE
)

// layoutOf recognizes a block of version 5 by its magic number.
func layoutOf(block []byte) (layout, bool) {
	if o, ok := layouts[be.Uint32(block)]; ok {
		return o, true
	}
	switch be.Uint16(block[8:]) {
	case magicDirLeaf, magicDirNode, magicDaNode, magicAttr:
		return daBlock, true
	}
	return layout{}, false
}

// isDirectory: the block is a whole block of a directory, whatever its size.
func isDirectory(block []byte) bool {
	switch be.Uint32(block) {
	case 0x58444233, 0x58444433, 0x58444633:
		return true
	}
	m := be.Uint16(block[8:])
	return m == magicDirLeaf || m == magicDirNode
}

// written is the sequence number of the transaction whose changes the block on
// disk has, 0 if that cannot be told: then everything is replayed. A block that
// was freed and belongs to another kind of metadata now has one as well; what
// another file system left has not.
func (l *Log) written(block []byte) lsn {
	o, ok := layoutOf(block)
	if !ok {
		return 0
	}
	if uuid := block[o.uuid : o.uuid+16]; be.Uint32(block) != magicSuper && !bytes.Equal(uuid, l.g.MetaUUID[:]) {
		return 0
	}
	if n := lsn(be.Uint64(block[o.lsn:])); n != ^lsn(0) {
		return n
	}
	return 0
}

// replayBuffer brings a buffer, as it is on disk, up to date.
func (l *Log) replayBuffer(run []op, block []byte) error {
	var on lsn
	if l.g.V5 && run[0].form != blftBitmap && run[0].form != blftSummary {
		on = l.written(block)
	}
	var newest *op
	for i := range run {
		o := &run[i]
		if l.g.V5 && on != 0 && on >= l.span.lsn(o.start) {
			continue
		}
		if err := l.fetch(block[o.off:int(o.off)+int(o.len)], o.log); err != nil {
			return err
		}
		newest = o
	}
	if newest == nil || !l.g.V5 || newest.form == blftUnknown || newest.form == blftInode {
		return nil
	}
	o, ok := layoutOf(block)
	if !ok {
		return nil // no header, or one that mount/xfs will not know
	}
	if isDirectory(block) && len(block) != l.g.DirBlockSize {
		return unsupported("sector %d in the log: a directory's block in several pieces", newest.block)
	}
	be.PutUint64(block[o.lsn:], uint64(l.span.lsn(newest.start)))
	seal(block, o.crc)
	return nil
}

// seal makes the checksum of a block right.
func seal(block []byte, at int) {
	clear(block[at : at+4])
	binary.LittleEndian.PutUint32(block[at:], crc32.Checksum(block, castagnoli))
}

// sealed says whether the checksum of a block is right.
func sealed(block []byte, at int) bool {
	var zero [4]byte
	sum := crc32.Update(0, castagnoli, block[:at])
	sum = crc32.Update(sum, castagnoli, zero[:])
	sum = crc32.Update(sum, castagnoli, block[at+4:])
	return sum == binary.LittleEndian.Uint32(block[at:])
}
