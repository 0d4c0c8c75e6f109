package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"time"

	"cairn/mount/filesys"
)

const (
	superOffset = 1024 // of the primary superblock, in bytes
	superSize   = 1024
	superMagic  = 0xEF53
	rootIno     = 2

	stateClean  = 0x1
	stateErrors = 0x2

	osLinux = 0
)

// superblock is the decoded superblock. Everything in it was checked: shifts
// are small, divisors are not zero, and blocks*blockSize fits the volume.
type superblock struct {
	raw []byte // superSize bytes as they stand on disk

	compat, incompat, ro uint32

	blockBits   uint
	blockSize   uint64 // 1 KiB … 64 KiB
	clusterBits uint   // log2 of blocks per cluster, 0 without bigalloc
	blocks      uint64 // blocks of the file system
	firstData   uint64 // block that group 0 begins with
	perGroup    uint64 // blocks per group
	groups      uint64
	inodes      uint32
	inodesPer   uint32 // per group
	inodeSize   uint64
	descSize    uint64
	firstIno    uint32 // first inode that is not reserved
	location    uint64 // block that holds this copy of the superblock
	backup      bool   // it is not the primary
	csumSeed    uint32
}

// errSuperblock marks a superblock that has the magic number but makes no
// sense, so that a backup may be tried.
type errSuperblock struct{ error }

func (e errSuperblock) Unwrap() error { return e.error }

func badSuper(format string, args ...any) error {
	return errSuperblock{corrupt("superblock: "+format, args...)}
}

// readSuper reads and checks the superblock at byte off of the volume.
func readSuper(r io.ReaderAt, off, size int64) (*superblock, error) {
	if off < 0 || off+superSize > size {
		return nil, fmt.Errorf("volume of %d bytes has no room for a superblock: %w", size, filesys.ErrWrongType)
	}
	raw := make([]byte, superSize)
	if err := readFull(r, raw, off); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	if le.Uint16(raw[0x38:]) != superMagic {
		return nil, fmt.Errorf("no ext2/3/4 superblock: %w", filesys.ErrWrongType)
	}
	return parseSuper(raw, uint64(off), uint64(size))
}

func parseSuper(raw []byte, off, size uint64) (*superblock, error) {
	u16 := func(o int) uint16 { return le.Uint16(raw[o:]) }
	u32 := func(o int) uint32 { return le.Uint32(raw[o:]) }
	s := &superblock{
		raw: raw, compat: u32(0x5C), incompat: u32(0x60), ro: u32(0x64),
		firstData: uint64(u32(0x14)), perGroup: uint64(u32(0x20)), inodesPer: u32(0x28),
		inodes: u32(0x00), inodeSize: 128, firstIno: 11, descSize: 32,
	}
	// The checksum comes first: a feature bit that is nothing but a flipped
	// bit must not be reported as an unknown feature.
	if s.ro&roMetadataCsum != 0 {
		if raw[0x175] != 1 {
			return nil, badSuper("unknown checksum type %d", raw[0x175])
		}
		if got, want := crc32c(^uint32(0), raw[:0x3FC]), u32(0x3FC); got != want {
			return nil, badSuper("checksum is %08x, stored %08x", got, want)
		}
	}
	if unknown := s.incompat &^ incompatKnown; unknown != 0 {
		return nil, fmt.Errorf("%s: %w", featureNames(unknown, incompatNames, "I"), filesys.ErrUnsupported)
	}
	if u32(0x18) > 6 || u32(0x1C) > 20 {
		return nil, badSuper("block size 2^(10+%d), cluster size 2^(10+%d)", u32(0x18), u32(0x1C))
	}
	s.blockBits = 10 + uint(u32(0x18))
	s.blockSize = 1 << s.blockBits
	s.location = off >> s.blockBits

	s.blocks = uint64(u32(0x04))
	if s.has64() {
		s.blocks |= uint64(u32(0x150)) << 32
		s.descSize = uint64(u16(0xFE))
		if s.descSize < 64 || s.descSize > 1024 || bits.OnesCount64(s.descSize) != 1 {
			return nil, badSuper("group descriptors of %d bytes", s.descSize)
		}
	}
	switch {
	case s.blocks == 0 || s.blocks > size>>s.blockBits:
		return nil, badSuper("file system of %d blocks of %d bytes on a volume of %d bytes (truncated?)",
			s.blocks, s.blockSize, size)
	case s.firstData >= s.blocks:
		return nil, badSuper("first data block %d of %d", s.firstData, s.blocks)
	}
	if err := s.parseClusters(u32(0x18), u32(0x1C), u32(0x24)); err != nil {
		return nil, err
	}
	if u32(0x4C) != 0 { // revision 0 has fixed sizes
		s.inodeSize = uint64(u16(0x58))
		s.firstIno = u32(0x54)
	}
	inodesPerBlock := uint32(0)
	if s.inodeSize >= 128 && s.inodeSize <= s.blockSize && bits.OnesCount64(s.inodeSize) == 1 {
		inodesPerBlock = uint32(s.blockSize / s.inodeSize)
	}
	switch {
	case inodesPerBlock == 0:
		return nil, badSuper("inodes of %d bytes", s.inodeSize)
	case s.firstIno < 11:
		return nil, badSuper("first ordinary inode is %d", s.firstIno)
	case s.inodesPer < inodesPerBlock || uint64(s.inodesPer) > 8*s.blockSize:
		return nil, badSuper("%d inodes per group", s.inodesPer)
	}
	s.groups = (s.blocks - s.firstData + s.perGroup - 1) / s.perGroup
	if s.groups > 1<<32 || s.groups*uint64(s.inodesPer) != uint64(s.inodes) {
		return nil, badSuper("%d inodes in %d groups of %d", s.inodes, s.groups, s.inodesPer)
	}
	if s.incompat&incompatMetaBG != 0 && uint64(u32(0x104)) > s.descBlocks() {
		return nil, badSuper("first meta block group %d of %d", u32(0x104), s.descBlocks())
	}
	s.csumSeed = crc32c(^uint32(0), raw[0x68:0x78])
	if s.incompat&incompatCsumSeed != 0 {
		s.csumSeed = u32(0x270)
	}
	return s, nil
}

