package volume

import (
	"encoding/binary"
	"fmt"
)

// Layout of a boot sector with partition entries (MBR, and each EBR of the
// chain of logical partitions):
//
//	0     440 4          446                510
//	+-----+---+---+------+------------------+-------+
//	| code    | signature| 4 entries à 16   | 55 AA |
//	+---------+----------+------------------+-------+
//
// and of an entry: boot flag (0 or 0x80), CHS start (3), type, CHS end (3),
// first sector (le32), sectors (le32).
const (
	mbrEntryOff  = 446
	mbrSignature = 440
	// maxChain bounds the EBRs that are followed without finding a partition
	// in them; Linux stops at 100.
	maxChain = 100

	typeProtective = 0xee
)

type mbrEntry struct {
	boot    byte
	kind    byte
	start   uint32 // sectors; relative to the EBR or the extended partition in a chain
	sectors uint32
}

func (e mbrEntry) used() bool     { return e.sectors != 0 && e.kind != 0 }
func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }

func isExtended(code string) bool { return code == "0x05" || code == "0x0f" || code == "0x85" }

// mbrEntries parses the four entries of a boot sector. It refuses a sector that
// is not a partition table: no signature, an impossible boot flag (the sector
// is the boot code of a file system), or no entry in use.
func mbrEntries(sector []byte) (entries [4]mbrEntry, ok bool) {
	if sector[510] != 0x55 || sector[511] != 0xaa {
		return entries, false
	}
	for i := range entries {
		b := sector[mbrEntryOff+16*i:]
		e := mbrEntry{
			boot:    b[0],
			kind:    b[4],
			start:   binary.LittleEndian.Uint32(b[8:]),
			sectors: binary.LittleEndian.Uint32(b[12:]),
		}
		if e.boot&0x7f != 0 {
			return entries, false
		}
		entries[i] = e
		ok = ok || e.used()
	}
	return entries, ok
}

func hasProtective(entries [4]mbrEntry) bool {
	for _, e := range entries {
		if e.used() && e.kind == typeProtective {
			return true
		}
	}
	return false
}

// mbr lists the primary and logical partitions of an MBR.
func (s *scanner) mbr(first []byte, entries [4]mbrEntry) Table {
	t := Table{Scheme: MBR, SectorSize: s.mbrSectorSize(entries)}
	if t.SectorSize != 512 {
		t.warn("the partition table counts in %d-byte sectors", t.SectorSize)
	}
	sig := binary.LittleEndian.Uint32(first[mbrSignature:])
	t.UUID = fmt.Sprintf("%08x", sig)
	for i, e := range entries {
		if e.used() {
			t.Volumes = append(t.Volumes, mbrVolume(&t, i+1, e, 0, 0))
		}
	}
	for i, e := range entries {
		if e.used() && e.extended() {
			s.logical(&t, i+1, e)
		}
	}
	return t
}

func mbrVolume(t *Table, number int, e mbrEntry, base uint64, in int) Volume {
	code := fmt.Sprintf("0x%02x", e.kind)
	return Volume{
		Number:    number,
		Start:     scale(base+uint64(e.start), t.SectorSize),
		Length:    scale(uint64(e.sectors), t.SectorSize),
		LogicalIn: in,
		TypeCode:  code,
		TypeName:  mbrTypeName(e.kind),
		UUID:      fmt.Sprintf("%s-%02x", t.UUID, number),
	}
}

// logical follows the chain of EBRs in the extended partition number and
// appends its logical partitions.
//
// In each EBR, data entries count from the EBR itself and the link to the next
// EBR counts from the start of the extended partition. Like Linux, the third
// and fourth entries are believed only when they stay inside the container.
func (s *scanner) logical(t *Table, number int, ext mbrEntry) {
	container := &t.Volumes[indexOf(t.Volumes, number)]
	fail := func(format string, args ...any) {
		// t.Volumes grows below, so the container is looked up when needed.
		t.Volumes[indexOf(t.Volumes, number)].addProblem(format, args...)
	}
	if container.Start >= s.size {
		return // examine says so
	}
	first, sectors := uint64(ext.start), uint64(ext.sectors)
	next := 5
	for _, v := range t.Volumes {
		next = max(next, v.Number+1)
	}
	seen := make(map[uint64]bool)
	for lba, idle := first, 0; ; {
		if seen[lba] {
			fail("the chain of logical partitions loops at sector %d", lba)
			return
		}
		seen[lba] = true
		off := scale(lba, t.SectorSize)
		if off >= s.size {
			fail("the chain of logical partitions leaves the disk at sector %d", lba)
			return
		}
		sector, err := s.read(off, 512)
		if err != nil {
			fail("the chain of logical partitions cannot be read: %v", err)
			return
		}
		entries, _ := mbrEntries(sector)
		if sector[510] != 0x55 || sector[511] != 0xaa {
			fail("no partition table at sector %d of the chain of logical partitions", lba)
			return
		}
		link := -1
		for i, e := range entries {
			switch {
			case !e.used():
			case e.extended():
				if link < 0 {
					link = i
				}
			default:
				inside := lba+uint64(e.start)+uint64(e.sectors) <= first+sectors
				if i >= 2 && !inside {
					continue
				}
				v := mbrVolume(t, next, e, lba, number)
				if !inside {
					v.addProblem("reaches beyond its extended partition %d", number)
				}
				t.Volumes = append(t.Volumes, v)
				next++
				idle = 0
			}
		}
		if link < 0 {
			return
		}
		if next > maxPartitions+5 {
			fail("more than %d logical partitions; the rest of the chain was not followed", maxPartitions)
			return
		}
		if idle++; idle > maxChain {
			fail("the chain of logical partitions goes on for %d links without a partition", maxChain)
			return
		}
		if uint64(entries[link].start) >= sectors {
			fail("the chain of logical partitions leaves its container at sector %d", lba)
			return
		}
		lba = first + uint64(entries[link].start)
	}
}

func indexOf(vols []Volume, number int) int {
	for i := range vols {
		if vols[i].Number == number {
			return i
		}
	}
	return -1
}

// mbrSectorSize tells a table that counts in 4096-byte sectors from the usual
// one. The MBR does not say, so the contents decide: 4096 only when no primary
// partition holds anything recognisable where 512-byte sectors put it, and one
// does, within the disk, where 4096-byte sectors put it.
func (s *scanner) mbrSectorSize(entries [4]mbrEntry) int {
	large := false
	for _, e := range entries {
		if !e.used() || e.kind == typeProtective {
			continue
		}
		if s.recognised(e, 512) {
			return 512
		}
		large = large || s.recognised(e, 4096)
	}
	if large {
		return 4096
	}
	return 512
}

func (s *scanner) recognised(e mbrEntry, sectorSize int) bool {
	start, length := scale(uint64(e.start), sectorSize), scale(uint64(e.sectors), sectorSize)
	if saturatingAdd(start, length) > s.size {
		return false
	}
	if e.extended() {
		b, err := s.read(start, 512)
		return err == nil && b[510] == 0x55 && b[511] == 0xaa
	}
	v := Volume{Start: start, Length: length}
	sec, n := v.Section(s.r, s.size)
	c, err := Detect(sec, n)
	return err == nil && c.Kind != Unknown && c.Kind != Empty
}
