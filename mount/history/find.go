package history

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// Query says what Find looks for. What is not set matches everything.
type Query struct {
	Name Pattern // of the last element of the path
	// Path matches the whole path, either inside the guest (/etc/hosts) or in the
	// tree of the point (/volumes/vda1/etc/hosts).
	Path Pattern
	Type uint32 // S_IFMT bits
}

// Hit is a path that Find found.
type Hit struct {
	Path string // in the tree of a point: /volumes/vda1/etc/hosts
	// Attr is what it was in the last point that has it, with the guest's inode number.
	Attr filesys.Attr
	// First and Last are the first and the last point that have it, Points is how
	// many have it: fewer than there are from First to Last if it came back.
	First, Last Ref
	Points      int
}

// matches says whether something of a volume, at p in it, is asked for.
func (q Query) matches(v *volume, p string, a filesys.Attr) bool {
	if p == "" { // the root of a volume has no name
		return false
	}
	return q.Name.Match(path.Base(p)) && (q.Type == 0 || kind(a) == q.Type) &&
		(q.Path.Match(p) || q.Path.Match(v.path()+p))
}

// mayMatch says so without knowing the attributes; typ may be 0.
func (q Query) mayMatch(v *volume, p string, typ uint32) bool {
	return (typ == 0 || q.Type == 0 || typ == q.Type) && q.Name.Match(path.Base(p)) && (q.Path.Match(p) || q.Path.Match(v.path()+p))
}

// Find looks for names in all points of an item and calls fn with each path that
// matches once, ordered by path. Of the first point the trees are walked; of each
// further one only what differs from the point before. Memory grows with the
// number of paths that match. An error of fn ends the search.
func Find(ctx context.Context, item Item, q Query, o Options, fn func(Hit) error) error {
	f := &finder{ctx: ctx, item: item, q: q, o: o, hits: map[string]*hit{}, last: map[string]*volume{}, points: map[*Point]int{}, said: map[string]bool{}}
	defer f.close()
	for i := range item.Refs {
		if err := f.point(i); err != nil {
			return err
		}
	}
	f.at = len(item.Refs)
	var paths []string
	for p := range f.hits {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		h := f.hits[p]
		if h.since >= 0 {
			f.end(h)
		}
		if err := fn(h.Hit); err != nil {
			return err
		}
	}
	if f.incomplete {
		return ErrIncomplete
	}
	return nil
}

// FindIn looks for names in one point and calls fn with each as it is found.
func FindIn(ctx context.Context, p *Point, q Query, o Options, fn func(Hit) error) error {
	ref := Ref{p.ID, p.Time}
	f := &finder{ctx: ctx, item: Item{Refs: []Ref{ref}}, q: q, o: o}
	vols, err := p.volumes(ctx, "")
	if err != nil {
		return fmt.Errorf("point %s: %w", p.ID, err)
	}
	for _, v := range vols {
		if v.fs == nil {
			f.problem(v, v.path(), v.err)
			continue
		}
		if err := f.walk(v, v.fs.Root(), "", func(p string, a filesys.Attr) error {
			return fn(Hit{Path: v.path() + p, Attr: a, First: ref, Last: ref, Points: 1})
		}); err != nil {
			return err
		}
	}
	if f.incomplete {
		return ErrIncomplete
	}
	return nil
}

type hit struct {
	Hit
	since int // the point from which on it has been there, -1 when it is gone
}

// finder goes through the points of an item.
type finder struct {
	ctx  context.Context
	item Item
	q    Query
	o    Options
	at   int // index of the point that is looked at
	hits map[string]*hit
	// last is the newest state of each volume that could be read: what a later
	// point is compared with. points counts the volumes that keep a point open.
	last       map[string]*volume
	points     map[*Point]int
	incomplete bool
	said       map[string]bool // why volumes cannot be read
}

func (f *finder) close() {
	for p := range f.points {
		_ = p.Tree.Close() // leases run out by themselves
	}
}

func (f *finder) problem(v *volume, p string, err error) {
	f.incomplete = true
	if f.o.Problem != nil && f.ctx.Err() == nil {
		f.o.Problem(v.point.ID, p, err)
	}
}

// keep makes v the state that the next point is compared with.
func (f *finder) keep(name string, v *volume) {
	if old := f.last[name]; old != nil {
		if f.points[old.point]--; f.points[old.point] == 0 {
			delete(f.points, old.point)
			_ = old.point.Tree.Close()
		}
		delete(f.last, name)
	}
	if v != nil {
		f.last[name] = v
		f.points[v.point]++
	}
}

// point brings the hits up to the next point.
func (f *finder) point(i int) error {
	f.at = i
	p, err := f.item.Open(f.ctx, i)
	if err != nil {
		return fmt.Errorf("open point %s: %w", f.item.Refs[i].ID, err)
	}
	f.points[p]++
	defer func() {
		if f.points[p]--; f.points[p] == 0 {
			delete(f.points, p)
			_ = p.Tree.Close()
		}
	}()
	vols, err := p.volumes(f.ctx, "")
	if err != nil {
		return fmt.Errorf("point %s: %w", p.ID, err)
	}
	deltas := map[*Point]*delta{}
	there := map[string]bool{}
	for _, v := range vols {
		there[v.name] = true
		was := f.last[v.name]
		if v.fs == nil {
			// It may hold what it held: its hits stay until it can be read again.
			if reason := v.name + ": " + v.err.Error(); !f.said[reason] {
				f.said[reason] = true
				f.problem(v, v.path(), v.err)
			}
			continue
		}
		if was == nil {
			if err := f.enter(v, v.fs.Root(), ""); err != nil {
				return err
			}
		} else if err := f.step(deltas, was, v); err != nil {
			return err
		}
		f.keep(v.name, v)
	}
	if p.lost(f.ctx) != nil {
		return nil // its volumes may be there; that it was not read is said
	}
	for name, v := range f.last {
		if !there[name] {
			f.leave(v.path() + "/")
			f.keep(name, nil)
		}
	}
	return nil
}

