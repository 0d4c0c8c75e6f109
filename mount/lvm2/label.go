package lvm2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

const (
	sectorSize   = 512
	labelSectors = 4  // the label is in one of these
	maxAreas     = 16 // lvm makes at most two metadata areas and one of data
)

// label is what the label tells of a PV.
type label struct {
	uuid  string
	areas []area // of metadata
}

// area is a run of bytes of the PV.
type area struct {
	off, size int64
}

// Read reads the label and the metadata areas of a device. The error wraps
// filesys.ErrWrongType when it has no lvm2 label. Damage of metadata areas is no
// error but a Warning: other PVs may have the same text.
func Read(d blockdev.Device) (*PV, error) {
	pv := &PV{Device: d}
	if err := pv.readLabel(); err != nil {
		return nil, err
	}
	pv.UUID = formatUUID(pv.label.uuid)
	for i, a := range pv.label.areas {
		t, err := readArea(d, a)
		switch {
		case err != nil:
			pv.Warnings = append(pv.Warnings, fmt.Sprintf("metadata area %d: %v", i, err))
		case t != nil:
			pv.texts = append(pv.texts, *t)
		}
	}
	if t := pv.newest(); t != nil {
		pv.VGName, pv.VGUUID = t.name, formatUUID(t.id)
	}
	return pv, nil
}

// newest is the PV's own most recent text, or nil.
func (pv *PV) newest() *text {
	var newest *text
	for i := range pv.texts {
		if t := &pv.texts[i]; newest == nil || t.seqno > newest.seqno {
			newest = t
		}
	}
	return newest
}

func (pv *PV) readLabel() error {
	head := make([]byte, labelSectors*sectorSize)
	n, err := pv.Device.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read lvm2 label: %w", err)
	}
	var damage error
	for i := range n / sectorSize {
		s := head[i*sectorSize:][:sectorSize]
		if string(s[:8]) != "LABELONE" {
			continue
		}
		if string(s[24:32]) != "LVM2 001" {
			continue // lvm1 or some other program's
		}
		l, err := parseLabel(s, i)
		if err == nil {
			if damage != nil {
				pv.Warnings = append(pv.Warnings, damage.Error())
			}
			pv.label = l
			return nil
		}
		damage = err
	}
	if damage == nil {
		damage = fmt.Errorf("no lvm2 label: %w", filesys.ErrWrongType)
	}
	return damage
}

// parseLabel parses a sector:
//
//	 0 "LABELONE"
//	 8 number of the sector
//	16 crc of what follows
//	20 offset of the PV's header in the sector, 32
//	24 "LVM2 001"
//
// and the header: 32 characters of UUID, the size in bytes, then offset and size
// of data areas up to one with offset 0, and of metadata areas in the same way. An
// extension with flags and a boot loader's area follows and is not needed.
func parseLabel(s []byte, sector int) (label, error) {
	bad := func(what string) (label, error) {
		return label{}, fmt.Errorf("lvm2 label in sector %d: %s: %w", sector, what, filesys.ErrCorrupt)
	}
	le := binary.LittleEndian
	if crc(s[20:]) != le.Uint32(s[16:]) {
		return bad("checksum does not match")
	}
	if le.Uint64(s[8:]) != uint64(sector) {
		return bad("it names another sector")
	}
	at := int(min(le.Uint32(s[20:]), sectorSize))
	if at < 32 || at+40 > sectorSize {
		return bad("no header inside of the sector")
	}
	l := label{uuid: string(s[at : at+32])}
	for _, c := range []byte(l.uuid) {
		if c < '!' || c > '~' {
			return bad("UUID is no text")
		}
	}
	at += 40
	for kind := 0; kind < 2; kind++ {
		for {
			if at+16 > sectorSize {
				return bad("list of areas does not end")
			}
			a := area{int64(le.Uint64(s[at:])), int64(le.Uint64(s[at+8:]))}
			at += 16
			if a.off == 0 {
				break
			}
			if kind == 1 {
				if len(l.areas) == maxAreas {
					return bad("too many metadata areas")
				}
				l.areas = append(l.areas, a)
			}
		}
	}
	return l, nil
}

// crc is lvm's checksum: CRC-32 with a start value of its own and no inversions.
func crc(b []byte) uint32 { return ^addCRC(newCRC(), b) }

// newCRC and addCRC compute it piece by piece; the result is the complement.
func newCRC() uint32                     { return ^uint32(0xf597a6cf) }
func addCRC(sum uint32, b []byte) uint32 { return crc32.Update(sum, crc32.IEEETable, b) }
