package btrfs

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"cairn/mount/filesys"
)

// A device has up to three copies of the superblock, at fixed places. The guest
// writes all of them when it commits, and the first alone when it syncs a file
// to the log tree.
var superOffsets = [...]int64{64 << 10, 64 << 20, 256 << 30}

const (
	superSize  = 4096
	superMagic = "_BHRfS_M"
	maxLevel   = 8

	sysChunkStart = 0x32b
	sysChunkMax   = 2048

	superSeeding    = 1 << 32
	superMetadump   = 1<<33 | 1<<34
	superChangingID = 1<<35 | 1<<36
	superChangingSm = 1 << 37
)

// Incompatible features: who does not know one must not read.
const (
	incompatMixedGroups  = 0x4
	incompatNoHoles      = 0x200
	incompatMetadataUUID = 0x400
	incompatKnown        = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x10000

	roFreeSpaceTree  = 1
	roBlockGroupTree = 8
	roKnown          = 1 | 2 | 4 | 8
)

var incompatNames = map[uint]string{12: "zoned", 13: "extent-tree-v2", 14: "raid-stripe-tree"}

// super is a checked superblock.
type super struct {
	raw        []byte
	fsid       [16]byte
	metaID     [16]byte // what tree blocks carry
	flags      uint64
	generation uint64
	root       ref
	chunkRoot  ref
	logRoot    ref // bytenr 0: no log
	total      uint64
	rootDir    uint64
	devices    uint64
	sector     uint32
	nodeSize   uint32
	ro         uint64
	incompat   uint64
	sums       *sums
	dev        devItem
	copy       int // which of the copies it is
}

// devItem says which device of the file system this is.
type devItem struct {
	id, total, used uint64
	uuid, fsid      [16]byte
}

const devItemSize = 98

func decodeDevItem(b []byte) devItem {
	return devItem{
		id: le.Uint64(b), total: le.Uint64(b[8:]), used: le.Uint64(b[16:]),
		uuid: [16]byte(b[66:82]), fsid: [16]byte(b[82:98]),
	}
}

// readSuper reads the superblock that counts: the first one, unless it is
// damaged or a copy is newer. A device without the magic number in the first
// place is never searched for copies: they outlive the file system when another
// is made there.
func readSuper(r io.ReaderAt, size int64) (best *super, warnings []string, err error) {
	b := make([]byte, superSize)
	if size < superOffsets[0]+superSize {
		return nil, nil, fmt.Errorf("%d bytes are too few: %w", size, filesys.ErrWrongType)
	}
	if err := readFull(r, b, superOffsets[0]); err != nil {
		return nil, nil, wrap(err, "superblock")
	}
	if string(b[0x40:0x48]) != superMagic {
		return nil, nil, fmt.Errorf("no superblock: %w", filesys.ErrWrongType)
	}
	first, firstErr := decodeSuper(b, superOffsets[0])
	best = first
	for i, off := range superOffsets[1:] {
		c := make([]byte, superSize)
		if off > size-superSize || readFull(r, c, off) != nil || string(c[0x40:0x48]) != superMagic {
			continue
		}
		s, err := decodeSuper(c, off)
		if err != nil || !bytes.Equal(c[0x20:0x30], b[0x20:0x30]) || first != nil && s.dev.uuid != first.dev.uuid {
			continue
		}
		if s.copy = i + 1; best == nil || s.generation > best.generation {
			best = s
		}
	}
	switch {
	case best == nil:
		return nil, nil, wrap(firstErr, "superblock")
	case firstErr != nil:
		warnings = append(warnings, fmt.Sprintf("The superblock is damaged (%v); its copy at %d is used: "+
			"what was synced after the last commit may be missing.", firstErr, superOffsets[best.copy]))
	case best != first:
		warnings = append(warnings, fmt.Sprintf("The superblock at %d is newer than the first one and is used.", superOffsets[best.copy]))
	}
	return best, warnings, nil
}

// decodeSuper checks a superblock that lies at off.
func decodeSuper(b []byte, off int64) (*super, error) {
	s := &super{raw: b}
	kind := le.Uint16(b[0xc4:])
	if int(kind) >= len(algorithms) {
		return nil, unsupported("checksums of type %d", kind)
	}
	s.sums = &algorithms[kind]
	if !s.sums.headerOK(b) {
		return nil, corrupt("its %s checksum is wrong", s.sums.name)
	}
	if got := le.Uint64(b[0x30:]); got != uint64(off) {
		return nil, corrupt("it says that it lies at %d, not %d", got, off)
	}
	copy(s.fsid[:], b[0x20:])
	s.metaID = s.fsid
	s.flags = le.Uint64(b[0x38:])
	s.generation = le.Uint64(b[0x48:])
	s.total = le.Uint64(b[0x70:])
	s.rootDir = le.Uint64(b[0x80:])
	s.devices = le.Uint64(b[0x88:])
	s.sector, s.nodeSize = le.Uint32(b[0x90:]), le.Uint32(b[0x94:])
	s.ro, s.incompat = le.Uint64(b[0xb4:]), le.Uint64(b[0xbc:])
	s.root = ref{le.Uint64(b[0x50:]), s.generation, b[0xc6]}
	s.chunkRoot = ref{le.Uint64(b[0x58:]), le.Uint64(b[0xa4:]), b[0xc7]}
	s.logRoot = ref{le.Uint64(b[0x60:]), s.generation + 1, b[0xc8]}
	s.dev = decodeDevItem(b[0xc9:])
	if s.incompat&incompatMetadataUUID != 0 {
		copy(s.metaID[:], b[0x23b:])
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *super) check() error {
	if unknown := s.incompat &^ incompatKnown; unknown != 0 {
		return unsupported("features %s", featureNames(unknown))
	}
	if s.flags&superMetadump != 0 {
		return unsupported("a metadata dump, which has no file contents")
	}
	if s.flags&superChangingID != 0 {
		return unsupported("a change of the file system's UUID was not finished")
	}
	if s.flags&superChangingSm != 0 {
		return unsupported("a change of the checksum algorithm was not finished")
	}
	pow2 := func(n, low uint32) bool { return n&(n-1) == 0 && n >= low && n <= 64<<10 }
	switch {
	case !pow2(s.sector, 2048):
		return corrupt("sectors of %d bytes", s.sector)
	case !pow2(s.nodeSize, max(4096, s.sector)):
		return corrupt("nodes of %d bytes", s.nodeSize)
	case s.root.level >= maxLevel || s.chunkRoot.level >= maxLevel || s.logRoot.level >= maxLevel:
		return corrupt("trees of %d, %d and %d levels", s.root.level, s.chunkRoot.level, s.logRoot.level)
	case s.total > 1<<62 || s.dev.total > 1<<62:
		return corrupt("%d bytes in all, %d on the device", s.total, s.dev.total)
	case le.Uint32(s.raw[0xa0:]) > sysChunkMax:
		return corrupt("%d bytes of system chunks", le.Uint32(s.raw[0xa0:]))
	case s.devices == 0:
		return corrupt("no devices")
	}
	return nil
}

func featureNames(bits uint64) string {
	var names []string
	for i := range uint(64) {
		if bits>>i&1 == 0 {
			continue
		}
		name, ok := incompatNames[i]
		if !ok {
			name = fmt.Sprintf("incompat bit %d", i)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func (s *super) label() string {
	b := s.raw[0x12b : 0x12b+256]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func uuidString(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