// parseClusters checks the sizes that bigalloc changes.
func (s *superblock) parseClusters(logBlock, logCluster, perGroup uint32) error {
	clusters := s.perGroup
	if s.ro&roBigalloc != 0 {
		if logCluster < logBlock {
			return badSuper("clusters smaller than blocks")
		}
		s.clusterBits = uint(logCluster - logBlock)
		clusters = uint64(perGroup)
		if s.perGroup != clusters<<s.clusterBits {
			return badSuper("%d blocks and %d clusters per group", s.perGroup, clusters)
		}
	}
	if clusters == 0 || clusters > 8*s.blockSize {
		return badSuper("%d clusters per group", clusters)
	}
	if s.firstData == 0 && s.blockSize == 1024 && s.clusterBits == 0 {
		return badSuper("first data block is 0 with 1 KiB blocks")
	}
	return nil
}

func (s *superblock) u32(off int) uint32 { return le.Uint32(s.raw[off:]) }
func (s *superblock) has64() bool        { return s.incompat&incompat64Bit != 0 }
func (s *superblock) metadataCsum() bool { return s.ro&roMetadataCsum != 0 }
func (s *superblock) descBlocks() uint64 {
	per := s.blockSize / s.descSize
	return (s.groups + per - 1) / per
}
func (s *superblock) state() uint16            { return le.Uint16(s.raw[0x3A:]) }
func (s *superblock) label() string            { return cString(s.raw[0x78:0x88]) }
func (s *superblock) hasDirIndex() bool        { return s.compat&compatDirIndex != 0 }
func (s *superblock) validBlock(b uint64) bool { return b > s.firstData && b < s.blocks }

// validRun says whether n blocks from b may hold content or metadata that an
// inode names: inside the volume and behind the first data block.
func (s *superblock) validRun(b, n uint64) bool {
	return b > s.firstData && b < s.blocks && n <= s.blocks-b
}

func (s *superblock) uuid() string {
	u := s.raw[0x68:0x78]
	if bytes.Equal(u, make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// written is when the superblock was last written: 40 bits of seconds.
func (s *superblock) written() time.Time {
	sec := int64(s.u32(0x30)) | int64(s.raw[0x274])<<32
	if sec == 0 {
		return time.Time{}
	}
	return time.Unix(sec, 0).UTC()
}

// kind tells ext2, ext3 and ext4 apart by the features that the older
// drivers knew, as blkid does.
func (s *superblock) kind() string {
	old := s.incompat&^(incompatFiletype|incompatRecover|incompatMetaBG) == 0 &&
		s.ro&^(roSparseSuper|roLargeFile|roBtreeDir) == 0
	switch {
	case !old:
		return "ext4"
	case s.compat&compatHasJournal != 0:
		return "ext3"
	default:
		return "ext2"
	}
}

// unsignedHash says whether names are hashed as unsigned bytes. Without either
// flag the file system is from a time when x86's signed char decided.
func (s *superblock) unsignedHash() bool { return s.u32(0x160)&0x2 != 0 }

// mountOption says whether the options stored in the superblock name opt.
func (s *superblock) mountOption(opt string) bool {
	for o := range strings.SplitSeq(cString(s.raw[0x200:0x240]), ",") {
		if o == opt {
			return true
		}
	}
	return false
}

// findBackup looks for the superblock's copy in group 1 under every block size
// and gives the first that is sound, of the same file system as the primary.
func findBackup(r io.ReaderAt, size int64, primaryUUID []byte) (*superblock, error) {
	for bits := 10; bits <= 16; bits++ {
		block := int64(8) << bits // blocks of the first group: one bitmap's worth
		if bits == 10 {
			block++
		}
		s, err := readSuper(r, block<<bits, size)
		if err != nil || s.blockBits != uint(bits) || le.Uint16(s.raw[0x5A:]) == 0 {
			continue
		}
		if bytes.Equal(s.raw[0x68:0x78], primaryUUID) {
			s.backup = true
			return s, nil
		}
	}
	return nil, errors.New("no sound backup superblock")
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
