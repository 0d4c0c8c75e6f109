package lvm2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// maxMirrorLegs is device-mapper's own limit.
const maxMirrorLegs = 8

// mirror is a mirror of the old kind, and a move of extents in progress (pvmove):
// writes go to all legs, and what of the others is not in step yet is copied from
// the first leg. So the first leg is always right. Others are where the log says
// so.
func (b *builder) mirror(s *segment) (blockdev.Device, error) {
	n, err := s.number("mirror_count", maxMirrorLegs)
	if err != nil || n == 0 {
		return nil, syntax("mirror_count is missing or not a number in its range")
	}
	e := s.find("mirrors")
	if e == nil || int64(len(e.list)) != 2*n {
		return nil, syntax("mirrors is not a list of as many areas as the segment has")
	}
	m := &mirror{size: s.count * b.extentSize}
	var errs []error
	for i := int64(0); i < 2*n; i += 2 {
		if e.list[i].number || !e.list[i+1].number {
			return nil, syntax("mirrors is not a list of names and numbers")
		}
		d, err := b.area(e.list[i].s, e.list[i+1].n, s.count)
		if err != nil {
			errs = append(errs, err)
			b.warn("leg %d of the mirror is not read: %v", i/2, bare(err))
			d = nil
		}
		m.legs = append(m.legs, d)
	}
	if len(errs) == len(m.legs) {
		return nil, errors.Join(errs...)
	}
	if name := s.str("mirror_log"); name != "" {
		region, err := s.number("region_size", math.MaxUint32)
		if err != nil || region == 0 {
			return nil, syntax("region_size is missing or not a number in its range")
		}
		m.log, err = b.mirrorLog(name, region*sectorSize)
		if err != nil {
			b.warn("only the first leg of the mirror is read: %v", bare(err))
		}
	}
	if m.legs[0] == nil && m.log == nil {
		return nil, fmt.Errorf("the first leg of the mirror is gone and no log tells what the others have: %w", errs[0])
	}
	return m, nil
}

// mirrorLog reads the head of a mirror's log on disk:
//
//	   0  magic, version 2, number of regions (64 bits)
//	1024  a bit for each region, set where all legs are in step
func (b *builder) mirrorLog(name string, region int64) (*mirrorLog, error) {
	v := b.volume(name)
	if v.err != nil {
		return nil, v.err
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(io.NewSectionReader(v.dev, 0, 16), head); err != nil {
		return nil, fmt.Errorf("read the mirror's log: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(head) != 0x4d695272 {
		return nil, fmt.Errorf("mirror log: bad magic: %w", filesys.ErrCorrupt)
	}
	if v := le.Uint32(head[4:]); v != 2 {
		return nil, fmt.Errorf("mirror log of version %d: %w", v, filesys.ErrUnsupported)
	}
	return &mirrorLog{dev: v.dev, region: region, regions: int64(min(le.Uint64(head[8:]), 1<<40))}, nil
}

type mirrorLog struct {
	dev     blockdev.Device
	region  int64 // bytes
	regions int64
}

// inStep tells whether all legs have the byte at off, and for how many bytes the
// answer holds at least.
func (l *mirrorLog) inStep(off int64) (bool, int64, error) {
	r := off / l.region
	n := l.region - off%l.region
	if r >= l.regions {
		return false, n, nil
	}
	var b [1]byte
	if _, err := io.ReadFull(io.NewSectionReader(l.dev, 1024+r/8, 1), b[:]); err != nil {
		return false, n, fmt.Errorf("read the mirror's log: %w", err)
	}
	return b[0]>>(r%8)&1 == 1, n, nil
}

type mirror struct {
	legs []blockdev.Device // nil where missing
	log  *mirrorLog        // nil when there is none on disk
	size int64
}

func (m *mirror) Size() int64 { return m.size }

func (m *mirror) ReadAt(p []byte, off int64) (int, error) {
	return raid.ReadPieces(p, off, m.size, func(p []byte, off int64) (int, error) {
		var errs []error
		if m.legs[0] != nil {
			n, err := raid.Full(m.legs[0], p, off)
			if err == nil || m.log == nil {
				return n, err
			}
			errs = append(errs, err)
		}
		ok, n, err := m.log.inStep(off)
		if err != nil {
			return 0, errors.Join(append(errs, err)...)
		}
		p = p[:min(int64(len(p)), n)]
		for _, leg := range m.legs[1:] {
			if !ok || leg == nil {
				continue
			}
			n, err := raid.Full(leg, p, off)
			if err == nil {
				return n, nil
			}
			errs = append(errs, err)
		}
		if len(errs) == 0 {
			errs = append(errs, fmt.Errorf("byte %d: the mirror's first leg is gone and the others were not in step: %w", off, filesys.ErrCorrupt))
		}
		return 0, errors.Join(errs...)
	})
}

func (m *mirror) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= m.size {
		return blockdev.Place{}, 0, outside(off, m.size)
	}
	if m.legs[0] != nil {
		return m.legs[0].Place(off)
	}
	ok, n, err := m.log.inStep(off)
	if err != nil {
		return blockdev.Place{}, 0, err
	}
	for _, leg := range m.legs[1:] {
		if ok && leg != nil {
			p, k, err := leg.Place(off)
			return p, min(n, k), err
		}
	}
	return blockdev.Place{}, 0, fmt.Errorf("byte %d: the mirror's first leg is gone and the others were not in step: %w", off, filesys.ErrCorrupt)
}
