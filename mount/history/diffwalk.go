package history

import (
	"errors"
	"fmt"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// walk collects the differences of two states of a volume by walking both
// trees in step. Files whose attributes are equal, change time and inode number
// included, are not looked into, unless that is wanted.
func (l *ledger) walk(all bool) error {
	w := &walker{ledger: l, all: all, met: [2]map[uint64]bool{{}, {}}}
	x, y := l.a.fs.Root(), l.b.fs.Root()
	_, isNothingA := l.a.fs.(nothing)
	_, isNothingB := l.b.fs.(nothing)
	switch {
	case isNothingA:
		return w.below(1, y, "", 0)
	case isNothingB:
		return w.below(0, x, "", 0)
	}
	l.pairs = append(l.pairs, pair{"", x, y})
	return w.dirs(x, y, "", 0)
}

type walker struct {
	*ledger
	all bool               // look into files that seem untouched
	met [2]map[uint64]bool // directories, of a and of b
}

func (w *walker) side(i int) *volume { return [2]*volume{w.a, w.b}[i] }

// list gives the entries of a directory by name; nil, after a report, if it
// cannot be read, or was met before.
func (w *walker) list(i int, ino uint64, p string, depth int) map[string]filesys.DirEntry {
	v := w.side(i)
	err := w.enter(i, ino, depth)
	list := map[string]filesys.DirEntry{}
	if err == nil {
		err = v.fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			list[e.Name] = e
			return w.ctx.Err() == nil
		})
	}
	if err != nil {
		w.problem(v, v.path()+p, err)
		return nil
	}
	return list
}

func (w *walker) enter(i int, ino uint64, depth int) error {
	switch {
	case w.met[i][ino]:
		return fmt.Errorf("directory with two names: %w", filesys.ErrCorrupt)
	case depth >= tree.MaxDepth:
		return fmt.Errorf("directories nested deeper than %d: %w", tree.MaxDepth, filesys.ErrCorrupt)
	}
	w.met[i][ino] = true
	return nil
}

// dirs compares directory x of a with directory y of b, both at p.
func (w *walker) dirs(x, y uint64, p string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	old, now := w.list(0, x, p, depth), w.list(1, y, p, depth)
	if old == nil || now == nil {
		return w.ctx.Err()
	}
	for name, e := range now {
		was, ok := old[name]
		if !ok {
			if err := w.only(1, e.Ino, p+"/"+name, depth+1); err != nil {
				return err
			}
			continue
		}
		delete(old, name)
		if err := w.both(was.Ino, e.Ino, p+"/"+name, depth+1); err != nil {
			return err
		}
	}
	for name, e := range old {
		if err := w.only(0, e.Ino, p+"/"+name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// both compares what stands at p on both sides.
func (w *walker) both(x, y uint64, p string, depth int) error {
	a, errA := w.a.fs.Attr(x)
	b, errB := w.b.fs.Attr(y)
	switch {
	case errA != nil:
		w.problem(w.a, w.a.path()+p, errA)
		return nil
	case errB != nil:
		w.problem(w.b, w.b.path()+p, errB)
		return nil
	case isDir(a) && isDir(b):
		w.pairs = append(w.pairs, pair{p, x, y})
		return w.dirs(x, y, p, depth)
	case isDir(a) || isDir(b) || kind(a) != kind(b):
		return errors.Join(w.only(0, x, p, depth), w.only(1, y, p, depth))
	case !w.all && untouched(a, b):
		return nil
	}
	w.pairs = append(w.pairs, pair{p, x, y})
	return nil
}

// untouched says whether everything that a kernel changes along with a file is
// as it was.
func untouched(a, b filesys.Attr) bool {
	return a.Ino == b.Ino && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Rdev == b.Rdev && a.Size == b.Size &&
		a.Blocks == b.Blocks && a.Mtime.Equal(b.Mtime) && a.Ctime.Equal(b.Ctime) && a.Btime.Equal(b.Btime)
}

// only collects what one side alone has at p, with everything below.
func (w *walker) only(i int, ino uint64, p string, depth int) error {
	v := w.side(i)
	a, err := v.fs.Attr(ino)
	if err != nil {
		w.problem(v, v.path()+p, err)
		return nil
	}
	e := event{path: p, ino: ino, attr: a}
	if i == 0 {
		w.removed = append(w.removed, e)
	} else {
		w.added = append(w.added, e)
	}
	if isDir(a) {
		return w.below(i, ino, p, depth)
	}
	return w.ctx.Err()
}

// below collects what is below a directory that one side alone has.
func (w *walker) below(i int, ino uint64, p string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	for name, e := range w.list(i, ino, p, depth) {
		if err := w.only(i, e.Ino, p+"/"+name, depth+1); err != nil {
			return err
		}
	}
	return nil
}