// step brings the hits of a volume from one state to a later one.
func (f *finder) step(deltas map[*Point]*delta, was, v *volume) error {
	if deltas[was.point] == nil {
		deltas[was.point] = newDelta(was.point, v.point)
	}
	d := &diffing{ctx: f.ctx, a: was.point, b: v.point, o: f.o, delta: deltas[was.point]}
	list, err := d.volume(was, v)
	if err != nil {
		return err
	}
	f.incomplete = f.incomplete || d.incomplete
	// First what went, then what came: a name may have gone from one to another.
	for _, c := range list {
		switch {
		case c.Kind == Removed:
			f.gone(c.Path)
		case c.Kind == Renamed && isDir(*c.Old):
			f.gone(c.From)
			f.leave(c.From + "/")
		case c.Kind == Renamed:
			f.gone(c.From)
		}
	}
	for _, c := range list {
		inside := strings.TrimPrefix(c.Path, v.path())
		switch {
		case c.Kind == Removed:
			continue
		case c.Kind == Renamed && isDir(*c.New):
			if err := f.enter(v, c.New.Ino, inside); err != nil {
				return err
			}
		}
		if f.q.matches(v, inside, *c.New) {
			f.here(c.Path, *c.New)
		}
	}
	return nil
}

// here notes that the current point has a path.
func (f *finder) here(p string, a filesys.Attr) {
	h := f.hits[p]
	if h == nil {
		h = &hit{since: -1}
		h.Path, h.First = p, f.item.Refs[f.at]
		f.hits[p] = h
	}
	if h.since < 0 {
		h.since = f.at
	}
	h.Attr = a
}

// gone notes that the current point does not have a path any more.
func (f *finder) gone(p string) {
	if h := f.hits[p]; h != nil && h.since >= 0 {
		f.end(h)
	}
}

// end closes a row of points that have the path, before the current one.
func (f *finder) end(h *hit) {
	h.Points += f.at - h.since
	h.since = -1
	h.Last = f.item.Refs[f.at-1]
}

// leave notes that nothing below a prefix is there any more.
func (f *finder) leave(prefix string) {
	for p, h := range f.hits {
		if h.since >= 0 && strings.HasPrefix(p, prefix) {
			f.end(h)
		}
	}
}

// enter notes everything below a directory of the current point.
func (f *finder) enter(v *volume, ino uint64, p string) error {
	return f.walk(v, ino, p, func(p string, a filesys.Attr) error {
		f.here(v.path()+p, a)
		return nil
	})
}

// walk calls fn with what matches below a directory.
func (f *finder) walk(v *volume, ino uint64, p string, fn func(p string, a filesys.Attr) error) error {
	w := &searching{finder: f, v: v, fn: fn, met: map[uint64]bool{}}
	return w.dir(ino, p, 0)
}

type searching struct {
	*finder
	v   *volume
	fn  func(p string, a filesys.Attr) error
	met map[uint64]bool
}

// batch is how many entries of a directory are taken before they are looked at.
const batch = 1024

func (w *searching) dir(ino uint64, p string, depth int) error {
	switch {
	case w.met[ino]:
		w.problem(w.v, w.v.path()+p, fmt.Errorf("directory with two names: %w", filesys.ErrCorrupt))
		return nil
	case depth > tree.MaxDepth:
		w.problem(w.v, w.v.path()+p, fmt.Errorf("directories nested deeper than %d: %w", tree.MaxDepth, filesys.ErrCorrupt))
		return nil
	}
	w.met[ino] = true
	var entries []filesys.DirEntry
	for cookie := uint64(0); ; {
		entries = entries[:0]
		err := w.v.fs.ReadDir(ino, cookie, func(e filesys.DirEntry) bool {
			entries = append(entries, e)
			return len(entries) < batch
		})
		full := len(entries) == batch
		for _, e := range entries {
			if err := w.ctx.Err(); err != nil {
				return err
			}
			cookie = e.Next
			if err := w.entry(e, p+"/"+e.Name, depth); err != nil {
				return err
			}
		}
		if err != nil {
			w.problem(w.v, w.v.path()+p, err)
			return nil
		}
		if !full {
			return nil
		}
	}
}

// entry looks at the attributes only of what may match, or may be a directory.
func (w *searching) entry(e filesys.DirEntry, p string, depth int) error {
	match := w.q.mayMatch(w.v, p, e.Type)
	typ := e.Type
	if match || typ == 0 {
		a, err := w.v.fs.Attr(e.Ino)
		switch {
		case errors.Is(err, filesys.ErrNotExist):
			err = fmt.Errorf("its inode %d is not in use: %w", e.Ino, filesys.ErrCorrupt)
			fallthrough
		case err != nil:
			w.problem(w.v, w.v.path()+p, err)
			return nil
		}
		typ = kind(a)
		if w.q.matches(w.v, p, a) {
			if err := w.fn(p, a); err != nil {
				return err
			}
		}
	}
	if typ == filesys.TypeDir {
		return w.dir(e.Ino, p, depth+1)
	}
	return nil
}
