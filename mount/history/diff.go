package history

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"cairn/blockstore/block"
	"cairn/mount/filesys"
)

// Diff calls fn with everything that differs between two points of an item, a
// the earlier, ordered by path within each volume. below, if not empty, is a
// path in the tree (/volumes/vda1/etc): only what is there, or was, is told, and
// that a directory which it is in was renamed.
// An error of fn ends the comparison and is returned as it is.
func Diff(ctx context.Context, a, b *Point, below string, o Options, fn func(Change) error) error {
	d := &diffing{ctx: ctx, a: a, b: b, o: o, delta: newDelta(a, b)}
	return d.run(below, fn)
}

func (d *diffing) run(below string, fn func(Change) error) error {
	only := ""
	if below != "" && below != "/" {
		below = path.Clean(below)
		rest, ok := strings.CutPrefix(below, "/volumes")
		if !ok || rest != "" && rest[0] != '/' {
			return fmt.Errorf("%s: must be a path below /volumes: %w", below, filesys.ErrInvalid)
		}
		only, _, _ = strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	}
	pairs, err := d.pairs(only)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		list, err := d.volume(p[0], p[1])
		if err != nil {
			return err
		}
		for _, c := range list {
			if under(c.Path, below) || c.From != "" && (under(c.From, below) || under(below, c.From) || under(below, c.Path)) {
				if err := fn(c); err != nil {
					return err
				}
			}
		}
	}
	if d.incomplete {
		return ErrIncomplete
	}
	return nil
}

// under says whether p is dir or below it.
func under(p, dir string) bool {
	return dir == "" || dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}

// diffing is one comparison of two points.
type diffing struct {
	ctx        context.Context
	a, b       *Point
	o          Options
	delta      *delta
	incomplete bool
}

func (d *diffing) problem(v *volume, p string, err error) {
	d.incomplete = true
	if d.o.Problem != nil && d.ctx.Err() == nil {
		d.o.Problem(v.point.ID, p, err)
	}
}

// pairs puts the volumes of both points together, by name; what one of them
// does not have is nil.
func (d *diffing) pairs(only string) ([][2]*volume, error) {
	va, err := d.a.volumes(d.ctx, only)
	if err != nil {
		return nil, fmt.Errorf("point %s: %w", d.a.ID, err)
	}
	vb, err := d.b.volumes(d.ctx, only)
	if err != nil {
		return nil, fmt.Errorf("point %s: %w", d.b.ID, err)
	}
	if only != "" && len(va)+len(vb) == 0 {
		if err := errors.Join(d.a.lost(d.ctx), d.b.lost(d.ctx)); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("volume %s: %w", only, filesys.ErrNotExist)
	}
	var pairs [][2]*volume
	for _, y := range vb {
		p := [2]*volume{nil, y}
		if i := slices.IndexFunc(va, func(x *volume) bool { return x.name == y.name }); i >= 0 {
			p[0] = va[i]
			va = slices.Delete(va, i, i+1)
		}
		pairs = append(pairs, p)
	}
	for _, x := range va {
		pairs = append(pairs, [2]*volume{x, nil})
	}
	return pairs, nil
}

// volume compares two states of a volume; a missing one is nil.
func (d *diffing) volume(a, b *volume) ([]Change, error) {
	var changed []filesys.Range
	known := false
	for _, x := range []struct {
		v, other *volume
		point    *Point
	}{{a, b, d.a}, {b, a, d.b}} {
		if x.v != nil {
			continue
		}
		if err := x.point.lost(d.ctx); err != nil {
			d.problem(&volume{point: x.point}, x.other.path(), fmt.Errorf("whether it was there is not known: %w", err))
			return nil, nil
		}
	}
	switch {
	case a == nil || b == nil:
	case a.dev != nil && b.dev != nil:
		var err error
		changed, err = d.delta.volume(d.ctx, a, b)
		if errors.Is(err, errNoPlace) || errors.Is(err, block.ErrCorrupt) { // of a map's page
			if d.delta.nothing() {
				return nil, nil
			}
			changed = nil // both trees are walked
			break
		}
		if err != nil {
			return nil, fmt.Errorf("changes of %s: %w", b.path(), err)
		}
		if len(changed) == 0 {
			return nil, nil // readable or not: nothing happened there
		}
		known = true
	default:
		// Over several devices there is no telling what a change is one of.
		if d.delta.nothing() {
			return nil, nil
		}
		changed = []filesys.Range{{Len: 1 << 62}}
	}
	for _, v := range []*volume{a, b} {
		if v != nil && v.fs == nil {
			d.problem(v, v.path(), fmt.Errorf("what changed there is not known: %w", v.err))
			return nil, nil
		}
	}
	l := &ledger{ctx: d.ctx, a: a, b: b, problem: d.problem, cmp: &comparer{ctx: d.ctx}, looked: map[[2]uint64]look{}}
	if known {
		l.cmp.changed = func(off, n int64) (list []filesys.Range, _ error) {
			within(changed, off, n, func(off, n int64) { list = add(list, off, n) })
			return list, nil
		}
	}
	switch {
	case a == nil:
		l.a = &volume{point: d.a, name: b.name, fs: nothing{}}
	case b == nil:
		l.b = &volume{point: d.b, name: a.name, fs: nothing{}}
	}
	err := errWalk
	differ, tells := l.b.fs.(filesys.Differ)
	if tells && changed != nil && !d.o.Walk {
		err = l.inodes(differ, changed)
	}
	if errors.Is(err, errWalk) {
		l.removed, l.added, l.pairs = nil, nil, nil
		// Formats that cannot tell keep times of two seconds, and no change times.
		err = l.walk(known && (d.o.Walk || !tells))
	}
	if err == nil {
		err = l.settle()
	}
	if err != nil {
		return nil, fmt.Errorf("compare %s: %w", l.b.path(), err)
	}
	return l.out, nil
}

// errWalk: the trees have to be walked.
var errWalk = errors.New("the inodes cannot be compared by themselves")

// nothing is the file system of a volume that is not there.
type nothing struct{ filesys.FS }

func (nothing) Root() uint64 { return 0 }
func (nothing) Attr(uint64) (filesys.Attr, error) {
	return filesys.Attr{}, filesys.ErrNotExist
}
