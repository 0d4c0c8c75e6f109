package xfs

import (
	"fmt"
	"strings"

	"cairn/mount/filesys"
)

// Flags of sb_versionnum, which tell the features of version 4.
const (
	versionMask  = 0x000F
	versionDirV2 = 0x2000
	versionCI    = 0x4000 // names are found whatever the case of their ASCII letters
	versionMore  = 0x8000 // sb_features2 counts

	// version4Known are attributes, 32-bit link counts, quota, alignment of
	// inodes and of data, log version 2, sectors, unwritten extents (without
	// which Linux refuses; here they are decoded anyway).
	version4Known = versionMask | 0x0010 | 0x0020 | 0x0040 | 0x0080 | 0x0100 | 0x0400 |
		0x0800 | 0x1000 | versionDirV2 | versionCI | versionMore
)

// Flags of sb_features2.
const (
	features2LazyCount = 0x002
	features2FileType  = 0x200
	// features2Known: those, attributes of version 2, 32-bit project numbers,
	// checksums (which version 5 sets as well).
	features2Known = features2LazyCount | 0x008 | 0x080 | 0x100 | features2FileType
)

// Read-only compatible features of version 5.
const (
	roFinobt   = 0x1
	roRmapbt   = 0x2
	roReflink  = 0x4
	roInobtcnt = 0x8
	roKnown    = roFinobt | roRmapbt | roReflink | roInobtcnt
)

// Incompatible features of version 5.
const (
	incompatFileType    = 0x1
	incompatSparse      = 0x2
	incompatMetaUUID    = 0x4
	incompatBigTime     = 0x8
	incompatNeedsRepair = 0x10
	incompatNrext64     = 0x20
	incompatExchange    = 0x40
	incompatParent      = 0x80
	incompatMetadir     = 0x100
	incompatZoned       = 0x200
	incompatZoneGaps    = 0x400

	// Zoned volumes keep file data on their real-time device; what lies
	// elsewhere is as usual.
	incompatKnown = incompatFileType | incompatSparse | incompatMetaUUID | incompatBigTime |
		incompatNeedsRepair | incompatNrext64 | incompatExchange | incompatParent | incompatMetadir |
		incompatZoned | incompatZoneGaps
)

// version4Names and features2Names name what is refused, as the documentation
// does.
var (
	version4Names  = map[uint32]string{0x0200: "shared read-only volume"}
	features2Names = map[uint32]string{0x001: "reserved", 0x004: "large files (obsolete)", 0x010: "parent pointers of IRIX"}
)

// featureNames lists every bit of set by name; a bit without one as its value.
func featureNames(set uint32, what string, names map[uint32]string) string {
	var list []string
	for bit := range 32 {
		if set>>bit&1 == 0 {
			continue
		}
		name, ok := names[1<<bit]
		if !ok {
			name = fmt.Sprintf("%s feature %#x", what, uint32(1)<<bit)
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}

// decodeFeatures refuses what is not understood.
func (s *superblock) decodeFeatures() error {
	raw := s.raw
	// Old kernels wrote sb_features2 eight bytes further on some machines.
	if s.version&versionMore != 0 || s.v5 {
		s.features2 = be.Uint32(raw[200:]) | be.Uint32(raw[204:])
	}
	if s.v5 {
		s.ro, s.incompat = be.Uint32(raw[212:]), be.Uint32(raw[216:])
		if unknown := s.incompat &^ incompatKnown; unknown != 0 {
			return fmt.Errorf("%s: %w", featureNames(unknown, "incompatible", nil), filesys.ErrUnsupported)
		}
		return nil
	}
	if unknown := uint32(s.version &^ version4Known); unknown != 0 {
		return fmt.Errorf("%s: %w", featureNames(unknown, "version 4", version4Names), filesys.ErrUnsupported)
	}
	if s.version&versionDirV2 == 0 {
		return fmt.Errorf("directories of version 1: %w", filesys.ErrUnsupported)
	}
	if unknown := s.features2 &^ features2Known; unknown != 0 {
		return fmt.Errorf("%s: %w", featureNames(unknown, "version 4 extra", features2Names), filesys.ErrUnsupported)
	}
	if raw[179] != 0 {
		return fmt.Errorf("shared read-only volume: %w", filesys.ErrUnsupported)
	}
	return nil
}

// hasFileTypes says whether directory entries tell the type of their inode.
func (s *superblock) hasFileTypes() bool {
	return s.incompat&incompatFileType != 0 || !s.v5 && s.features2&features2FileType != 0
}

func (s *superblock) ignoresCase() bool { return s.version&versionCI != 0 }

func (s *superblock) needsRepair() bool { return s.incompat&incompatNeedsRepair != 0 }
