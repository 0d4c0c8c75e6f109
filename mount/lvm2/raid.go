package lvm2

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// raidTypes are lvm's names for levels and layouts of md.
var raidTypes = map[string]struct{ level, layout int }{
	"raid0": {0, raid.Alternate}, "raid0_meta": {0, raid.Alternate},
	"raid1": {1, 0}, "raid4": {5, raid.ParityFirst}, // not md's level 4
	"raid5": {5, raid.LeftSymmetric}, "raid5_ls": {5, raid.LeftSymmetric}, "raid5_la": {5, raid.LeftAsymmetric},
	"raid5_rs": {5, raid.RightSymmetric}, "raid5_ra": {5, raid.RightAsymmetric}, "raid5_n": {5, raid.ParityLast}, "raid5_0": {5, raid.ParityFirst},
	"raid6": {6, raid.ZeroRestart}, "raid6_zr": {6, raid.ZeroRestart}, "raid6_nr": {6, raid.NRestart}, "raid6_nc": {6, raid.NContinue},
	"raid6_ls_6": {6, raid.LeftSymmetric6}, "raid6_la_6": {6, raid.LeftAsymmetric6}, "raid6_rs_6": {6, raid.RightSymmetric6},
	"raid6_ra_6": {6, raid.RightAsymmetric6}, "raid6_n_6": {6, raid.ParityLast}, "raid6_0_6": {6, raid.ParityFirst6},
	"raid10": {10, 0}, "raid10_near": {10, 0},
}

// maxRaidLegs is lvm's own limit (device-mapper's is 253).
const maxRaidLegs = 64

// raid makes the device of a segment that md runs. Each leg is a volume with data
// (rimage) and, but for raid0, one with a superblock and a bitmap (rmeta).
func (b *builder) raid(l *logical, s *segment) (blockdev.Device, error) {
	t := raidTypes[s.kind]
	count, list, step := "device_count", "raids", 2
	if t.level == 0 {
		count = "stripe_count"
	}
	if s.kind == "raid0" && s.find("raids") == nil {
		list, step = "raid0_lvs", 1
	}
	n, err := s.number(count, maxRaidLegs)
	if err != nil {
		return nil, err
	}
	e := s.find(list)
	if e == nil || len(e.list) != int(n)*step || n == 0 {
		return nil, syntax(list + " is not a list of as many volumes as the segment has")
	}
	sectors, err := s.optional("stripe_size", math.MaxUint32, 0)
	if err != nil {
		return nil, err
	}
	c := raid.Config{Level: t.level, Layout: t.layout, Chunk: sectors * sectorSize, Size: s.count * b.extentSize}
	if t.level == 10 {
		copies, err := s.optional("data_copies", n, 2)
		if err != nil {
			return nil, err
		}
		c.Layout = raid.Raid10(int(copies), 1, false)
	}
	legs := make([]raidLeg, n)
	for i := range legs {
		leg := &legs[i]
		data := e.list[i*step+step-1]
		if data.number {
			return nil, syntax(list + " is not a list of names")
		}
		v := b.volume(data.s)
		leg.dev, leg.err, leg.inSync = v.dev, v.err, math.MaxInt64
		if sub := b.lvByName[data.s]; sub != nil {
			leg.avoid = sub.flags.has("status", "WRITEMOSTLY") || sub.flags.has("flags", "WRITEMOSTLY")
			leg.rebuild = sub.flags.has("status", "REBUILD") || sub.flags.has("flags", "REBUILD")
		}
		if sub := b.lvByName[data.s]; sub != nil && sub.visible && t.level == 1 && leg.err == nil {
			// lvconvert --trackchanges: the user has it, and writes pass it by.
			leg.err = fmt.Errorf("it was split off: %w", errMissing)
		}
		if step == 2 && t.level != 0 && leg.err == nil {
			leg.readMeta(b.volume(e.list[i*2].s), i)
		}
	}
	if t.level != 0 {
		if c.InStep, err = b.judge(legs); err != nil {
			return nil, err
		}
		for _, leg := range legs {
			if s := leg.sb; s != nil && leg.err == nil && (int(s.level) != c.Level || t.level >= 4 && int(s.layout) != c.Layout) {
				return nil, fmt.Errorf("superblock of level %d, layout %#x where the group says %s: %w", s.level, s.layout, l.segments[0].kind, filesys.ErrUnsupported)
			}
		}
	}
	c.LegSize = -1
	for i := range legs {
		leg := &legs[i]
		if leg.err != nil {
			b.warn("leg %d of the %s is not read: %v", i, s.kind, bare(leg.err))
			c.Legs = append(c.Legs, raid.Leg{})
			continue
		}
		if from := leg.sb.dataOffset(); from > 0 {
			leg.dev = blockdev.Section(leg.dev, from, math.MaxInt64-from)
		}
		if c.LegSize < 0 || leg.dev.Size() < c.LegSize {
			c.LegSize = leg.dev.Size()
		}
		c.Legs = append(c.Legs, raid.Leg{Dev: leg.dev, InSync: leg.inSync, Avoid: leg.avoid})
	}
	c.LegSize = max(c.LegSize, 0)
	d, err := raid.New(c)
	if err != nil {
		for _, leg := range legs {
			if leg.err != nil {
				return nil, fmt.Errorf("%s: %w: %w", s.kind, err, leg.err)
			}
		}
		return nil, fmt.Errorf("%s: %w", s.kind, err)
	}
	return d, nil
}

