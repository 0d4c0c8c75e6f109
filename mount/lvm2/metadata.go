package lvm2

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"cairn/mount/filesys"
)

// group is the description of a volume group.
type group struct {
	name, id   string
	seqno      int64
	extentSize int64 // bytes
	pvs        []physical
	lvs        []logical
	pvByKey    map[string]*physical // "pv0", as segments name them
	lvByName   map[string]*logical
}

// physical is a PV as the group knows it.
type physical struct {
	key, id string
	device  string // where it once was
	start   int64  // bytes from the start of the PV to the first extent
	extents int64
	missing bool // it was away when the group was changed: its data may be old
}

// logical is a volume.
type logical struct {
	name, id string
	visible  bool
	flags    *section
	segments []segment // in order, without gaps
	extents  int64
}

// segment is a run of extents of a volume. What else it has depends on its type.
type segment struct {
	start, count int64 // extents
	kind         string
	*section
}

// maxExtents bounds extents so that bytes fit in 63 bits.
const maxExtents = math.MaxUint32

// parseGroup finds the group in a text: the one section of the top level.
func parseGroup(s *section) (*group, error) {
	var top *entry
	for i := range s.entries {
		if e := &s.entries[i]; e.sub != nil {
			if top != nil {
				return nil, syntax("more than one volume group")
			}
			top = e
		}
	}
	if top == nil {
		return nil, syntax("no volume group")
	}
	if c := s.str("contents"); c != "" && c != "Text Format Volume Group" {
		return nil, fmt.Errorf("metadata of type %q: %w", c, filesys.ErrUnsupported)
	}
	g := &group{name: top.name, pvByKey: map[string]*physical{}, lvByName: map[string]*logical{}}
	v := top.sub
	if g.id = rawUUID(v.str("id")); g.id == "" {
		return nil, syntax("the group has no id")
	}
	var err error
	if g.seqno, err = v.number("seqno", math.MaxInt64); err != nil {
		return nil, err
	}
	size, err := v.number("extent_size", math.MaxUint32)
	if err != nil || size == 0 {
		return nil, syntax("extent_size is missing or not a number in its range")
	}
	// Extents are 32-bit numbers and at most 2 TiB long: their product may
	// exceed what 63 bits hold, so each volume is checked.
	g.extentSize = size * sectorSize
	for _, e := range v.sub("physical_volumes").entries {
		if err := g.addPV(e); err != nil {
			return nil, fmt.Errorf("physical volume %s: %w", e.name, err)
		}
	}
	for _, e := range v.sub("logical_volumes").entries {
		if err := g.addLV(e); err != nil {
			return nil, fmt.Errorf("logical volume %s: %w", e.name, err)
		}
	}
	// The slices do not grow any more.
	for i := range g.pvs {
		g.pvByKey[g.pvs[i].key] = &g.pvs[i]
	}
	for i := range g.lvs {
		g.lvByName[g.lvs[i].name] = &g.lvs[i]
	}
	if len(g.pvByKey) != len(g.pvs) || len(g.lvByName) != len(g.lvs) {
		return nil, syntax("two volumes have one name")
	}
	return g, nil
}

func (g *group) addPV(e entry) error {
	if e.sub == nil {
		return syntax("no section")
	}
	p := physical{key: e.name, id: rawUUID(e.sub.str("id")), device: e.sub.str("device"), missing: e.sub.has("flags", "MISSING") || e.sub.has("status", "MISSING")}
	if p.id == "" {
		return syntax("it has no id")
	}
	start, err := e.sub.number("pe_start", math.MaxInt64/sectorSize)
	if err != nil {
		return err
	}
	p.start = start * sectorSize
	if p.extents, err = e.sub.number("pe_count", maxExtents); err != nil {
		return err
	}
	if p.extents > (math.MaxInt64-p.start)/g.extentSize {
		return syntax("it has too many extents")
	}
	g.pvs = append(g.pvs, p)
	return nil
}

func (g *group) addLV(e entry) error {
	if e.sub == nil {
		return syntax("no section")
	}
	l := logical{name: e.name, id: e.sub.str("id"), visible: e.sub.has("status", "VISIBLE"), flags: e.sub}
	for i := range e.sub.entries {
		se := &e.sub.entries[i]
		if se.sub == nil || !strings.HasPrefix(se.name, "segment") {
			continue
		}
		s := segment{section: se.sub, kind: kindOf(se.sub.str("type"))}
		var err error
		if s.start, err = s.number("start_extent", maxExtents); err != nil {
			return fmt.Errorf("%s: %w", se.name, err)
		}
		if s.count, err = s.number("extent_count", maxExtents); err != nil || s.count == 0 {
			return fmt.Errorf("%s: %w", se.name, syntax("extent_count is missing or not a number in its range"))
		}
		if err := s.withoutReshape(); err != nil {
			return fmt.Errorf("%s: %w", se.name, err)
		}
		l.segments = append(l.segments, s)
	}
	slices.SortStableFunc(l.segments, func(a, b segment) int { return int(a.start - b.start) })
	for _, s := range l.segments {
		if s.start != l.extents {
			return syntax("its segments leave gaps or overlap")
		}
		l.extents += s.count
	}
	if l.extents > math.MaxInt64/g.extentSize {
		return syntax("it has too many extents")
	}
	if want, err := e.sub.optional("segment_count", maxExtents, int64(len(l.segments))); err != nil || want != int64(len(l.segments)) {
		return syntax("segments are missing")
	}
	g.lvs = append(g.lvs, l)
	return nil
}

// withoutReshape corrects the length of a raid segment that was, or is to be,
// reshaped: it counts extents that each leg has for moving the data over.
func (s *segment) withoutReshape() error {
	extra, err := s.optional("reshape_count", maxExtents, 0)
	if t, ok := raidTypes[s.kind]; err != nil || extra == 0 || !ok {
		return err
	} else {
		n, err := s.number("device_count", 1024)
		if err != nil {
			return err
		}
		switch t.level {
		case 1:
			n = 1
		case 4, 5:
			n--
		case 6:
			n -= 2
		case 10:
			copies, err := s.optional("data_copies", 1024, 2)
			if err != nil || copies == 0 {
				return syntax("data_copies is not a number in its range")
			}
			n /= copies
		}
		if s.count -= extra * n; n < 1 || s.count <= 0 {
			return syntax("reshape_count is more than the segment has")
		}
	}
	return nil
}

// kindOf cuts off the flags that a type may carry for older versions of lvm
// ("thin-pool+ERROR_WHEN_FULL").
func kindOf(typ string) string {
	kind, _, _ := strings.Cut(typ, "+")
	return kind
}

// rawUUID takes the hyphens out of a UUID, and gives "" for what is none.
func rawUUID(s string) string {
	s = strings.ReplaceAll(s, "-", "")
	if len(s) != 32 {
		return ""
	}
	return s
}
