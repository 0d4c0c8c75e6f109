package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Detect judges by magic numbers what the volume r of size bytes holds. It reads
// the first 68 KiB and the last 128 KiB, and the region of ZFS's uberblocks when
// nothing else was found. An error means that those could not be read; when that is
// the end alone, what the start tells is there as well.
//
// Containers come before file systems: a LUKS or LVM header on a volume that
// once held ext4 leaves the old superblock in place, never the other way round,
// because mkfs clears the start. And arrays come before other containers: the
// members of a mirror whose superblock lies at the end begin like what is on it.
func Detect(r io.ReaderAt, size int64) (Content, error) {
	head, err := readAt(r, size, 0, headSize)
	if err != nil {
		return Content{Kind: Unknown}, err
	}
	const tailSize = 128 << 10
	tailOff := max(size-tailSize, 0) &^ 511
	tail, lost := readAt(r, size, tailOff, int(size-tailOff))
	if lost != nil {
		lost = fmt.Errorf("its end, which may have the superblock of a software raid: %w", lost)
		tail = make([]byte, size-tailOff)
	}
	for _, detect := range []func([]byte) (Content, bool){
		detectMD(head, tail, tailOff, size), detectContainer, detectSwap, detectExt, detectBoot, detectTable,
	} {
		if c, ok := detect(head); ok {
			c.Label, c.UUID = clean(c.Label), clean(c.UUID)
			return c, lost
		}
	}
	if lost != nil {
		return Content{Kind: Unknown}, lost
	}
	uber, err := readAt(r, size, 128<<10, int(min(max(size-128<<10, 0), 128<<10))&^1023)
	if err != nil {
		return Content{Kind: Unknown}, err
	}
	for off := 0; off < len(uber); off += 1024 {
		if m := binary.LittleEndian.Uint64(uber[off:]); m == 0x00bab10c || m == 0x0cb1ba00<<32 {
			return Content{Kind: ZFS}, nil
		}
	}
	if zero(head) && zero(tail) && zero(uber) {
		return Content{Kind: Empty}, nil
	}
	return Content{Kind: Unknown}, nil
}

var zeros [4096]byte

func zero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// magic is a fixed string at a fixed place.
type magic struct {
	kind Kind
	off  int
	text string
	more func(head []byte, c *Content)
}

// table holds the formats that one magic number tells.
var table = []magic{
	{XFS, 0, "XFSB", func(h []byte, c *Content) { c.UUID, c.Label = uuidString(h[32:48]), text(h[108:120]) }},
	{Btrfs, 65536 + 64, "_BHRfS_M", func(h []byte, c *Content) {
		c.UUID, c.Label = uuidString(h[65536+32:65536+48]), text(h[65536+299:65536+299+256])
	}},
	{SquashFS, 0, "hsqs", nil},
	{EROFS, 1024, "\xe2\xe1\xf5\xe0", func(h []byte, c *Content) { c.UUID, c.Label = uuidString(h[1072:1088]), text(h[1088:1104]) }},
	{F2FS, 1024, "\x10\x20\xf5\xf2", nil},
	{HFSPlus, 1024, "H+\x00\x04", nil},
	{HFSPlus, 1024, "HX\x00\x05", nil},
	{APFS, 32, "NXSB", nil},
	{ISO9660, 32769, "CD001", func(h []byte, c *Content) { c.Label = text(h[32768+40 : 32768+72]) }},
}

func detectTable(h []byte) (Content, bool) { return match(table, h) }

// containers are the formats that wrap others.
var containers = []magic{
	{LUKS, 0, "LUKS\xba\xbe", func(h []byte, c *Content) {
		c.UUID = text(h[168:208])
		if binary.BigEndian.Uint16(h[6:]) == 2 {
			c.Label = text(h[24:72])
		}
	}},
	{BitLocker, 3, "-FVE-FS-", nil},
}

func detectContainer(h []byte) (Content, bool) {
	if c, ok := match(containers, h); ok {
		return c, true
	}
	// The label of a physical volume stands in one of the first four sectors.
	for off := 0; off < 4*512; off += 512 {
		l := h[off : off+512]
		if string(l[:8]) != "LABELONE" || string(l[24:32]) != "LVM2 001" {
			continue
		}
		c := Content{Kind: LVM2}
		if pv := int(binary.LittleEndian.Uint32(l[20:])); pv >= 32 && pv <= 512-32 {
			u := string(l[pv : pv+32])
			c.UUID = strings.Join([]string{u[:6], u[6:10], u[10:14], u[14:18], u[18:22], u[22:26], u[26:]}, "-")
		}
		return c, true
	}
	return Content{}, false
}

func match(list []magic, h []byte) (Content, bool) {
	for _, m := range list {
		if string(h[m.off:m.off+len(m.text)]) != m.text {
			continue
		}
		c := Content{Kind: m.kind}
		if m.more != nil {
			m.more(h, &c)
		}
		return c, true
	}
	return Content{}, false
}

