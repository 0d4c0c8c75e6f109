package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"cairn/mount/filesys"
)

var (
	le = binary.LittleEndian // only of checksums
	be = binary.BigEndian
)

const (
	superMagic = 0x58465342 // "XFSB"
	// superBytes are those of a superblock that hold fields.
	superBytes = 512
	// minGroup is how many blocks a group has at least.
	minGroup = 64
	// daddrBits: disk addresses count units of 512 bytes.
	daddrBits = 9
)

// superblock is a decoded and checked superblock ("Superblocks" in the
// documentation). It is never changed.
type superblock struct {
	raw []byte // one sector of the volume

	v5        bool
	version   uint16 // sb_versionnum: version and the flags of version 4
	features2 uint32
	ro        uint32 // read-only compatible features, version 5
	incompat  uint32

	blockBits uint
	blockSize uint64
	sectSize  uint64
	dirBits   uint   // log2 of the size of a directory block
	blocks    uint64 // of the volume
	agBlocks  uint64
	agCount   uint64
	agBits    uint // of a block number that are the block in its group
	inodeBits uint // log2 of the inode size
	inodeSize uint64
	inopBits  uint // of an inode number that are the inode in its block
	root      uint64
	// uuid is the one that stands in every block of metadata.
	uuid [16]byte
}

// errSuperblock marks a superblock that is damaged, so that its copies are
// worth a look.
type errSuperblock struct{ error }

func (e errSuperblock) Unwrap() error { return e.error }

func badSuper(format string, args ...any) error {
	return errSuperblock{corrupt("superblock: "+format, args...)}
}

// readSuper reads the superblock at off of a volume of size bytes. That of
// another group than the first is a copy, whose counters may be old.
func readSuper(r io.ReaderAt, off, size int64) (*superblock, error) {
	raw := make([]byte, superBytes)
	if size-off < superBytes {
		return nil, fmt.Errorf("volume of %d bytes is too small: %w", size, filesys.ErrWrongType)
	}
	if err := readFull(r, raw, off); err != nil {
		return nil, err
	}
	if be.Uint32(raw) != superMagic {
		return nil, fmt.Errorf("no XFS superblock: %w", filesys.ErrWrongType)
	}
	s := &superblock{raw: raw}
	sect := uint64(be.Uint16(raw[102:]))
	if sect < 512 || sect > 32768 || sect&(sect-1) != 0 || size-off < int64(sect) {
		return nil, badSuper("sectors of %d bytes", sect)
	}
	s.raw = make([]byte, sect)
	if err := readFull(r, s.raw, off); err != nil {
		return nil, err
	}
	if err := s.decode(off != 0); err != nil {
		return nil, err
	}
	if have := uint64(size) >> s.blockBits; have < s.blocks {
		return nil, corrupt("the volume is truncated: it has %d blocks of %d bytes, its superblock says %d",
			have, s.blockSize, s.blocks)
	}
	return s, nil
}

// decode takes the fields and checks all that the reader relies on. Features
// come before geometry: with one that is unknown, geometry may mean otherwise.
func (s *superblock) decode(isCopy bool) error {
	raw := s.raw
	s.version = be.Uint16(raw[100:])
	switch n := s.version & versionMask; n {
	case 4:
	case 5:
		s.v5 = true
		if got, want := checksum(raw, 224), le.Uint32(raw[224:]); got != want {
			return badSuper("checksum is %08x, stored %08x", got, want)
		}
	case 1, 2, 3:
		return fmt.Errorf("XFS version %d (before 1996): %w", n, filesys.ErrUnsupported)
	default:
		return badSuper("version %d", n)
	}
	if err := s.decodeFeatures(); err != nil {
		return err
	}
	if !isCopy && raw[126] != 0 {
		return badSuper("making the file system was never finished")
	}
	copy(s.uuid[:], raw[32:48])
	if s.incompat&incompatMetaUUID != 0 {
		copy(s.uuid[:], raw[248:264])
	}
	return s.decodeGeometry()
}

