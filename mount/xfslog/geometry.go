package xfslog

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"cairn/mount/filesys"
)

var be = binary.BigEndian

// Geometry is what the superblock tells about a volume and its log. All of it is
// fixed when the file system is made, except that it may grow: then the newest
// superblock may itself be in the log.
type Geometry struct {
	// BlockSize of the file system, 512 to 65536.
	BlockSize int
	// SectorSize of the volume, the size of each header of an allocation
	// group.
	SectorSize int
	// LogOffset is where on the volume the log is, LogSize how long, in bytes.
	LogOffset, LogSize int64
	// V5: metadata has checksums and log sequence numbers.
	V5 bool
	// UUID stands in the log's records, MetaUUID in metadata. The two differ
	// when the former was changed after the file system was made.
	UUID, MetaUUID [16]byte
	// DirBlockSize is how long a block of a directory is, in bytes.
	DirBlockSize int
	// AGBlocks is the number of blocks in an allocation group, AGBlockLog the
	// number of bits that such a block takes in a block number. AGCount is the
	// number of groups.
	AGBlocks   uint32
	AGBlockLog uint
	AGCount    uint32
	// InodeSize in bytes, and the alignment of chunks of inodes in blocks.
	InodeSize  int
	InodeAlign uint32
}

// Bits of sb_features_incompat that change how this package works.
const incompatMetaUUID = 1 << 2

// ParseGeometry takes what it needs of a superblock (sector 0 of the volume or
// of an allocation group, at least 264 bytes), which the caller has verified. It
// gives ErrUnsupported for a volume whose log is on another device.
func ParseGeometry(super []byte) (Geometry, error) {
	if len(super) < 264 || string(super[:4]) != "XFSB" {
		return Geometry{}, fmt.Errorf("superblock: %w", filesys.ErrWrongType)
	}
	g := Geometry{
		BlockSize:  int(be.Uint32(super[4:])),
		SectorSize: int(be.Uint16(super[102:])),
		V5:         be.Uint16(super[100:])&0xF == 5,
		AGBlocks:   be.Uint32(super[84:]),
		AGCount:    be.Uint32(super[88:]),
		AGBlockLog: uint(super[124]),
		InodeSize:  int(be.Uint16(super[104:])),
		InodeAlign: be.Uint32(super[180:]),
	}
	g.DirBlockSize = g.BlockSize << min(super[192], 16)
	copy(g.UUID[:], super[32:])
	g.MetaUUID = g.UUID
	if g.V5 && be.Uint32(super[216:])&incompatMetaUUID != 0 {
		copy(g.MetaUUID[:], super[248:])
	}
	start, blocks := be.Uint64(super[48:]), be.Uint32(super[96:])
	if start == 0 {
		return Geometry{}, fmt.Errorf("a log on another device: %w", filesys.ErrUnsupported)
	}
	if err := g.check(); err != nil {
		return Geometry{}, err
	}
	if start >= 1<<54 || start>>g.AGBlockLog >= uint64(g.AGCount) {
		return Geometry{}, corrupt("superblock: log at block %d", start)
	}
	g.LogOffset = g.blockOffset(start)
	g.LogSize = int64(blocks) * int64(g.BlockSize)
	return g, nil
}

// check refuses what the rest of the package would have to divide by or
// allocate.
func (g *Geometry) check() error {
	powerOf2 := func(v, low, high int) bool { return v >= low && v <= high && bits.OnesCount(uint(v)) == 1 }
	switch {
	case !powerOf2(g.BlockSize, 512, 65536):
		return corrupt("superblock: blocks of %d bytes", g.BlockSize)
	case !powerOf2(g.SectorSize, 512, 32768):
		return corrupt("superblock: sectors of %d bytes", g.SectorSize)
	case !powerOf2(g.InodeSize, 256, min(2048, g.BlockSize)):
		return corrupt("superblock: inodes of %d bytes", g.InodeSize)
	case !powerOf2(g.DirBlockSize, g.BlockSize, 65536):
		return corrupt("superblock: directories with blocks of %d bytes", g.DirBlockSize)
	case g.AGBlockLog > 31 || g.AGBlocks == 0 || uint64(g.AGBlocks) > 1<<g.AGBlockLog:
		return corrupt("superblock: %d blocks in a group, numbered with %d bits", g.AGBlocks, g.AGBlockLog)
	case g.InodeAlign > g.AGBlocks:
		return corrupt("superblock: inodes aligned to %d blocks", g.InodeAlign)
	}
	return nil
}

// blockOffset is where on the volume a block is, in bytes. The number has the
// allocation group in its upper bits, which need not be consecutive with the
// next.
func (g *Geometry) blockOffset(fsblock uint64) int64 {
	ag, block := fsblock>>g.AGBlockLog, fsblock&(1<<g.AGBlockLog-1)
	return int64((ag*uint64(g.AGBlocks) + block) * uint64(g.BlockSize))
}

// clusterBlocks is how many blocks the kernel writes inodes by: in a buffer of 8
// KiB for inodes of 256 bytes, of more for larger ones where chunks of inodes
// are aligned to that.
func (g *Geometry) clusterBlocks() uint32 {
	size := 8192
	if g.V5 {
		if larger := size * g.InodeSize / 256; int(g.InodeAlign) >= larger/g.BlockSize {
			size = larger
		}
	}
	return uint32(max(1, size/g.BlockSize))
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrCorrupt)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrUnsupported)...)
}

// inodeNumber is the number of the inode at a byte of the volume.
func (g *Geometry) inodeNumber(at int64) uint64 {
	size := uint64(g.BlockSize)
	block, in := uint64(at)/size, uint64(at)%size
	ag, block := block/uint64(g.AGBlocks), block%uint64(g.AGBlocks)
	return (ag<<g.AGBlockLog|block)<<g.inodeBits() | in/uint64(g.InodeSize)
}

// inodeOffset is where on the volume an inode is, in bytes.
func (g *Geometry) inodeOffset(ino uint64) (int64, error) {
	block, in := ino>>g.inodeBits(), ino&(1<<g.inodeBits()-1)
	if err := g.checkBlock(block); err != nil {
		return 0, wrap(err, "inode %d", ino)
	}
	return g.blockOffset(block) + int64(in)*int64(g.InodeSize), nil
}

// inodeBits is how many bits of an inode's number say where in its block it is.
func (g *Geometry) inodeBits() int { return bits.TrailingZeros(uint(g.BlockSize / g.InodeSize)) }

// checkBlock refuses a block number that no group has. Groups may be more than
// AGCount: the log may hold the superblock that says so.
func (g *Geometry) checkBlock(fsblock uint64) error {
	if fsblock>>g.AGBlockLog >= 1<<31 || fsblock&(1<<g.AGBlockLog-1) >= uint64(g.AGBlocks) {
		return corrupt("no block has the number %d", fsblock)
	}
	return nil
}