// detectMD looks for the four places of a software raid's superblock. Those at
// the end must say themselves that they lie there: the end of a disk may be that
// of its last partition, too.
func detectMD(head, tail []byte, tailOff, size int64) func([]byte) (Content, bool) {
	const mdMagic = 0xa92b4efc
	le := binary.LittleEndian
	v1 := func(sb []byte, off int64) (Content, bool) {
		if len(sb) < 256 || le.Uint32(sb) != mdMagic || le.Uint32(sb[4:]) != 1 || le.Uint64(sb[144:]) != uint64(off/512) {
			return Content{}, false
		}
		return Content{Kind: MDRaid, UUID: uuidString(sb[16:32]), Label: text(sb[32:64])}, true
	}
	at := func(off int64) []byte {
		if off < tailOff || off >= size {
			return nil
		}
		return tail[off-tailOff:]
	}
	return func([]byte) (Content, bool) {
		for _, off := range []int64{0, 4096} { // 1.1 and 1.2
			if c, ok := v1(head[off:], off); ok {
				return c, true
			}
		}
		// 1.0: at least 8 KiB and less than 12 KiB from the end, 4 KiB aligned.
		off := (size/512 - 16) &^ 7 * 512
		if c, ok := v1(at(off), off); ok {
			return c, true
		}
		// 0.90: in the last 64 KiB block that is whole.
		if sb := at(size&^65535 - 65536); len(sb) >= 64 && le.Uint32(sb) == mdMagic && le.Uint32(sb[4:]) == 0 {
			return Content{Kind: MDRaid}, true
		}
		return Content{}, false
	}
}

// detectSwap knows Linux's swap in any page size, with or without a
// hibernated system in it.
func detectSwap(h []byte) (Content, bool) {
	for _, page := range []int{4096, 8192, 16384, 32768, 65536} {
		switch string(h[page-10 : page]) {
		case "SWAPSPACE2":
			return Content{Kind: Swap, UUID: uuidString(h[1036:1052]), Label: text(h[1052:1068])}, true
		case "SWAP-SPACE", "S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "LINHIB0001":
			return Content{Kind: Swap}, true
		}
	}
	return Content{}, false
}

// detectExt tells ext2, ext3 and ext4 apart by the features that the older ones
// do not have, as blkid does.
func detectExt(h []byte) (Content, bool) {
	sb := h[1024:2048]
	le := binary.LittleEndian
	if le.Uint16(sb[56:]) != 0xef53 || le.Uint32(sb[24:]) > 6 {
		return Content{}, false
	}
	compat, incompat, roCompat := le.Uint32(sb[92:]), le.Uint32(sb[96:]), le.Uint32(sb[100:])
	c := Content{UUID: uuidString(sb[104:120]), Label: text(sb[120:136])}
	const (
		hasJournal   = 0x4
		incompatExt3 = 0x2 | 0x4 | 0x10 // filetype, recover, meta_bg
		roCompatExt3 = 0x1 | 0x2 | 0x4  // sparse_super, large_file, btree_dir
		journalDev   = 0x8
	)
	switch {
	case incompat&journalDev != 0:
		c.Kind = Journal
	case incompat&^incompatExt3 != 0 || roCompat&^roCompatExt3 != 0:
		c.Kind = Ext4
	case compat&hasJournal != 0:
		c.Kind = Ext3
	default:
		c.Kind = Ext2
	}
	return c, true
}

// detectBoot knows the formats that begin with a DOS boot sector.
func detectBoot(h []byte) (Content, bool) {
	le := binary.LittleEndian
	if h[510] != 0x55 || h[511] != 0xaa {
		return Content{}, false
	}
	switch string(h[3:11]) {
	case "NTFS    ":
		return Content{Kind: NTFS, UUID: fmt.Sprintf("%016X", le.Uint64(h[72:]))}, true
	case "EXFAT   ":
		return Content{Kind: ExFAT, UUID: serial(le.Uint32(h[100:]))}, true
	case "ReFS\x00\x00\x00\x00":
		return Content{Kind: ReFS}, true
	}
	// FAT has no magic number, only a parameter block that must make sense.
	sector, cluster := uint32(le.Uint16(h[11:])), uint32(h[13])
	reserved, fats := uint32(le.Uint16(h[14:])), uint32(h[16])
	media := h[21]
	if h[0] != 0xeb && h[0] != 0xe9 ||
		sector < 512 || sector > 4096 || sector&(sector-1) != 0 ||
		cluster == 0 || cluster&(cluster-1) != 0 ||
		reserved == 0 || fats == 0 || fats > 2 || media != 0xf0 && media < 0xf8 {
		return Content{}, false
	}
	sectors := uint32(le.Uint16(h[19:]))
	if sectors == 0 {
		sectors = le.Uint32(h[32:])
	}
	fatSize, small := uint32(le.Uint16(h[22:])), true
	if fatSize == 0 {
		fatSize, small = le.Uint32(h[36:]), false
	}
	root := (uint32(le.Uint16(h[17:]))*32 + sector - 1) / sector
	meta := uint64(reserved) + uint64(fats)*uint64(fatSize) + uint64(root)
	if fatSize == 0 || meta >= uint64(sectors) {
		return Content{}, false
	}
	ext := h[36:] // the extended boot record: its place depends on the size of the FAT
	if !small {
		ext = h[64:]
	}
	c := Content{Kind: FAT32}
	if small {
		c.Kind = FAT16
		if (uint64(sectors)-meta)/uint64(cluster) < 4085 {
			c.Kind = FAT12
		}
	}
	if ext[2] == 0x28 || ext[2] == 0x29 {
		c.UUID = serial(le.Uint32(ext[3:]))
	}
	if l := text(ext[7:18]); ext[2] == 0x29 && l != "NO NAME" {
		c.Label = l
	}
	return c, true
}

func serial(n uint32) string { return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff) }

func uuidString(b []byte) string {
	if zero(b) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// text is a fixed field that ends at a NUL or in blanks.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.TrimRight(string(b), " ")
}

// clean makes a string from the disk safe to print: a hostile label must not
// reach a terminal as an escape sequence.
func clean(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}
