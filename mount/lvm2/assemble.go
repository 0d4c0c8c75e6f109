package lvm2

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// Assemble makes volume groups of all PVs of a point. PVs that belong to no group
// are in none. The order of the groups is that of their first PV.
func Assemble(pvs []*PV) []*VG {
	a := assembly{byID: map[string][]*PV{}, newest: map[string]*text{}, claims: map[string]int{}, split: map[string]bool{}}
	for _, pv := range pvs {
		a.byID[pv.label.uuid] = append(a.byID[pv.label.uuid], pv)
		t := pv.newest()
		if t == nil {
			continue
		}
		best := a.newest[t.id]
		switch {
		case best == nil:
			a.order = append(a.order, t.id)
			a.newest[t.id] = t
		case t.seqno > best.seqno:
			a.newest[t.id], a.split[t.id] = t, false
		case t.seqno == best.seqno && (t.sum != best.sum || t.name != best.name):
			a.split[t.id] = true
		}
	}
	// Texts may be large: there is one in memory at a time, and what is kept of
	// it are copies.
	for _, id := range a.order {
		if g, err := a.newest[id].load(); err == nil {
			for _, p := range g.pvs {
				a.claims[strings.Clone(p.id)]++
			}
		}
	}
	var vgs []*VG
	names := map[string]int{}
	for _, id := range a.order {
		t := a.newest[id]
		vg := &VG{Name: t.name, UUID: formatUUID(t.id)}
		vgs = append(vgs, vg)
		names[vg.Name]++
		g, err := t.load()
		if err != nil {
			vg.Warnings = append(vg.Warnings, err.Error())
			continue
		}
		a.fill(vg, g)
	}
	for _, vg := range vgs {
		if names[vg.Name] > 1 {
			vg.Warnings = append(vg.Warnings, fmt.Sprintf("%d volume groups are called %s; this is the one with UUID %s", names[vg.Name], vg.Name, vg.UUID))
		}
	}
	return vgs
}

type assembly struct {
	byID   map[string][]*PV
	newest map[string]*text // of each group, by its id
	split  map[string]bool  // groups with two texts of the same number
	claims map[string]int   // how many groups list a PV
	order  []string         // of groups
}

// fill makes the volumes of a group.
func (a *assembly) fill(vg *VG, g *group) {
	b := &builder{group: g, pvs: map[string]blockdev.Device{}, lost: map[string]error{}, built: map[string]*built{}, blocks: newBlockCache(), runs: new(atomic.Int64)}
	listed := map[string]bool{}
	for i := range g.pvs {
		p := &g.pvs[i]
		listed[p.id] = true
		pv, err := a.find(p, g)
		if err != nil {
			b.lost[p.key] = err
			hint := ""
			if p.device != "" {
				hint = " (once at " + p.device + ")"
			}
			vg.Missing = append(vg.Missing, fmt.Sprintf("%s%s: %v", formatUUID(p.id), hint, bare(err)))
			continue
		}
		vg.PVs = append(vg.PVs, pv)
		b.pvs[p.key] = pv.Device
		for _, w := range pv.Warnings {
			vg.Warnings = append(vg.Warnings, fmt.Sprintf("physical volume %s: %s", pv.UUID, w))
		}
		if t := pv.newest(); t != nil && t.seqno < g.seqno {
			vg.Warnings = append(vg.Warnings, fmt.Sprintf("physical volume %s has metadata of an earlier state of the group (%d, the newest is %d)", pv.UUID, t.seqno, g.seqno))
		}
	}
	var strangers []string
	for id, pvs := range a.byID {
		for _, pv := range pvs {
			if t := pv.newest(); t != nil && t.id == g.id && !listed[id] {
				strangers = append(strangers, pv.UUID)
			}
		}
	}
	slices.Sort(strangers)
	for _, uuid := range strangers {
		vg.Warnings = append(vg.Warnings, fmt.Sprintf("physical volume %s was part of this group and is no more", uuid))
	}
	if a.split[g.id] {
		b.refused = fmt.Errorf("the disks have two different descriptions of the group, both with number %d: %w", g.seqno, filesys.ErrUnsupported)
		vg.Warnings = append(vg.Warnings, bare(b.refused).Error())
	}
	vg.LVs = b.volumes()
}

// find gives the one PV that a group means.
func (a *assembly) find(p *physical, g *group) (*PV, error) {
	found := a.byID[p.id]
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("physical volume %s is missing: %w", formatUUID(p.id), errMissing)
	case len(found) > 1:
		return nil, fmt.Errorf("physical volume %s is there %d times (a cloned disk?), and nothing tells which one is meant: %w", formatUUID(p.id), len(found), errMissing)
	case p.missing:
		return nil, fmt.Errorf("physical volume %s was away when the group was changed, its data may be old: %w", formatUUID(p.id), errMissing)
	}
	t := found[0].newest()
	if t != nil && t.id != g.id {
		return nil, fmt.Errorf("physical volume %s belongs to another group now, %s: %w", formatUUID(p.id), t.name, errMissing)
	}
	if t == nil && a.claims[p.id] > 1 {
		return nil, fmt.Errorf("physical volume %s is claimed by several groups: %w", formatUUID(p.id), errMissing)
	}
	return found[0], nil
}

// errMissing marks what is not there, as opposed to damaged.
var errMissing = fmt.Errorf("cannot be used: %w", filesys.ErrUnsupported)

// bare cuts the sentinel off an error that is shown to people.
func bare(err error) error {
	s := err.Error()
	for _, end := range []error{errMissing, filesys.ErrUnsupported, filesys.ErrCorrupt} {
		s = strings.TrimSuffix(s, ": "+end.Error())
	}
	return fmt.Errorf("%s", s)
}
