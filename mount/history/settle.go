package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"cairn/mount/filesys"
)

// Kind is what happened to a path.
type Kind string

// The kinds of changes, as they are printed.
const (
	Added   Kind = "A"
	Removed Kind = "D"
	Changed Kind = "M"
	Renamed Kind = "R"
)

// Change is one difference between two points.
type Change struct {
	Kind Kind
	Path string // in the tree of the later point; of what was removed, of the earlier
	From string // of what was renamed: its path in the earlier point
	What What   // of what was changed or renamed
	// Old and New are the attributes before and after, with the guest's own
	// inode number; nil where there is none.
	Old, New *filesys.Attr
}

// event is a name that only one of two states has.
type event struct {
	dir  uint64 // 0: path says it all
	sure bool   // the directory is the same one in both states
	name string
	ino  uint64
	path string
	attr filesys.Attr
	done bool
}

// pair is a path that both states have, whose file may differ.
type pair struct {
	path string // in the later state
	x, y uint64 // inodes
}

// ledger collects what the two states of a volume do not have in common, and
// makes changes of it.
type ledger struct {
	ctx     context.Context
	a, b    *volume
	cmp     *comparer
	removed []event
	added   []event
	pairs   []pair
	problem func(v *volume, path string, err error)
	out     []Change
	// looked remembers comparisons of inodes, of which hard links ask again.
	looked map[[2]uint64]look
}

type look struct {
	x, y filesys.Attr
	w    What
	err  error
}

// settle turns all that was collected into changes, ordered by path.
func (l *ledger) settle() error {
	for _, side := range []struct {
		v    *volume
		list []event
	}{{l.a, l.removed}, {l.b, l.added}} {
		n := newNamer(l.ctx, side.v.fs)
		for i := range side.list {
			if err := l.ctx.Err(); err != nil {
				return err
			}
			l.complete(n, side.v, &side.list[i])
		}
	}
	l.match(func(e *event) any { return [2]any{e.dir, e.name} }, func(e *event) bool { return e.sure }, l.replaced)
	l.match(func(e *event) any { return e.path }, func(*event) bool { return true }, l.replaced)
	l.match(func(e *event) any { return e.ino }, func(*event) bool { return true }, l.moved)
	for i := range l.removed {
		if e := &l.removed[i]; !e.done {
			l.out = append(l.out, Change{Kind: Removed, Path: l.a.path() + e.path, Old: &e.attr})
		}
	}
	for i := range l.added {
		if e := &l.added[i]; !e.done {
			l.out = append(l.out, Change{Kind: Added, Path: l.b.path() + e.path, New: &e.attr})
		}
	}
	for _, p := range l.pairs {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		l.pair(p)
	}
	l.out = collapse(l.out)
	slices.SortStableFunc(l.out, func(x, y Change) int { return cmp.Or(cmp.Compare(x.Path, y.Path), -cmp.Compare(x.Kind, y.Kind)) })
	return l.ctx.Err()
}

// complete fills in an event's path and attributes.
func (l *ledger) complete(n *namer, v *volume, e *event) {
	if e.dir != 0 {
		p, err := n.dir(e.dir)
		if err != nil {
			l.problem(v, fmt.Sprintf("%s/…/%s", v.path(), e.name), err)
			e.done = true
			return
		}
		e.path = p + "/" + e.name
	}
	if e.attr.Ino != 0 {
		return
	}
	var err error
	if e.attr, err = v.fs.Attr(e.ino); err != nil {
		l.problem(v, v.path()+e.path, err)
		e.attr = filesys.Attr{Ino: e.ino}
	}
}

