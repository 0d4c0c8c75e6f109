package lvm2

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// maxNesting bounds volumes made of volumes. lvm itself comes to about eight: a
// thin volume, its pool, the pool's data, a cache over that, its origin, a raid,
// one of its legs, a move in progress.
const maxNesting = 24

// builder makes the devices of a group's volumes, each once.
type builder struct {
	*group
	pvs     map[string]blockdev.Device // by key
	lost    map[string]error           // why others cannot be used, by key
	refused error                      // why nothing of the group can be read
	built   map[string]*built
	pools   map[string]*thinPool
	stack   []*built // that are being built, the innermost last
	blocks  *blockCache
	runs    *atomic.Int64 // that all overlays have, against maxRuns
}

// built is a volume as segments of others see it.
type built struct {
	dev      blockdev.Device
	err      error
	warnings []string
	done     bool
	depth    int // how many volumes are inside of each other
	raids    int // how many of them are mirrors and raids
}

// maxWarnings bounds what is said of one volume.
const maxWarnings = 32

// warn says something of the volume that is being built.
func (b *builder) warn(format string, args ...any) {
	if n := len(b.stack); n > 0 {
		top := b.stack[n-1]
		if w := fmt.Sprintf(format, args...); len(top.warnings) < maxWarnings && !slices.Contains(top.warnings, w) {
			top.warnings = append(top.warnings, w)
		}
	}
}

// inherit tells the volume that is being built what one of its parts has.
func (b *builder) inherit(v *built) {
	for _, w := range v.warnings {
		b.warn("%s", w)
	}
	if n := len(b.stack); n > 0 {
		top := b.stack[n-1]
		top.raids, top.depth = max(top.raids, v.raids), max(top.depth, v.depth+1)
	}
}

// nest counts a mirror or raid. Each tries all legs when reads fail, so that the
// work would multiply without bound if they were inside of each other. lvm has a
// move in progress, a mirror, below a raid's leg, and no more.
func (b *builder) nest() error {
	top := b.stack[len(b.stack)-1]
	if top.raids++; top.raids > maxRaids {
		return fmt.Errorf("raids inside of each other: %w", filesys.ErrUnsupported)
	}
	return nil
}

const maxRaids = 2

// volumes lists what the group has.
//
// An old-style snapshot is two volumes of the metadata: the store of changed
// chunks, which has the snapshot's name, and a nameless one that connects store
// and origin. To the user they are one.
func (b *builder) volumes() []LV {
	snapshots, merging := map[string]*segment{}, map[string]*segment{}
	connects := map[string]bool{}
	for i := range b.lvs {
		l := &b.lvs[i]
		if len(l.segments) != 1 || l.segments[0].kind != "snapshot" {
			continue
		}
		s := &l.segments[0]
		connects[l.name] = true
		if store := s.str("merging_store"); store != "" {
			merging[s.str("origin")] = s
			snapshots[store] = s
		} else {
			snapshots[s.str("cow_store")] = s
		}
	}
	var list []LV
	for i := range b.lvs {
		l := &b.lvs[i]
		if connects[l.name] {
			continue
		}
		lv := LV{Name: strings.Clone(l.name), UUID: strings.Clone(l.id), Size: l.extents * b.extentSize, Type: strings.Clone(typeOf(l)), Visible: l.visible}
		got := &built{}
		switch snap, merge := snapshots[l.name], merging[l.name]; {
		case b.refused != nil:
			got.err = b.refused
		case snap != nil:
			lv.Type, lv.Visible = "snapshot", snap.find("merging_store") == nil
			got = b.snapshot(snap)
			if o := b.lvByName[snap.str("origin")]; o != nil {
				lv.Size = o.extents * b.extentSize
			}
		case merge != nil:
			got = b.snapshot(merge)
			got.warnings = append(got.warnings, fmt.Sprintf("snapshot %s is being merged into this volume; it is shown as it will be when that is done", merge.str("merging_store")))
		default:
			got = b.volume(l.name)
		}
		lv.Pool = len(l.segments) > 0 && isPool(l.segments[0].kind)
		lv.Device, lv.Warnings = got.dev, got.warnings
		if got.err != nil {
			lv.Device, lv.Reason = nil, bare(got.err).Error()
		}
		list = append(list, lv)
	}
	return list
}

func isPool(kind string) bool {
	return kind == "thin-pool" || kind == "cache-pool" || kind == "vdo-pool"
}

// typeOf names a volume's type as lvs does.
func typeOf(l *logical) string {
	if len(l.segments) == 0 {
		return "empty"
	}
	s := l.segments[0]
	if n, err := s.optional("stripe_count", math.MaxInt32, 1); s.kind == "striped" && err == nil && n == 1 {
		return "linear"
	}
	return s.kind
}

// volume builds a volume of the metadata by its name, once.
func (b *builder) volume(name string) *built {
	v := b.built[name]
	switch {
	case v != nil && v.done:
		b.inherit(v)
		return v
	case v != nil:
		return &built{err: fmt.Errorf("volume %s is made of itself: %w", name, filesys.ErrCorrupt)}
	case len(b.stack) == maxNesting:
		return &built{err: fmt.Errorf("volume %s: volumes are nested too deeply: %w", name, filesys.ErrUnsupported)}
	}
	v = &built{}
	b.built[name] = v
	b.stack = append(b.stack, v)
	v.dev, v.err = b.make(name)
	b.stack = b.stack[:len(b.stack)-1]
	if v.depth >= maxNesting && v.err == nil {
		v.dev, v.err = nil, fmt.Errorf("volume %s: volumes are nested too deeply: %w", name, filesys.ErrUnsupported)
	}
	v.done = true
	b.inherit(v)
	return v
}

