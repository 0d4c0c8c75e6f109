package mdraid

import (
	"encoding/binary"
	"fmt"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

const (
	superV0Size  = 4096
	superV0Align = 64 << 10
	maxV0Disks   = 27
)

// readV0 reads a superblock of version 0.90. It lies in the last whole 64 KiB of
// the device, and is made of 32-bit words in the byte order of the machine that
// wrote it; the other order than ours is refused by its magic.
//
//	 0 a92b4efc, 0, 90 (91 while it is being reshaped)
//	 5 first word of the UUID, 13 the others
//	 7 level, 8 size used of each member in KiB, 10 slots
//	33 state (bit 0: clean), 38 checksum, 39 events, 41 events at the checkpoint
//	43 checkpoint: up to where the array is in step, in sectors
//	64 layout, chunk size in bytes
//	128 descriptors of 32 words: number, major, minor, slot, state (bit 0:
//	    faulty, 1: active, 2: in sync, 9: write-mostly)
//	992 descriptor of this member
func readV0(d blockdev.Device) (*Member, error) {
	off := d.Size()/superV0Align*superV0Align - superV0Align
	b, err := readAll(d, off, superV0Size)
	if err != nil {
		return nil, err
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	if word(0) != mdMagic {
		return nil, filesys.ErrWrongType
	}
	bad := func(format string, args ...any) (*Member, error) {
		return nil, fmt.Errorf("md superblock 0.90: %s: %w", fmt.Sprintf(format, args...), filesys.ErrCorrupt)
	}
	if word(1) != 0 || word(2) != 90 && word(2) != 91 {
		return nil, filesys.ErrWrongType // version 1, whose place this happens to be
	}
	var sum uint64
	for i := range superV0Size / 4 {
		if i != 38 {
			sum += uint64(word(i))
		}
	}
	if uint32(sum)+uint32(sum>>32) != word(38) {
		return bad("checksum does not match")
	}
	s := superblock{
		level: int(int32(word(7))), layout: int(int32(word(64))), chunk: int64(word(65)),
		disks: int(word(10)), size: int64(word(8)) << 10,
		events:   uint64(word(40))<<32 | uint64(word(39)),
		dataSize: off, inSync: noLimit,
	}
	for i, w := range []int{5, 13, 14, 15} {
		binary.BigEndian.PutUint32(s.uuid[4*i:], word(w))
	}
	if s.disks > maxV0Disks {
		return bad("%d slots", s.disks)
	}
	switch checkpoint := uint64(word(42))<<32 | uint64(word(41)); {
	case word(33)&1 != 0:
		s.resync = noLimit
	case checkpoint == s.events && word(43) != 0xFFFFFFFF:
		s.resync = int64(word(43)) * sectorSize
	}
	if s.level == 0 {
		s.layout = -1
	}
	if s.level == -1 || s.level == 0 {
		s.size = 0
	}
	// The roles of version 1, from the descriptors.
	for range maxV0Disks {
		s.roles = append(s.roles, roleSpare)
	}
	for i := range maxV0Disks {
		slot, state := word(128+32*i+3), word(128+32*i+4)
		switch {
		case state&1 != 0:
			s.roles[i] = roleFaulty
		case state&6 == 6 && slot < maxV0Disks:
			s.roles[i] = uint16(slot)
		}
	}
	s.number = int(min(word(992), maxV0Disks))
	s.avoid = word(992+4)>>9&1 != 0
	if word(2) == 91 {
		s.refused = fmt.Errorf("array that is being reshaped: %w", filesys.ErrUnsupported)
	}
	return &Member{UUID: formatUUID(s.uuid), Version: "0.90", Level: levelName(s.level), sb: s}, nil
}
