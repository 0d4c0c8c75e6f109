// Package volume finds the volumes on the disks of a point and says what each of
// them holds. It has two layers:
//
//   - Scan looks at one disk: partition tables (MBR with logical partitions, GPT
//     in 512 and 4096-byte sectors), a file system on a bare disk, and the magic
//     numbers of file systems, swap and volume managers (Detect).
//
//   - Assemble looks at all disks of a point together and goes on where those
//     contain others: LUKS is opened with the keys given (mount/luks), software
//     raids and volume groups are put together of their members (mount/mdraid,
//     mount/lvm2), and what that yields is scanned in turn, until nothing new
//     appears. Devices that share one btrfs are found.
//
// The way from disks to entries:
//
//	disks ─▶ Scan ─▶ partitions ─▶ LUKS ─▶ md ─▶ LVM2 ─┬▶ Entry, Entry, …
//	           ▲                                       │
//	           └─────────── of each new device ────────┘
//
// An Entry opens its file system with the reader that knows it (readers, in
// open.go). Its Device knows for every byte on which disk it is stored, which
// is how mount/history gets from changed blocks to changed files.
//
// mount/tree calls it to lay out a recovery point. It never writes, imports of
// Cairn the readers below mount/ alone, and knows nothing of FUSE.
//
// What it promises:
//
//   - The disk is untrusted. A hostile table costs a bounded number of reads
//     and bounded memory: at most maxPartitions partitions are looked into,
//     chains of logical partitions that loop or leave their container end, and
//     no length from the disk is used before it was checked against the disk.
//   - Nothing is dropped in silence. A partition that reaches beyond the disk,
//     overlaps another or cannot be read stays in the list, with a Problem. A
//     damaged table that could be worked around leaves a Warning. A volume that
//     cannot be put together or opened is an Entry with its Reason.
//   - Numbers are those that Linux gives, so vda1 here is vda1 in the guest.
//
// Sources: UEFI 2.10 section 5 (GPT, protective MBR); for the MBR, which has no
// standard, what Linux accepts (logical partitions numbered from 5 in the
// order of the chain, extended types 05, 0f and 85). Magic numbers are those of
// the on-disk format documents of each file system.
package volume

import (
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	// maxPartitions bounds how many partitions of one disk are looked into. It
	// is Linux's own limit (DISK_MAX_PARTS).
	maxPartitions = 256
	// headSize is read at the start of every volume: it holds all magic numbers
	// but those of ZFS, which lie further in.
	headSize = 68 << 10
)

// Scheme is the kind of partition table.
type Scheme string

// The partition tables that Scan knows. Bare is none at all: the disk is one
// volume, with or without something recognisable on it.
const (
	MBR  Scheme = "mbr"
	GPT  Scheme = "gpt"
	Bare Scheme = "none"
)

// Table is what Scan found on a disk.
type Table struct {
	Scheme     Scheme
	SectorSize int    // bytes per sector, in which the table counts; 0 for Bare
	UUID       string // the disk's GUID (GPT) or signature in hex (MBR)
	// Volumes in the order of their numbers, never empty: a disk without
	// partitions has one volume with Number 0, the whole disk.
	Volumes []Volume
	// Warnings are sentences about the table as a whole: a damaged header that
	// the backup replaced, a hybrid MBR.
	Warnings []string
}

// Volume is one partition, or a whole disk without a partition table.
type Volume struct {
	Number     int   // as Linux numbers it: vda1 is 1, logical ones start at 5; 0 is the whole disk
	Start      int64 // bytes from the start of the disk
	Length     int64 // bytes, as the table has it; Section clips it to the disk
	LogicalIn  int   // number of the extended partition that contains this one, or 0
	TypeCode   string
	TypeName   string // what the table calls the partition's type, for people
	Label      string // the partition's own name (GPT only)
	UUID       string // as Linux's PARTUUID
	Content    Content
	Problem    string // why this partition cannot be trusted, or empty
	unreadable bool   // nothing of it lies on the disk, or it cannot be read at all
}

// Section gives the part of the volume that lies on the disk r of size bytes,
// and its length: 0 when none of it does.
func (v *Volume) Section(r io.ReaderAt, size int64) (*io.SectionReader, int64) {
	if v.Start < 0 || v.Length <= 0 || v.Start >= size {
		return io.NewSectionReader(r, 0, 0), 0
	}
	n := min(v.Length, size-v.Start)
	return io.NewSectionReader(r, v.Start, n), n
}

func (v *Volume) addProblem(format string, args ...any) {
	if v.Problem != "" {
		v.Problem += "; "
	}
	v.Problem += fmt.Sprintf(format, args...)
}

