package mdraid

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// Features of a superblock of version 1.
const (
	featureBitmap         = 1
	featureRecoveryOffset = 2
	featureReshape        = 4
	featureBadBlocks      = 8
	featureReplacement    = 16
	featureReshapeBack    = 32
	featureNewOffset      = 64
	featureRecoveryBitmap = 128
	featureClustered      = 256
	featureJournal        = 512
	featurePPL            = 1024
	featureMultiplePPLs   = 2048
	featureRaid0Layout    = 4096
	knownFeatures         = 2*featureRaid0Layout - 1
)

const (
	superV1Size = 256  // before the roles
	maxRoles    = 1920 // so that all fits in 4096 bytes
)

// readV1 reads a superblock of version 1 at off. Sizes and offsets are in sectors:
//
//	  0 a92b4efc, version (1), features, padding
//	 16 UUID of the array, its name (32 bytes), time of creation
//	 72 level, layout, size used of each member (64 bits), chunk size, slots
//	 96 where the bitmap is from here (signed)
//	100 the shape to come: level, position (64 bits), change of the number of
//	    slots, layout, chunk size, change of the data's offset
//	128 data's offset and size, offset of this superblock, up to where this
//	    member is rebuilt (64 bits each)
//	160 number of the member, …, 168 its UUID, 184 flags (1: write-mostly)
//	185 the bad block log: shift of its sectors, its size, and where it is from
//	    here (signed)
//	192 time of the last change, 200 events, 208 up to where the array is in step
//	216 checksum, 220 number of roles, 256 roles of 16 bits by members' numbers
func readV1(d blockdev.Device, version string, off int64) (*Member, error) {
	b, err := readAll(d, off, superV1Size)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint32(b) != mdMagic || le.Uint32(b[4:]) != 1 {
		return nil, filesys.ErrWrongType
	}
	if int64(le.Uint64(b[144:])) != off/sectorSize {
		return nil, filesys.ErrWrongType // that of something inside, or outside, of this device
	}
	bad := func(format string, args ...any) (*Member, error) {
		return nil, fmt.Errorf("md superblock %s: %s: %w", version, fmt.Sprintf(format, args...), filesys.ErrCorrupt)
	}
	roles := le.Uint32(b[220:])
	if roles > maxRoles {
		return bad("%d members", roles)
	}
	if b, err = readAll(d, off, superV1Size+2*int64(roles)); err != nil {
		return nil, err
	}
	if sum := checksumV1(b); sum != le.Uint32(b[216:]) {
		return bad("checksum does not match")
	}
	name, _, _ := bytes.Cut(b[32:64], []byte{0})
	s := superblock{
		uuid: [16]byte(b[16:32]), device: [16]byte(b[168:184]),
		level: int(int32(le.Uint32(b[72:]))), layout: int(int32(le.Uint32(b[76:]))),
		disks: int(le.Uint32(b[92:])), number: int(le.Uint32(b[160:])),
		events: le.Uint64(b[200:]), inSync: noLimit,
		avoid: b[184]&1 != 0,
	}
	for i := range int(roles) {
		s.roles = append(s.roles, le.Uint16(b[superV1Size+2*i:]))
	}
	for _, f := range []struct {
		to *int64
		at int
	}{{&s.size, 80}, {&s.dataOff, 128}, {&s.dataSize, 136}, {&s.resync, 208}} {
		sectors := le.Uint64(b[f.at:])
		if *f.to = int64(min(sectors, uint64(noLimit/sectorSize))) * sectorSize; *f.to == noLimit && sectors != math.MaxUint64 {
			return bad("an offset or size of %d sectors", sectors)
		}
	}
	s.chunk = int64(le.Uint32(b[88:])) * sectorSize
	if s.disks < 0 || s.disks > maxRoles {
		return bad("%d slots", s.disks)
	}
	if s.level == -1 || s.level == 0 {
		s.size = 0 // each member's own
	}
	features := le.Uint32(b[8:])
	if features&featureRecoveryOffset != 0 {
		s.inSync = int64(min(le.Uint64(b[152:]), uint64(noLimit/sectorSize))) * sectorSize
	}
	if features&featureRecoveryBitmap != 0 {
		s.inSync = 0
	}
	s.replacement = features&featureReplacement != 0
	if s.level == 0 && features&featureRaid0Layout == 0 {
		s.layout = -1
	}
	if features&featureBitmap != 0 {
		s.bitmap = off + int64(int32(le.Uint32(b[96:])))*sectorSize
	}
	if features&featureBadBlocks != 0 {
		s.bad = badLog{at: off + int64(int32(le.Uint32(b[188:])))*sectorSize, size: int64(le.Uint16(b[186:])) * sectorSize, shift: int(b[185])}
	}
	switch {
	case features&^knownFeatures != 0:
		s.refused = fmt.Errorf("md features %#x: %w", features&^knownFeatures, filesys.ErrUnsupported)
	case features&(featureReshape|featureReshapeBack|featureNewOffset) != 0:
		s.refused = fmt.Errorf("array that is being reshaped: %w", filesys.ErrUnsupported)
	case features&featureJournal != 0:
		s.refused = fmt.Errorf("array with a write journal: %w", filesys.ErrUnsupported)
	case features&featureClustered != 0:
		s.refused = fmt.Errorf("array of a cluster: %w", filesys.ErrUnsupported)
	}
	return &Member{UUID: formatUUID(s.uuid), Name: strings.ToValidUTF8(string(name), "?"), Version: version, Level: levelName(s.level), sb: s}, nil
}

// checksumV1 sums the words, with zero for the sum itself, and folds the carry in.
func checksumV1(b []byte) uint32 {
	le := binary.LittleEndian
	var sum uint64
	for i := 0; i+4 <= len(b); i += 4 {
		if i != 216 {
			sum += uint64(le.Uint32(b[i:]))
		}
	}
	if len(b)%4 == 2 {
		sum += uint64(le.Uint16(b[len(b)-2:]))
	}
	return uint32(sum) + uint32(sum>>32)
}

func formatUUID(u [16]byte) string {
	return fmt.Sprintf("%08x:%08x:%08x:%08x", u[:4], u[4:8], u[8:12], u[12:])
}
