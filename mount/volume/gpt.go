package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// A GPT header (UEFI 2.10, 5.3.2), in sector 1 and in the last sector:
//
//	 0  "EFI PART"         32  LBA of the other header   72  LBA of the entries
//	 8  revision           40  first usable LBA          80  number of entries
//	12  header size        48  last usable LBA           84  size of an entry
//	16  CRC32 of header    56  GUID of the disk          88  CRC32 of the entries
//	24  LBA of this one
const (
	gptHeaderSize = 92
	gptEntrySize  = 128
	// maxEntryArray bounds what is read for the array of entries. The usual one
	// has 128 entries of 128 bytes, 16 KiB.
	maxEntryArray = 1 << 20
)

type gptHeader struct {
	lba, other  uint64
	first, last uint64 // usable LBAs, inclusive
	guid        string
	count, size uint32
	entries     []byte
	crc         uint32 // of the entries
}

// gpt looks for a GPT in both sector sizes: primary headers first, then
// backups. entries are those of the MBR in sector 0, protective tells whether
// they announce a GPT.
func (s *scanner) gpt(entries [4]mbrEntry, protective bool) (Table, bool) {
	var failures []string
	for _, ss := range []int{512, 4096} {
		h, err := s.gptHeader(1, ss)
		if err != nil {
			failures = append(failures, err.Error())
			continue
		}
		t := s.gptTable(h, ss)
		s.gptAnnounce(&t, entries, protective)
		if b, err := s.gptHeader(h.other, ss); err != nil {
			t.warn("the backup GPT is damaged: %v", err)
		} else if b.guid != h.guid || b.crc != h.crc {
			t.warn("the primary and the backup GPT differ; the primary was used")
		}
		return t, true
	}
	for i, ss := range []int{512, 4096} {
		if s.size < int64(3*ss) {
			continue
		}
		h, err := s.gptHeader(uint64(s.size/int64(ss)-1), ss)
		if err != nil {
			continue
		}
		t := s.gptTable(h, ss)
		s.gptAnnounce(&t, entries, protective)
		t.warn("the primary GPT is damaged, the backup at the end of the disk was used: %s", failures[i])
		return t, true
	}
	return Table{}, false
}

// gptAnnounce comments on the MBR that goes with a GPT.
func (s *scanner) gptAnnounce(t *Table, entries [4]mbrEntry, protective bool) {
	if !protective {
		t.warn("no protective MBR announces the GPT; it was used nevertheless")
		return
	}
	others := 0
	for _, e := range entries {
		if e.used() && e.kind != typeProtective {
			others++
		}
	}
	if others > 0 {
		t.warn("hybrid MBR: it repeats %d of the partitions; the GPT was followed", others)
	}
}

// gptHeader reads and verifies the header at lba and its entries.
func (s *scanner) gptHeader(lba uint64, ss int) (*gptHeader, error) {
	off := scale(lba, ss)
	if off > s.size-int64(ss) {
		return nil, fmt.Errorf("no header at sector %d: the disk ends before it", lba)
	}
	b, err := s.read(off, ss)
	if err != nil {
		return nil, fmt.Errorf("header at sector %d: %w", lba, err)
	}
	le := binary.LittleEndian
	if string(b[:8]) != "EFI PART" {
		return nil, fmt.Errorf("no header at sector %d", lba)
	}
	hs := le.Uint32(b[12:])
	if hs < gptHeaderSize || hs > uint32(ss) {
		return nil, fmt.Errorf("header at sector %d: its size %d is impossible", lba, hs)
	}
	sum := le.Uint32(b[16:])
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:hs]) != sum {
		return nil, fmt.Errorf("header at sector %d: wrong checksum", lba)
	}
	h := &gptHeader{
		lba: le.Uint64(b[24:]), other: le.Uint64(b[32:]),
		first: le.Uint64(b[40:]), last: le.Uint64(b[48:]),
		guid:  guidString(b[56:72]),
		count: le.Uint32(b[80:]), size: le.Uint32(b[84:]), crc: le.Uint32(b[88:]),
	}
	if h.lba != lba {
		return nil, fmt.Errorf("header at sector %d: says that it is sector %d", lba, h.lba)
	}
	array := uint64(h.count) * uint64(h.size)
	if h.size < gptEntrySize || h.size%8 != 0 || array == 0 || array > maxEntryArray {
		return nil, fmt.Errorf("header at sector %d: %d entries of %d bytes are impossible", lba, h.count, h.size)
	}
	at := scale(le.Uint64(b[72:]), ss)
	if at > s.size-int64(array) {
		return nil, fmt.Errorf("header at sector %d: its entries lie outside of the disk", lba)
	}
	if h.entries, err = s.read(at, int(array)); err != nil {
		return nil, fmt.Errorf("entries of the header at sector %d: %w", lba, err)
	}
	if crc32.ChecksumIEEE(h.entries) != h.crc {
		return nil, fmt.Errorf("entries of the header at sector %d: wrong checksum", lba)
	}
	return h, nil
}

func (s *scanner) gptTable(h *gptHeader, ss int) Table {
	t := Table{Scheme: GPT, SectorSize: ss, UUID: h.guid}
	for i := range int(h.count) {
		e := h.entries[i*int(h.size):][:h.size]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		code := guidString(e[:16])
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		v := Volume{
			Number:   i + 1,
			Start:    scale(first, ss),
			TypeCode: code,
			TypeName: gptTypeName(code),
			Label:    utf16Name(e[56:128]),
			UUID:     guidString(e[16:32]),
		}
		switch {
		case last < first:
			v.addProblem("its last sector %d lies before its first %d", last, first)
			v.unreadable = true
		default:
			v.Length = scale(last-first+1, ss)
			if last == ^uint64(0) && first == 0 {
				v.Length = scale(last, ss)
			}
			if first < h.first || last > h.last {
				v.addProblem("reaches outside of the GPT's usable sectors %d to %d", h.first, h.last)
			}
		}
		t.Volumes = append(t.Volumes, v)
	}
	if len(t.Volumes) == 0 {
		t.Volumes = []Volume{{Length: s.size, TypeName: "GPT without partitions", Content: Content{Kind: Unpartitioned}}}
	}
	return t
}

// guidString prints a GUID as UEFI stores it: the first three fields little
// endian.
func guidString(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func utf16Name(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return clean(string(utf16.Decode(u)))
}