func (b *builder) make(name string) (blockdev.Device, error) {
	l := b.lvByName[name]
	if l == nil {
		return nil, fmt.Errorf("there is no volume %s: %w", name, filesys.ErrCorrupt)
	}
	if len(l.segments) == 0 {
		return nil, fmt.Errorf("volume %s has no segments: %w", name, filesys.ErrCorrupt)
	}
	parts := make([]blockdev.Device, 0, len(l.segments))
	for i := range l.segments {
		s := &l.segments[i]
		d, err := b.segment(l, s)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
		n := s.count * b.extentSize
		if d.Size() < n {
			return nil, fmt.Errorf("volume %s: segment at extent %d needs %d bytes and has %d: %w", name, s.start, n, d.Size(), filesys.ErrCorrupt)
		}
		if d.Size() > n {
			d = blockdev.Section(d, 0, n)
		}
		parts = append(parts, d)
	}
	return raid.Concat(parts), nil
}

// segment makes the device of a segment.
func (b *builder) segment(l *logical, s *segment) (blockdev.Device, error) {
	switch s.kind {
	case "striped", "linear":
		return b.striped(s)
	case "mirror":
		d, err := b.mirror(s)
		if err == nil {
			err = b.nest()
		}
		return d, err
	case "thin":
		return b.thin(s)
	case "cache":
		return b.cache(s)
	case "error":
		return &failing{size: s.count * b.extentSize}, nil
	case "zero":
		return zeros(s.count * b.extentSize), nil
	case "thin-pool", "cache-pool", "vdo-pool":
		return nil, fmt.Errorf("a pool, whose space belongs to the volumes in it: %w", filesys.ErrUnsupported)
	case "snapshot":
		return nil, fmt.Errorf("the connection of a snapshot and its origin: %w", filesys.ErrUnsupported)
	}
	if _, known := raidTypes[s.kind]; known {
		d, err := b.raid(l, s)
		if err == nil && raidTypes[s.kind].level != 0 {
			err = b.nest()
		}
		return d, err
	}
	return nil, fmt.Errorf("segments of type %q: %w", s.str("type"), filesys.ErrUnsupported)
}

// striped is what most volumes are: extents of one PV, or of several in turn.
func (b *builder) striped(s *segment) (blockdev.Device, error) {
	n, err := s.number("stripe_count", s.count)
	if err != nil || n == 0 || s.count%n != 0 {
		return nil, fmt.Errorf("segment of %d extents: %w", s.count, syntax("stripe_count does not divide it"))
	}
	areas, err := b.areas(s, "stripes", n, s.count/n)
	if err != nil {
		return nil, err
	}
	if n == 1 {
		return areas[0], nil
	}
	sectors, err := s.number("stripe_size", math.MaxUint32)
	if err != nil {
		return nil, err
	}
	c := raid.Config{Level: 0, Chunk: sectors * sectorSize, Size: s.count * b.extentSize}
	for _, a := range areas {
		c.Legs = append(c.Legs, raid.Leg{Dev: a, InSync: a.Size()})
	}
	return raid.New(c)
}

// areas resolves a list of names and first extents, each area having so many
// extents. It fails when one of them cannot be used.
func (b *builder) areas(s *segment, list string, n, extents int64) ([]blockdev.Device, error) {
	e := s.find(list)
	if e == nil || int64(len(e.list)) != 2*n {
		return nil, syntax(list + " is not a list of as many areas as the segment has")
	}
	var areas []blockdev.Device
	for i := int64(0); i < 2*n; i += 2 {
		name, start := e.list[i], e.list[i+1]
		if name.number || !start.number {
			return nil, syntax(list + " is not a list of names and numbers")
		}
		d, err := b.area(name.s, start.n, extents)
		if err != nil {
			return nil, err
		}
		areas = append(areas, d)
	}
	return areas, nil
}

// area is a run of extents of a PV or of another volume.
func (b *builder) area(name string, start, extents int64) (blockdev.Device, error) {
	if start < 0 || start > maxExtents {
		return nil, syntax("an area starts at an impossible extent")
	}
	if p := b.pvByKey[name]; p != nil {
		if start > p.extents || extents > p.extents-start {
			return nil, fmt.Errorf("extents %d to %d of physical volume %s, which has %d: %w", start, start+extents, formatUUID(p.id), p.extents, filesys.ErrCorrupt)
		}
		d := b.pvs[name]
		if d == nil {
			return nil, b.lost[name]
		}
		from, n := p.start+start*b.extentSize, extents*b.extentSize
		if from > d.Size() || n > d.Size()-from {
			return nil, fmt.Errorf("bytes %d to %d of physical volume %s, which has %d: %w", from, from+n, formatUUID(p.id), d.Size(), filesys.ErrCorrupt)
		}
		return blockdev.Section(d, from, n), nil
	}
	v := b.volume(name)
	if v.err != nil {
		return nil, v.err
	}
	if start > v.dev.Size()/b.extentSize || extents > v.dev.Size()/b.extentSize-start {
		return nil, fmt.Errorf("extents %d to %d of volume %s are beyond its end: %w", start, start+extents, name, filesys.ErrCorrupt)
	}
	return blockdev.Section(v.dev, start*b.extentSize, extents*b.extentSize), nil
}