func (t *Table) warn(format string, args ...any) {
	t.Warnings = append(t.Warnings, fmt.Sprintf(format, args...))
}

// Scan reads the partition table of the disk r, size bytes long, and looks into
// each of its volumes. An error means that the disk's start could not be read at
// all; everything milder is a Problem or a Warning in the result.
func Scan(r io.ReaderAt, size int64) (Table, error) {
	if size < 0 {
		return Table{}, fmt.Errorf("scan disk: size %d is negative", size)
	}
	s := scanner{r: r, size: size}
	first, err := s.read(0, 512)
	if err != nil {
		return Table{}, fmt.Errorf("scan disk: %w", err)
	}
	t := s.table(first)
	markOverlaps(t.Volumes)
	for i := range t.Volumes {
		s.examine(&t.Volumes[i], i)
	}
	return t, nil
}

// table decides between GPT, MBR and a bare disk.
//
// The order is Linux's: a protective entry in sector 0 announces a GPT, other
// valid entries are an MBR. A boot sector of FAT or NTFS carries the MBR's
// signature too; what stands in the place of its partition entries is code or
// zeros, which mbrEntries refuses. Only a disk without any table is searched
// for a GPT that nothing announces.
func (s *scanner) table(first []byte) Table {
	// A lost block further in must not hide a table: it is a problem only if
	// the disk turns out to have none.
	bare, lost := Detect(s.r, s.size)
	entries, isMBR := mbrEntries(first)
	protective := isMBR && hasProtective(entries)
	if protective || !isMBR && (bare.Kind == Unknown || bare.Kind == Empty) {
		if t, ok := s.gpt(entries, protective); ok {
			return t
		}
	}
	if isMBR {
		t := s.mbr(first, entries)
		if protective {
			t.warn("the MBR announces a GPT, but neither the primary nor the backup GPT is valid; showing what the MBR lists")
		}
		if bare.Kind != Unknown && bare.Kind != Empty {
			t.warn("the disk itself also carries the signature of %s; the partition table was followed", bare.Kind.Title())
		}
		return t
	}
	v := Volume{Length: s.size, TypeName: "whole disk", Content: bare}
	v.lost(lost)
	return Table{Scheme: Bare, Volumes: []Volume{v}}
}

// examine fills in what a volume holds and what is wrong with its place.
func (s *scanner) examine(v *Volume, index int) {
	switch _, n := v.Section(s.r, s.size); {
	case v.Number == 0:
		return // the whole disk was looked into already
	case n == 0:
		v.addProblem("lies outside of the disk: starts at byte %d of %d", v.Start, s.size)
		v.unreadable = true
	case n < v.Length:
		v.addProblem("ends at byte %d, beyond the end of the disk at %d", saturatingAdd(v.Start, v.Length), s.size)
	}
	if isExtended(v.TypeCode) {
		v.Content.Kind = Extended
		return
	}
	v.Content.Kind = Unknown
	if v.unreadable {
		return
	}
	if index >= maxPartitions {
		v.addProblem("not looked into: the disk has more than %d partitions", maxPartitions)
		v.unreadable = true
		return
	}
	sec, n := v.Section(s.r, s.size)
	c, err := Detect(sec, n)
	v.Content = c
	v.lost(err)
}

// lost notes what could not be read when the volume was looked into. It can be read
// if it is known nevertheless what it holds.
func (v *Volume) lost(err error) {
	if err == nil {
		return
	}
	v.addProblem("cannot be read: %v", err)
	v.unreadable = v.Content.Kind == Unknown
}

// Readable says whether some of the volume can be read at all, whatever it
// holds. It is false for one that lies outside of the disk or whose first
// blocks are lost.
func (v *Volume) Readable() bool { return !v.unreadable }

// scanner reads from one disk.
type scanner struct {
	r    io.ReaderAt
	size int64
}

// read gives n bytes at off; what lies beyond the end of the disk reads as
// zeros.
func (s *scanner) read(off int64, n int) ([]byte, error) {
	return readAt(s.r, s.size, off, n)
}

func readAt(r io.ReaderAt, size, off int64, n int) ([]byte, error) {
	buf := make([]byte, n)
	if off < 0 || off >= size {
		return buf, nil
	}
	want := int(min(int64(n), size-off))
	got, err := r.ReadAt(buf[:want], off)
	if got < want {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read %d bytes at %d: %w", want, off, err)
	}
	return buf, nil
}

func saturatingAdd(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// scale turns a sector number or count from the disk into bytes, without
// overflow: what does not fit is further than any disk reaches.
func scale(sectors uint64, sectorSize int) int64 {
	if sectors > math.MaxInt64/uint64(sectorSize) {
		return math.MaxInt64
	}
	return int64(sectors) * int64(sectorSize)
}
