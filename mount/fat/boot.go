package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

var le = binary.LittleEndian

// bootSize is the part of a boot sector that means something.
const bootSize = 512

// The greatest numbers of clusters that the table's entries can have.
const (
	maxClusters12 = 4084
	maxClusters16 = 65524
	maxClusters32 = 1<<28 - 16
)

// boot is what the boot sector tells, in bytes where not said otherwise.
type boot struct {
	raw       []byte
	width     int // bits of a table's entry
	sector    int64
	cluster   int64
	tables    int   // how many
	tableOff  int64 // of the first
	tableSize int64
	rootOff   int64 // FAT12 and FAT16: the root directory
	rootSlots int64
	heap      int64 // where cluster 2 is
	clusters  uint32
	rootFirst uint32 // FAT32: the root directory's first cluster
	end       int64  // of the file system
}

// errNoFAT says that a sector is no boot sector of FAT.
type errNoFAT struct{ reason string }

func (e errNoFAT) Error() string { return e.reason }
func (e errNoFAT) Unwrap() error { return filesys.ErrWrongType }

// anyBoot reads the boot sector or, if it is damaged, FAT32's copy of it.
//
// A copy may outlive its file system when the volume is formatted anew. So it
// is only looked for where the first sector still says that it is FAT32's.
func anyBoot(v *cluster.Volume) (*boot, []string, error) {
	b, err := readBoot(v, 0)
	var not errNoFAT
	if err == nil || !errors.As(err, &not) {
		return b, nil, err
	}
	p := make([]byte, bootSize)
	if v.ReadFull(p, 0) != nil || string(p[82:90]) != "FAT32   " || p[510] != 0x55 || p[511] != 0xAA {
		return nil, nil, err
	}
	for _, sector := range []int64{512, 1024, 2048, 4096} {
		if b, copyErr := readBoot(v, 6*sector); copyErr == nil && b.width == 32 && b.sector == sector && le.Uint16(b.raw[50:]) == 6 {
			return b, []string{fmt.Sprintf("The boot sector is damaged (%s); its copy in sector 6 is used.", not.reason)}, nil
		}
	}
	return nil, nil, cluster.Corrupt("the boot sector is damaged (%s), and there is no good copy", not.reason)
}

func readBoot(v *cluster.Volume, off int64) (*boot, error) {
	p := make([]byte, bootSize)
	if v.Size() < off+bootSize {
		return nil, errNoFAT{"the volume is too small"}
	}
	if err := v.ReadFull(p, off); err != nil {
		return nil, err
	}
	return parseBoot(p)
}

// parseBoot judges a sector. FAT has no magic number: it is recognised by a
// parameter block that makes sense.
func parseBoot(p []byte) (*boot, error) {
	b := &boot{
		raw: p, sector: int64(le.Uint16(p[11:])), tables: int(p[16]),
		rootSlots: int64(le.Uint16(p[17:])), rootFirst: le.Uint32(p[44:]),
	}
	perCluster, reserved, media := int64(p[13]), int64(le.Uint16(p[14:])), p[21]
	switch {
	case (p[510] != 0x55 || p[511] != 0xAA) && p[0] != 0xEB && p[0] != 0xE9:
		return nil, errNoFAT{"it has neither a signature nor a jump"}
	case string(p[3:11]) == "NTFS    " || string(p[3:11]) == "EXFAT   ":
		return nil, errNoFAT{"it is that of another file system"}
	case b.sector < 512 || b.sector > 4096 || b.sector&(b.sector-1) != 0:
		return nil, errNoFAT{fmt.Sprintf("sectors of %d bytes", b.sector)}
	case perCluster == 0 || perCluster&(perCluster-1) != 0:
		return nil, errNoFAT{fmt.Sprintf("clusters of %d sectors", perCluster)}
	case reserved == 0 || b.tables == 0:
		return nil, errNoFAT{fmt.Sprintf("%d reserved sectors and %d tables", reserved, b.tables)}
	case media != 0xF0 && media < 0xF8:
		return nil, errNoFAT{fmt.Sprintf("media descriptor %#x", media)}
	}
	sectors := int64(le.Uint16(p[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(p[32:]))
	}
	b.tableSize = int64(le.Uint16(p[22:])) * b.sector
	if b.tableSize == 0 {
		b.width = 32
		b.tableSize = int64(le.Uint32(p[36:])) * b.sector
	}
	b.cluster = perCluster * b.sector
	b.tableOff = reserved * b.sector
	b.rootOff = b.tableOff + int64(b.tables)*b.tableSize
	rootSize := (b.rootSlots*cluster.SlotSize + b.sector - 1) &^ (b.sector - 1)
	b.heap = b.rootOff + rootSize
	b.end = sectors * b.sector
	if b.tableSize == 0 || b.heap >= b.end {
		return nil, errNoFAT{fmt.Sprintf("%d sectors, tables of %d bytes", sectors, b.tableSize)}
	}
	return b, b.count(p)
}

// count finds the number of clusters and what depends on it.
func (b *boot) count(p []byte) error {
	n := (b.end - b.heap) / b.cluster
	if n == 0 {
		return errNoFAT{"no clusters"}
	}
	limit := int64(maxClusters32)
	switch {
	case b.width == 32:
	case n <= maxClusters12:
		b.width, limit = 12, maxClusters12
	default:
		b.width, limit = 16, maxClusters16
	}
	if n > limit {
		return cluster.Corrupt("%d clusters, FAT%d has %d at most", n, b.width, limit)
	}
	// A table that is too small for the volume leaves its end unused.
	n = min(n, b.tableSize*8/int64(b.width)-cluster.First)
	if n <= 0 {
		return cluster.Corrupt("tables of %d bytes", b.tableSize)
	}
	b.clusters = uint32(n)
	if b.width == 32 {
		if version := le.Uint16(p[42:]); version != 0 {
			return fmt.Errorf("FAT32 of version %d.%d: %w", version>>8, version&0xFF, filesys.ErrUnsupported)
		}
		if b.rootFirst < cluster.First || b.rootFirst-cluster.First >= b.clusters {
			return cluster.Corrupt("root directory in cluster %d of %d", b.rootFirst, b.clusters)
		}
	} else if b.rootSlots == 0 {
		return cluster.Corrupt("a root directory without entries")
	}
	return nil
}

// extended is the extended boot record: flags, serial number, label, type.
func (b *boot) extended() []byte {
	if b.width == 32 {
		return b.raw[64:90]
	}
	return b.raw[36:62]
}

// serial is the volume's number as tools print it, or empty.
func (b *boot) serial() string {
	x := b.extended()
	if x[2] != 0x28 && x[2] != 0x29 {
		return ""
	}
	n := le.Uint32(x[3:])
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xFFFF)
}