// raidLeg is what is known of a leg.
type raidLeg struct {
	dev            blockdev.Device
	err            error // why it is not read
	avoid, rebuild bool
	inSync         int64
	sb             *raidSuper   // nil when the array was never active with this leg
	bitmap         *raid.Bitmap // likewise
}

// raidSuper is device-mapper's superblock of a leg:
//
//	 0 "DmRd", compatible features, number of devices, position of this one
//	16 events
//	24 bits of failed devices, those beyond the 64th at 120
//	32 up to where this device is rebuilt, in sectors; all ones when it is
//	40 up to where the array was synchronised, likewise
//	48 level, layout, chunk size in sectors
//	60 flags (1: a reshape is active), only with feature 1, as is what follows
//	64 position of the reshape, new level, layout, chunk size, change of the
//	   number of devices
//	88 size of the array, where data begin on this leg, where they will begin,
//	   size of the leg, all in sectors
type raidSuper struct {
	position         uint32
	events           uint64
	failed           [4]uint64
	recovery, resync uint64
	v190             bool
	level, layout    uint32
	flags            uint32
	offset, next     uint64
}

const (
	raidFeature190   = 1
	raidSuperSize    = 512
	raidBitmapOffset = 4096
)

// dataOffset is where the leg's data begin, in bytes.
func (s *raidSuper) dataOffset() int64 {
	if s == nil || !s.v190 {
		return 0
	}
	return int64(s.offset) * sectorSize
}

// readMeta reads what the leg's own metadata volume says.
func (l *raidLeg) readMeta(v *built, slot int) {
	if v.err != nil {
		l.err = v.err
		return
	}
	buf := make([]byte, raidSuperSize)
	if _, err := io.ReadFull(io.NewSectionReader(v.dev, 0, raidSuperSize), buf); err != nil {
		l.err = fmt.Errorf("read superblock of the leg: %w", err)
		return
	}
	le := binary.LittleEndian
	if le.Uint32(buf) != 0x64526D44 {
		return // a leg that was never active yet
	}
	s := &raidSuper{position: le.Uint32(buf[12:]), events: le.Uint64(buf[16:]), recovery: le.Uint64(buf[32:]), resync: le.Uint64(buf[40:]),
		level: le.Uint32(buf[48:]), layout: le.Uint32(buf[52:])}
	s.failed[0] = le.Uint64(buf[24:])
	if le.Uint32(buf[4:])&raidFeature190 != 0 {
		s.v190 = true
		s.flags = le.Uint32(buf[60:])
		s.offset, s.next = le.Uint64(buf[96:]), le.Uint64(buf[104:])
		for i := range 3 {
			s.failed[i+1] = le.Uint64(buf[120+8*i:])
		}
	}
	if int(s.position) != slot {
		l.err = fmt.Errorf("superblock of the leg says slot %d, not %d: %w", s.position, slot, filesys.ErrCorrupt)
		return
	}
	if s.offset > 1<<50 {
		l.err = fmt.Errorf("superblock of the leg: data at sector %d: %w", s.offset, filesys.ErrCorrupt)
		return
	}
	l.sb = s
	if bm, err := raid.ReadBitmap(blockdev.Section(v.dev, raidBitmapOffset, v.dev.Size())); err == nil {
		l.bitmap = bm
	}
}

// judge decides which legs are read and how far, and gives the function that
// tells where parity can be trusted.
func (b *builder) judge(legs []raidLeg) (func(off, n int64) (bool, error), error) {
	var freshest *raidLeg
	for i := range legs {
		if l := &legs[i]; l.sb != nil && (freshest == nil || l.sb.events > freshest.sb.events) {
			freshest = l
		}
	}
	for i := range legs {
		l := &legs[i]
		if l.err != nil {
			continue
		}
		switch s := l.sb; {
		case l.rebuild:
			l.err = fmt.Errorf("it is to be rebuilt: %w", errMissing)
		case freshest == nil:
			// Nobody ever used the array.
		case s == nil:
			l.err = fmt.Errorf("it was never in use: %w", errMissing)
		case i < 256 && freshest.sb.failed[i/64]>>(i%64)&1 == 1:
			l.err = fmt.Errorf("it had failed: %w", errMissing)
		case s.events+1 < freshest.sb.events:
			l.err = fmt.Errorf("it is out of date (event %d of %d): %w", s.events, freshest.sb.events, errMissing)
		case s.flags&1 != 0 || s.v190 && s.offset != s.next:
			return nil, fmt.Errorf("raid volume that is being reshaped: %w", filesys.ErrUnsupported)
		case s.recovery != math.MaxUint64:
			l.inSync = int64(min(s.recovery, math.MaxInt64/sectorSize)) * sectorSize
			b.warn("leg %d of the raid was being rebuilt, and is read up to byte %d", i, l.inSync)
		}
	}
	if freshest == nil {
		return nil, nil
	}
	limit := int64(min(freshest.sb.resync, math.MaxInt64/sectorSize)) * sectorSize
	bm := freshest.bitmap
	if bm == nil || bm.Events() < freshest.sb.events {
		return nil, nil
	}
	return func(off, n int64) (bool, error) {
		if off+n > limit {
			return false, nil
		}
		return bm.InStep(off, n)
	}, nil
}
