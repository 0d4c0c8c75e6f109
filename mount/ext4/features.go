package ext4

import (
	"fmt"
	"strings"
)

// Compatible features: a reader that does not know one may go on.
const (
	compatHasJournal   = 0x4
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200
	compatFastCommit   = 0x400
	compatOrphanFile   = 0x1000
)

// Incompatible features: a reader that does not know one must refuse.
const (
	incompatCompression = 0x1
	incompatFiletype    = 0x2
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64Bit       = 0x80
	incompatMMP         = 0x100
	incompatFlexBG      = 0x200
	incompatEAInode     = 0x400
	incompatDirData     = 0x1000
	incompatCsumSeed    = 0x2000
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000

	incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents |
		incompat64Bit | incompatMMP | incompatFlexBG | incompatEAInode | incompatCsumSeed |
		incompatLargeDir | incompatInlineData | incompatEncrypt | incompatCasefold
)

// Read-only compatible features: a reader that does not know one may read.
const (
	roSparseSuper  = 0x1
	roLargeFile    = 0x2
	roBtreeDir     = 0x4
	roHugeFile     = 0x8
	roGDTCsum      = 0x10
	roDirNlink     = 0x20
	roExtraIsize   = 0x40
	roQuota        = 0x100
	roBigalloc     = 0x200
	roMetadataCsum = 0x400
	roReadonly     = 0x1000
	roProject      = 0x2000
	roVerity       = 0x8000
	roOrphanFile   = 0x10000 // "orphan_present": the orphan file may hold entries

	// roKnown are those with which Linux would mount for writing. With any
	// other it mounts read-only and leaves orphans alone.
	roKnown = roSparseSuper | roLargeFile | roBtreeDir | roHugeFile | roGDTCsum | roDirNlink |
		roExtraIsize | roQuota | roBigalloc | roMetadataCsum | roProject | roVerity | roOrphanFile
)

// incompatNames names the incompatible features that are not read, as mke2fs
// and the kernel call them.
var incompatNames = map[uint32]string{
	incompatCompression: "compression",
	incompatJournalDev:  "journal_dev (the volume is another file system's journal)",
	incompatDirData:     "dirdata",
}

// roNames does the same for read-only compatible ones.
var roNames = map[uint32]string{
	0x80: "has_snapshot", 0x800: "replica", roReadonly: "read-only", 0x4000: "shared_blocks",
}

// featureNames lists every bit of set by name; a bit without one is given as
// e2fsprogs would print it.
func featureNames(set uint32, names map[uint32]string, prefix string) string {
	var list []string
	for bit := range 32 {
		if set>>bit&1 == 0 {
			continue
		}
		name, ok := names[1<<bit]
		if !ok {
			name = fmt.Sprintf("FEATURE_%s%d", prefix, bit)
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}
