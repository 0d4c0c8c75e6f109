package mdraid

import (
	"fmt"
	"math"
	"strings"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// Assemble makes arrays of all members of a point, in the order of their first
// members.
func Assemble(members []*Member) []*Array {
	type key struct{ uuid, version string }
	byKey := map[key]*Array{}
	var arrays []*Array
	for _, m := range members {
		k := key{m.UUID, m.Version}
		a := byKey[k]
		if a == nil {
			a = &Array{UUID: m.UUID}
			byKey[k] = a
			arrays = append(arrays, a)
		}
		a.Members = append(a.Members, m)
	}
	for _, a := range arrays {
		if err := a.assemble(); err != nil {
			a.Device = nil
			a.Reason = bare(err)
		}
	}
	return arrays
}

// bare cuts the sentinel off an error that is shown to people.
func bare(err error) string {
	s := err.Error()
	for _, end := range []error{filesys.ErrUnsupported, filesys.ErrCorrupt} {
		s = strings.TrimSuffix(s, ": "+end.Error())
	}
	return s
}

func (a *Array) warn(format string, args ...any) {
	a.Warnings = append(a.Warnings, fmt.Sprintf(format, args...))
}

// assemble decides which members are read, and makes the device.
func (a *Array) assemble() error {
	fresh := a.Members[0]
	for _, m := range a.Members {
		if m.sb.events > fresh.sb.events {
			fresh = m
		}
	}
	f := &fresh.sb
	a.Level, a.Name = fresh.Level, fresh.Name
	for _, m := range a.Members {
		if m.sb.refused != nil && m.sb.events+1 >= f.events {
			return m.sb.refused
		}
	}
	if err := a.divided(f); err != nil {
		return err
	}
	if f.disks <= 0 {
		return fmt.Errorf("array of %d members: %w", f.disks, filesys.ErrCorrupt)
	}
	slots := make([]*Member, f.disks)
	for _, m := range a.Members {
		slot, err := a.slotOf(m, f)
		if err != nil {
			a.warn("a member is not read: %s", bare(err))
			continue
		}
		if slot < 0 {
			continue
		}
		if other := slots[slot]; other != nil {
			switch {
			case m.sb.replacement && !other.sb.replacement:
				continue // the original is as good
			case other.sb.replacement && !m.sb.replacement:
			default:
				return fmt.Errorf("two members claim slot %d (a cloned disk?), and nothing tells which one is meant: %w", slot, filesys.ErrUnsupported)
			}
		}
		slots[slot] = m
	}
	for i, m := range slots {
		if m == nil {
			a.warn("the member in slot %d is missing", i)
		} else if m.sb.inSync != noLimit {
			a.warn("the member in slot %d was being rebuilt, and is read up to byte %d", i, m.sb.inSync)
		}
	}
	legs := make([]raid.Leg, f.disks)
	for i, m := range slots {
		if m == nil {
			continue
		}
		leg, err := m.leg(f)
		if err != nil {
			a.warn("the member in slot %d is not read: %s", i, bare(err))
			continue
		}
		legs[i] = leg
	}
	return a.build(fresh, legs)
}

// divided finds members that were used without each other: each is up to date, and
// calls the other failed.
func (a *Array) divided(f *superblock) error {
	for _, m := range a.Members {
		s := &m.sb
		if s.events != f.events || s.number >= len(f.roles) || s.number >= len(s.roles) {
			continue
		}
		if f.roles[s.number] >= roleJournal && int(s.roles[s.number]) < s.disks {
			return fmt.Errorf("its members were used without each other, and nothing tells which are meant: %w", filesys.ErrUnsupported)
		}
	}
	return nil
}

// slotOf tells which slot a member has, -1 for none (a spare), by the freshest
// superblock f.
func (a *Array) slotOf(m *Member, f *superblock) (int, error) {
	s := &m.sb
	if s.events+1 < f.events {
		return 0, fmt.Errorf("it is out of date (event %d of %d): %w", s.events, f.events, filesys.ErrUnsupported)
	}
	if s.level != f.level || s.layout != f.layout || s.chunk != f.chunk || s.disks != f.disks || s.size != f.size {
		return 0, fmt.Errorf("its superblock describes the array differently: %w", filesys.ErrCorrupt)
	}
	if s.number >= len(f.roles) {
		return -1, nil
	}
	switch role := f.roles[s.number]; {
	case role == roleSpare, role == roleJournal:
		return -1, nil
	case role == roleFaulty:
		return 0, fmt.Errorf("it had failed: %w", filesys.ErrUnsupported)
	case int(role) >= f.disks:
		return 0, fmt.Errorf("it has slot %d of %d: %w", role, f.disks, filesys.ErrCorrupt)
	default:
		return int(role), nil
	}
}

// leg makes what mount/raid reads of a member.
func (m *Member) leg(f *superblock) (raid.Leg, error) {
	s := &m.sb
	n := s.dataSize
	if f.size > 0 && n > f.size {
		n = f.size
	}
	if s.dataOff > m.Device.Size() || n > m.Device.Size()-s.dataOff {
		return raid.Leg{}, fmt.Errorf("its data, %d bytes at %d, reach beyond its end: %w", n, s.dataOff, filesys.ErrCorrupt)
	}
	if n < f.size {
		return raid.Leg{}, fmt.Errorf("it has %d bytes where the array uses %d: %w", n, f.size, filesys.ErrCorrupt)
	}
	bad, err := s.bad.read(m.Device, s.dataOff)
	if err != nil {
		return raid.Leg{}, err
	}
	return raid.Leg{Dev: blockdev.Section(m.Device, s.dataOff, n), InSync: s.inSync, Bad: bad, Avoid: s.avoid}, nil
}

// build makes the device of the legs.
func (a *Array) build(fresh *Member, legs []raid.Leg) error {
	f := &fresh.sb
	c := raid.Config{Level: f.level, Layout: f.layout, Chunk: f.chunk, Legs: legs, LegSize: f.size, InStep: fresh.inStep()}
	if f.level == -1 {
		return a.linear(f, legs)
	}
	if f.level > 0 && f.size <= 0 {
		return fmt.Errorf("it uses %d bytes of each member: %w", f.size, filesys.ErrCorrupt)
	}
	size, err := raid.Size(c)
	if err != nil {
		return err
	}
	c.Size, a.Size = size, size
	a.Device, err = raid.New(c)
	return err
}

// linear is one member behind the other, each rounded down to whole chunks.
func (a *Array) linear(f *superblock, legs []raid.Leg) error {
	var parts []blockdev.Device
	var missing []int
	var size int64
	for i, l := range legs {
		if l.Dev == nil {
			missing = append(missing, i)
			continue
		}
		n := l.Dev.Size()
		if f.chunk > 0 {
			n = n / f.chunk * f.chunk
		}
		if n > math.MaxInt64-size {
			return fmt.Errorf("array of impossible size: %w", filesys.ErrCorrupt)
		}
		size += n
		one, err := raid.New(raid.Config{Level: 1, Size: n, LegSize: n, Legs: []raid.Leg{l}})
		if err != nil {
			return err
		}
		parts = append(parts, one)
	}
	if len(missing) > 0 {
		return &raid.MissingError{Legs: missing}
	}
	a.Size, a.Device = size, raid.Concat(parts)
	return nil
}

// inStep gives the function that tells where the members of the array are in step,
// by its freshest member.
func (m *Member) inStep() func(off, n int64) (bool, error) {
	s := &m.sb
	if s.resync == noLimit {
		return func(int64, int64) (bool, error) { return true, nil }
	}
	if s.bitmap > 0 && s.bitmap < m.Device.Size() {
		bm, err := raid.ReadBitmap(blockdev.Section(m.Device, s.bitmap, math.MaxInt64-s.bitmap))
		if err == nil && bm.Events()+1 >= s.events {
			return bm.InStep
		}
	}
	return func(off, n int64) (bool, error) { return off+n <= s.resync, nil }
}
