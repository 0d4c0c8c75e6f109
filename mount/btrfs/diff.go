package btrfs

import (
	"bytes"

	"cairn/mount/filesys"
)

// ChangedInodes compares the trees of both states node by node: what has the
// same address and generation in both is equal and is not read. So it costs what
// has changed; the ranges are not needed.
//
// Both must show the same subvolume. Of a subvolume that only one of them has,
// every inode is named.
func (f *FS) ChangedInodes(other filesys.FS, _ []filesys.Range, fn func(ino uint64) bool) error {
	o, ok := other.(*FS)
	switch {
	case !ok || o.v.super.fsid != f.v.super.fsid || o.v.super.metaID != f.v.super.metaID:
		return unsupported("compare with another file system")
	case o.v.super.nodeSize != f.v.super.nodeSize || o.v.super.sums != f.v.super.sums:
		return unsupported("compare with another geometry")
	case o.top.id != f.top.id:
		return unsupported("compare subvolume %d with %d", f.top.id, o.top.id)
	}
	stopped := false
	d := &differ{f: f, emit: func(ino uint64) bool {
		stopped = !fn(ino)
		return !stopped
	}}
	// Every tree that has a root item in either.
	err := d.trees(topLevelID, f.v, o.v)
	a, b := f.v.subvolumeIDs(), o.v.subvolumeIDs()
	for err == nil && !stopped {
		id, ok, nextErr := nextOf(a, b)
		if nextErr != nil || !ok {
			return nextErr
		}
		err = d.trees(id, f.v, o.v)
	}
	if stopped {
		return nil
	}
	return err
}

// idSource gives the numbers of subvolumes in ascending order.
type idSource struct {
	v    *volume
	next uint64
	done bool
}

func (v *volume) subvolumeIDs() *idSource { return &idSource{v: v, next: firstFreeID} }

// peek gives the first number that is not below next.
func (s *idSource) peek() (uint64, bool, error) {
	for !s.done {
		c, err := s.v.rootTree.seek(key{s.next, typeRoot, 0})
		if err != nil {
			return 0, false, err
		}
		if !c.ok || c.k.obj > lastFreeID {
			s.done = true
			break
		}
		if c.k.typ == typeRoot {
			return c.k.obj, true, nil
		}
		s.next = c.k.obj
		if c.k.typ > typeRoot {
			s.next++
		}
	}
	return 0, false, nil
}

func nextOf(a, b *idSource) (uint64, bool, error) {
	x, okX, err := a.peek()
	if err != nil {
		return 0, false, err
	}
	y, okY, err := b.peek()
	if err != nil || !okX && !okY {
		return 0, false, err
	}
	if !okX || okY && y < x {
		x = y
	}
	a.next, b.next = x+1, x+1
	return x, true, nil
}

// differ walks two trees in step.
type differ struct {
	f    *FS
	emit func(ino uint64) bool
	tree uint64
	last uint64 // the object that was named last
}

// trees compares subvolume id in both states.
func (d *differ) trees(id uint64, a, b *volume) error {
	d.tree, d.last = id, 0
	x, err := a.tree(id)
	if err != nil && !isNotExist(err) {
		return err
	}
	y, err := b.tree(id)
	if err != nil && !isNotExist(err) {
		return err
	}
	if x == nil && y == nil {
		return nil
	}
	// What a log changes is not in the nodes.
	for _, t := range []*tree{x, y} {
		if t == nil {
			continue
		}
		it := t.over.seek(key{})
		for item := it.item(); item != nil; item = it.item() {
			if more, err := d.changed(item.k); err != nil || !more {
				return err
			}
			it.next()
		}
	}
	if x != nil && y != nil && x.root == y.root {
		return nil
	}
	p, q := newStepper(x), newStepper(y)
	for {
		more, err := d.step(p, q)
		if err != nil || !more {
			return err
		}
	}
}

// changed names the inode of an item.
func (d *differ) changed(k key) (bool, error) {
	if k.obj < firstFreeID || k.obj > lastFreeID || k.obj == d.last {
		return true, nil
	}
	d.last = k.obj
	ino, err := d.f.number(d.tree, k.obj)
	if err != nil {
		return false, err
	}
	return d.emit(ino), nil
}

// step goes on by one node or item in one or both trees, and gives false at the
// end of both.
func (d *differ) step(p, q *stepper) (bool, error) {
	switch {
	case !p.ok && !q.ok:
		return false, nil
	case !q.ok:
		return d.alone(p)
	case !p.ok:
		return d.alone(q)
	case p.level > 0 && q.level > 0 && p.ref() == q.ref():
		p.skip()
		q.skip()
		return true, nil
	case p.level > q.level:
		// An item, or a smaller node, that is before all of the other's.
		if q.level == 0 && q.k.cmp(p.k) < 0 {
			return d.alone(q)
		}
		return true, p.descend()
	case q.level > p.level:
		if p.level == 0 && p.k.cmp(q.k) < 0 {
			return d.alone(p)
		}
		return true, q.descend()
	case p.level > 0:
		c := p.k.cmp(q.k)
		if c <= 0 {
			if err := p.descend(); err != nil {
				return false, err
			}
		}
		if c >= 0 {
			return true, q.descend()
		}
		return true, nil
	}
	switch c := p.k.cmp(q.k); {
	case c < 0:
		return d.alone(p)
	case c > 0:
		return d.alone(q)
	}
	more, err := true, error(nil)
	if !bytes.Equal(p.data(), q.data()) {
		more, err = d.changed(p.k)
	}
	p.skip()
	q.skip()
	return more, err
}

// alone goes on in one of the trees, where the other has nothing.
func (d *differ) alone(p *stepper) (bool, error) {
	if p.level > 0 {
		return true, p.descend()
	}
	k := p.k
	p.skip()
	return d.changed(k)
}

// stepper stands at a node that was not read yet (level above 0), or at an item.
type stepper struct {
	t     *tree
	nodes []*node // from the root down
	slots []int
	ok    bool
	level int // of the place: 1 stands above a leaf
	k     key
}

func newStepper(t *tree) *stepper {
	if t == nil {
		return &stepper{}
	}
	return &stepper{t: t, ok: true, level: int(t.root.level) + 1}
}

func (s *stepper) ref() ref {
	if len(s.nodes) == 0 {
		return s.t.root
	}
	i := len(s.nodes) - 1
	return s.nodes[i].child(s.slots[i])
}

func (s *stepper) data() []byte {
	i := len(s.nodes) - 1
	return s.nodes[i].item(s.slots[i])
}

// descend reads the node and goes to its first child or item.
func (s *stepper) descend() error {
	n, err := s.t.load(s.ref())
	if err != nil {
		return err
	}
	s.nodes, s.slots = append(s.nodes, n), append(s.slots, 0)
	s.settle()
	return nil
}

// skip goes to what follows the node or item, which may be higher up.
func (s *stepper) skip() {
	if len(s.nodes) == 0 {
		s.ok = false
		return
	}
	s.slots[len(s.slots)-1]++
	s.settle()
}

func (s *stepper) settle() {
	for {
		i := len(s.nodes) - 1
		if s.slots[i] < s.nodes[i].n {
			s.level, s.k = int(s.nodes[i].ref.level), s.nodes[i].key(s.slots[i])
			return
		}
		s.nodes, s.slots = s.nodes[:i], s.slots[:i]
		if i == 0 {
			s.ok = false
			return
		}
		s.slots[i-1]++
	}
}