func (s *superblock) decodeGeometry() error {
	raw := s.raw
	log := func(value uint64, bits8 byte, low, high uint64) bool {
		return value >= low && value <= high && bits8 < 32 && value == 1<<bits8
	}
	s.blockSize, s.blockBits = uint64(be.Uint32(raw[4:])), uint(raw[120])
	s.sectSize = uint64(be.Uint16(raw[102:]))
	s.inodeSize, s.inodeBits = uint64(be.Uint16(raw[104:])), uint(raw[122])
	s.inopBits, s.agBits = uint(raw[123]), uint(raw[124])
	s.blocks = be.Uint64(raw[8:])
	s.agBlocks, s.agCount = uint64(be.Uint32(raw[84:])), uint64(be.Uint32(raw[88:]))
	s.dirBits = s.blockBits + uint(raw[192])
	s.root = be.Uint64(raw[56:])
	switch {
	case !log(s.blockSize, raw[120], 512, 65536):
		return badSuper("blocks of %d bytes (%d bits)", s.blockSize, s.blockBits)
	case !log(s.sectSize, raw[121], 512, 32768) || s.sectSize > s.blockSize:
		return badSuper("sectors of %d bytes (%d bits)", s.sectSize, raw[121])
	case !log(s.inodeSize, raw[122], 256, 2048) || s.inodeSize > s.blockSize || s.v5 && s.inodeSize < 512:
		return badSuper("inodes of %d bytes (%d bits)", s.inodeSize, s.inodeBits)
	case s.inopBits != s.blockBits-s.inodeBits || uint64(be.Uint16(raw[106:])) != 1<<s.inopBits:
		return badSuper("%d inodes to a block", be.Uint16(raw[106:]))
	case raw[192] > 7 || s.dirBits > 16:
		return badSuper("directory blocks of %d bits", s.dirBits)
	case s.agCount == 0 || s.agBlocks < minGroup || s.agBlocks<<s.blockBits < 4*s.sectSize:
		return badSuper("%d groups of %d blocks", s.agCount, s.agBlocks)
	case s.agBits != uint(bits.Len64(s.agBlocks-1)):
		return badSuper("groups of %d blocks, %d bits", s.agBlocks, s.agBits)
	case s.blocks > s.agCount*s.agBlocks || s.blocks < (s.agCount-1)*s.agBlocks+minGroup:
		return badSuper("%d blocks in %d groups of %d", s.blocks, s.agCount, s.agBlocks)
	case s.blocks > 1<<52:
		return badSuper("%d blocks", s.blocks)
	}
	if start := be.Uint64(raw[48:]); start != 0 {
		if _, ok := s.linear(start, uint64(be.Uint32(raw[96:]))); !ok {
			return badSuper("log of %d blocks at block %#x", be.Uint32(raw[96:]), start)
		}
	}
	if !s.validInode(s.root) {
		return badSuper("root directory is inode %d", s.root)
	}
	return nil
}

// agLength is the length of a group in blocks.
func (s *superblock) agLength(ag uint64) uint64 {
	return min(s.agBlocks, s.blocks-ag*s.agBlocks)
}

// linear turns the number of a block, group and place, into its place on the
// volume in blocks. ok is false when the n blocks from there do not all lie in
// one group.
func (s *superblock) linear(fsb, n uint64) (block uint64, ok bool) {
	ag, bno := fsb>>s.agBits, fsb&(1<<s.agBits-1)
	if ag >= s.agCount {
		return 0, false
	}
	length := s.agLength(ag)
	if bno >= length || n > length-bno {
		return 0, false
	}
	return ag*s.agBlocks + bno, true
}

// inodePlace splits an inode number into its group, block and place there.
func (s *superblock) inodePlace(ino uint64) (ag, bno, index uint64) {
	return ino >> (s.agBits + s.inopBits), ino >> s.inopBits & (1<<s.agBits - 1), ino & (1<<s.inopBits - 1)
}

// validInode says whether there is a place for an inode of that number, behind
// the headers of its group.
func (s *superblock) validInode(ino uint64) bool {
	ag, bno, _ := s.inodePlace(ino)
	return ag < s.agCount && bno < s.agLength(ag) && bno<<s.blockBits >= 4*s.sectSize
}

// daddr is the disk address of a block of the volume.
func (s *superblock) daddr(block uint64) uint64 { return block << (s.blockBits - daddrBits) }

func (s *superblock) label() string {
	name := s.raw[108:120]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return string(name)
}

func (s *superblock) userUUID() string {
	u := s.raw[32:48]
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// anySuper reads the superblock or, if that is damaged, its copy in a later
// group. A volume without the magic number in its place is never searched for
// copies: they outlive the file system when the volume is formatted anew.
func anySuper(r io.ReaderAt, size int64) (*superblock, []string, error) {
	s, err := readSuper(r, 0, size)
	bad, ok := err.(errSuperblock)
	if !ok {
		return s, nil, err
	}
	damaged := make([]byte, superBytes)
	if readFull(r, damaged, 0) != nil {
		return nil, nil, err
	}
	for _, off := range copies(damaged, size) {
		s, copyErr := readSuper(r, off, size)
		if copyErr != nil || s.agBlocks<<s.blockBits != uint64(off) || !bytes.Equal(s.raw[32:48], damaged[32:48]) {
			continue
		}
		return s, []string{fmt.Sprintf("The superblock is damaged (%v); its copy in group 1 is used instead.", bad.error)}, nil
	}
	return nil, nil, err
}

// copies are the places where the second group may begin, from what is left of
// the superblock, and from how mkfs divides a volume: evenly, usually by 4.
func copies(damaged []byte, size int64) (list []int64) {
	add := func(blocks, bits uint64) {
		if bits < 9 || bits > 16 || blocks == 0 || blocks >= 1<<32 {
			return
		}
		if off := int64(blocks << bits); off < size {
			list = append(list, off)
		}
	}
	agBlocks, blocks := uint64(be.Uint32(damaged[84:])), min(be.Uint64(damaged[8:]), 1<<52)
	for _, b := range []uint64{uint64(damaged[120]), uint64(bits.Len32(be.Uint32(damaged[4:]))) - 1, 12} {
		add(agBlocks, b)
		for _, n := range []uint64{max(1, uint64(be.Uint32(damaged[88:]))), 4} {
			add((blocks+n-1)/n, b)
			if b >= 9 && b <= 16 {
				add((uint64(size)>>b+n-1)/n, b)
			}
		}
	}
	return list
}