// label is the label in the boot sector, which most systems do not show.
func (b *boot) label() string {
	x := b.extended()
	if x[2] != 0x29 || bytes.HasPrefix(x[7:18], []byte("NO NAME")) || x[7] == 0 {
		return ""
	}
	return strings.TrimRight(decodeOEM(x[7:18]), " ")
}

// table is the allocation table number i of volume v.
func (b *boot) table(v *cluster.Volume, i int) *cluster.Table {
	mask := uint32(1)<<min(b.width, 28) - 1
	t := &cluster.Table{
		Volume: v, Off: b.tableOff + int64(i)*b.tableSize, Width: b.width,
		Mask: mask, End: mask &^ 7, Clusters: b.clusters,
		Heap: b.heap, Bits: uint(bits.TrailingZeros64(uint64(b.cluster))),
	}
	t.Init()
	return t
}

// anyTable chooses the table to read.
func (b *boot) anyTable(v *cluster.Volume) (t *cluster.Table, warnings []string, err error) {
	active := 0
	if flags := le.Uint16(b.raw[40:]); b.width == 32 && flags&0x80 != 0 {
		if active = int(flags & 15); active >= b.tables {
			return nil, nil, cluster.Corrupt("table %d of %d is active", active, b.tables)
		}
		warnings = append(warnings, fmt.Sprintf("The tables are not copies of each other; number %d is used, as the boot sector says.", active+1))
	}
	// Entry 0 is the media descriptor, with all other bits set.
	good := func(t *cluster.Table) (bool, error) {
		e, err := t.Entry(0)
		return err == nil && byte(e) == b.raw[21] && e|0xFF == t.Mask, err
	}
	t = b.table(v, active)
	if ok, err := good(t); ok || err != nil {
		return t, warnings, err
	}
	for i := range min(b.tables, 8) {
		c := b.table(v, i)
		ok, err := good(c)
		if err != nil && !cluster.Damaged(err) {
			return nil, nil, err
		}
		if ok {
			return c, append(warnings, fmt.Sprintf("The file allocation table is damaged; copy number %d is used.", i+1)), nil
		}
	}
	return t, append(warnings, "The file allocation table does not begin as it ought to; it may be damaged."), nil
}

// state tells what the guest noted about the file system.
func (b *boot) state(t *cluster.Table) (warnings []string) {
	x := b.extended()
	known := x[2] == 0x28 || x[2] == 0x29 // before those, there was code
	dirty, failed := known && x[1]&1 != 0, known && x[1]&2 != 0
	if e, err := t.Entry(1); err == nil && b.width > 12 {
		top := (t.Mask + 1) >> 1
		dirty = dirty || e&top == 0
		failed = failed || e&(top>>1) == 0
	}
	if dirty {
		warnings = append(warnings, "The file system was not unmounted by the guest; what it was writing may be incomplete.")
	}
	if failed {
		warnings = append(warnings, "The guest had met errors of the disk in this file system; it should be checked there.")
	}
	return warnings
}
