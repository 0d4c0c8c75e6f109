package exfat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

var le = binary.LittleEndian

// A boot region has 12 sectors, the last of which holds the checksum of the
// others; its copy follows.
const regionSectors = 12

// Flags of the volume, in the boot sector.
const (
	flagSecondTable = 1 << iota // the second table and bitmap are active
	flagDirty
	flagMediaFailure
)

// maxClusters is the greatest number of clusters that have numbers.
const maxClusters = 1<<32 - 11

// maxDirectory is the greatest size of a directory in bytes.
const maxDirectory = 256 << 20

// boot is what the boot sector tells, in bytes where not said otherwise.
type boot struct {
	raw         []byte
	sectorBits  uint
	clusterBits uint
	length      int64 // of the volume
	tableOff    int64
	tableSize   int64
	tables      int
	heap        int64
	clusters    uint32
	root        uint32 // first cluster of the root directory
	flags       uint16
}

// errBoot says that a boot region cannot be used though it is exFAT's.
type errBoot struct{ reason string }

func (e errBoot) Error() string { return "boot region: " + e.reason }
func (e errBoot) Unwrap() error { return filesys.ErrCorrupt }

func isBoot(p []byte) bool { return string(p[3:11]) == "EXFAT   " }

// anyBoot reads the boot region or, if it is damaged, its copy. A copy may
// outlive its file system when the volume is formatted anew, so that it only
// counts if the first sector still says what it is.
func anyBoot(v *cluster.Volume) (*boot, []string, error) {
	p := make([]byte, 512)
	if v.Size() < regionSectors*512 {
		return nil, nil, fmt.Errorf("a volume of %d bytes: %w", v.Size(), filesys.ErrWrongType)
	}
	if err := v.ReadFull(p, 0); err != nil {
		return nil, nil, err
	}
	if !isBoot(p) {
		return nil, nil, fmt.Errorf("there is no exFAT boot sector: %w", filesys.ErrWrongType)
	}
	b, err := readRegion(v, 0, uint(p[108]))
	var bad errBoot
	if err == nil || !errors.As(err, &bad) {
		return b, nil, err
	}
	for shift := uint(9); shift <= 12; shift++ {
		b, copyErr := readRegion(v, regionSectors<<shift, shift)
		if copyErr != nil && !cluster.Damaged(copyErr) {
			return nil, nil, copyErr
		}
		if copyErr == nil {
			return b, []string{fmt.Sprintf("The boot region is damaged (%s); its copy is used, whose flags may be old.", bad.reason)}, nil
		}
	}
	return nil, nil, err
}

// readRegion reads a boot region at off with sectors of 1<<shift bytes.
func readRegion(v *cluster.Volume, off int64, shift uint) (*boot, error) {
	if shift < 9 || shift > 12 {
		return nil, errBoot{fmt.Sprintf("sectors of 2^%d bytes", shift)}
	}
	p := make([]byte, regionSectors<<shift)
	if off+int64(len(p)) > v.Size() {
		return nil, errBoot{"it lies behind the end"}
	}
	if err := v.ReadFull(p, off); err != nil {
		return nil, err
	}
	sums := p[(regionSectors-1)<<shift:]
	want := bootChecksum(p[:(regionSectors-1)<<shift])
	for i := 0; i < len(sums); i += 4 {
		if le.Uint32(sums[i:]) != want {
			return nil, errBoot{"its checksum is wrong"}
		}
	}
	return parseBoot(p[:512], shift)
}

// bootChecksum leaves out what systems change without writing it anew: the
// flags and how full the volume is.
func bootChecksum(p []byte) (sum uint32) {
	for i, c := range p {
		if i != 106 && i != 107 && i != 112 {
			sum = bits.RotateLeft32(sum, -1) + uint32(c)
		}
	}
	return sum
}

// parseBoot checks every number against the others.
func parseBoot(p []byte, shift uint) (*boot, error) {
	sectors := le.Uint64(p[72:])
	b := &boot{
		raw: p, sectorBits: shift, clusterBits: shift + uint(p[109]),
		tableOff: int64(le.Uint32(p[80:])) << shift, tableSize: int64(le.Uint32(p[84:])) << shift,
		tables: int(p[110]), heap: int64(le.Uint32(p[88:])) << shift,
		clusters: le.Uint32(p[92:]), root: le.Uint32(p[96:]), flags: le.Uint16(p[106:]),
	}
	bad := func(format string, args ...any) (*boot, error) {
		return nil, errBoot{fmt.Sprintf(format, args...)}
	}
	switch {
	case !isBoot(p) || p[510] != 0x55 || p[511] != 0xAA:
		return bad("it has no signature")
	case !bytes.Equal(p[11:64], make([]byte, 53)):
		return bad("there is something where FAT has its parameters")
	case uint(p[108]) != shift:
		return bad("sectors of 2^%d bytes", p[108])
	case p[105] != 1: // the major revision
		return nil, fmt.Errorf("exFAT of revision %d.%d: %w", p[105], p[104], filesys.ErrUnsupported)
	case b.clusterBits > 25:
		return bad("clusters of 2^%d bytes", b.clusterBits)
	case sectors>>(62-shift) != 0:
		return bad("%d sectors", sectors)
	case b.tables != 1 && b.tables != 2:
		return bad("%d tables", b.tables)
	case b.clusters == 0 || b.clusters > maxClusters:
		return bad("%d clusters", b.clusters)
	}
	b.length = int64(sectors) << shift
	switch {
	case b.tableOff < 2*regionSectors<<shift || b.tableSize < 4*(int64(b.clusters)+cluster.First):
		return bad("a table of %d bytes at %d for %d clusters", b.tableSize, b.tableOff, b.clusters)
	case b.heap < b.tableOff+int64(b.tables)*b.tableSize || b.heap > b.length ||
		int64(b.clusters) > (b.length-b.heap)>>b.clusterBits:
		return bad("%d clusters at %d of %d bytes", b.clusters, b.heap, b.length)
	case b.root < cluster.First || b.root-cluster.First >= b.clusters:
		return bad("root directory in cluster %d of %d", b.root, b.clusters)
	case b.active() >= b.tables:
		return bad("the second of %d tables is active", b.tables)
	}
	return b, nil
}

// active is which table and bitmap are used, 0 or 1.
func (b *boot) active() int { return int(b.flags & flagSecondTable) }

func (b *boot) serial() string {
	n := le.Uint32(b.raw[100:])
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xFFFF)
}

// table is the active one.
func (b *boot) table(v *cluster.Volume) *cluster.Table {
	t := &cluster.Table{
		Volume: v, Off: b.tableOff + int64(b.active())*b.tableSize, Width: 32,
		Mask: 1<<32 - 1, End: 1<<32 - 1, Clusters: b.clusters, Heap: b.heap, Bits: b.clusterBits,
	}
	t.Init()
	return t
}

// state tells what the guest noted about the file system.
func (b *boot) state() (warnings []string) {
	if b.flags&flagDirty != 0 {
		warnings = append(warnings, "The file system was not unmounted by the guest; what it was writing may be incomplete.")
	}
	if b.flags&flagMediaFailure != 0 {
		warnings = append(warnings, "The guest had met errors of the disk in this file system; it should be checked there.")
	}
	return warnings
}