// match pairs removed with added events of one key.
func (l *ledger) match(key func(*event) any, ok func(*event) bool, found func(x, y *event) bool) {
	by := map[any][]*event{}
	for i := range l.removed {
		if e := &l.removed[i]; !e.done && ok(e) {
			by[key(e)] = append(by[key(e)], e)
		}
	}
	for i := range l.added {
		y := &l.added[i]
		if y.done || !ok(y) {
			continue
		}
		list := by[key(y)]
		for k, x := range list {
			if found(x, y) {
				x.done, y.done = true, true
				by[key(y)] = slices.Delete(list, k, k+1)
				break
			}
		}
	}
}

// replaced: a name leads to another inode than before.
func (l *ledger) replaced(x, y *event) bool {
	if kind(x.attr) != kind(y.attr) {
		return false // the one is gone, the other is new
	}
	l.pairs = append(l.pairs, pair{y.path, x.ino, y.ino})
	return true
}

// moved: an inode has another name than before.
func (l *ledger) moved(x, y *event) bool {
	if !renamed(x.attr, y.attr) {
		return false
	}
	k := l.look(x.ino, y.ino)
	if k.err != nil {
		l.problem(l.b, l.b.path()+y.path, k.err)
	}
	l.out = append(l.out, Change{Kind: Renamed, Path: l.b.path() + y.path, From: l.a.path() + x.path, What: k.w, Old: &k.x, New: &k.y})
	return true
}

// pair compares what a path leads to.
func (l *ledger) pair(p pair) {
	k := l.look(p.x, p.y)
	path := l.b.path() + p.path
	switch {
	case k.err != nil:
		l.problem(l.b, path, k.err)
	case k.w&Type != 0:
		l.out = append(l.out, Change{Kind: Removed, Path: l.a.path() + p.path, Old: &k.x}, Change{Kind: Added, Path: path, New: &k.y})
	case k.w != 0:
		l.out = append(l.out, Change{Kind: Changed, Path: path, What: k.w, Old: &k.x, New: &k.y})
	}
}

// look compares inode x of the earlier state with y of the later one, contents
// included.
func (l *ledger) look(x, y uint64) look {
	k, ok := l.looked[[2]uint64{x, y}]
	if !ok {
		k = l.compare(x, y)
		l.looked[[2]uint64{x, y}] = k
	}
	return k
}

func (l *ledger) compare(x, y uint64) (k look) {
	var errX, errY error
	k.x, errX = l.a.fs.Attr(x)
	k.y, errY = l.b.fs.Attr(y)
	if k.err = errors.Join(errX, errY); k.err != nil {
		return k
	}
	k.w, k.err = differing(l.a.fs, k.x, l.b.fs, k.y)
	if k.err != nil || k.w&Type != 0 || kind(k.x) != filesys.TypeRegular {
		return k
	}
	if k.x.Size != k.y.Size {
		k.w |= Content
		return k
	}
	fx, errX := l.a.fs.Open(x)
	fy, errY := l.b.fs.Open(y)
	if errors.Is(errX, filesys.ErrUnsupported) && errors.Is(errY, filesys.ErrUnsupported) {
		// Encrypted, say: the guest wrote to it if it says so.
		if k.w&Mtime != 0 {
			k.w |= Content
		}
		return k
	}
	if k.err = errors.Join(errX, errY); k.err != nil {
		return k
	}
	same, err := l.cmp.same(fx, fy)
	if k.err = err; err == nil && !same {
		k.w |= Content
	}
	return k
}

// collapse takes out what only moved along with a directory: who walks both
// trees finds it gone from the one place and new in the other.
func collapse(list []Change) []Change {
	dirs := map[string]string{}
	for _, c := range list {
		if c.Kind == Renamed && isDir(*c.New) {
			dirs[c.From] = c.Path
		}
	}
	out := list[:0]
	for _, c := range list {
		if c.Kind == Renamed {
			if to, ok := dirs[path.Dir(c.From)]; ok && to+"/"+path.Base(c.From) == c.Path {
				if c.What == 0 {
					continue
				}
				c.Kind, c.From = Changed, ""
			}
		}
		out = append(out, c)
	}
	return out
}
