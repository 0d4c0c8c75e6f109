package history

import (
	"errors"
	"fmt"
	"slices"

	"cairn/mount/filesys"
)

// inodes collects the differences of two states of a volume whose reader can
// tell which inodes may differ.
//
// A directory that differs is listed on both sides, which gives the names that
// came and went; since every directory that is new or gone is itself among the
// inodes, so is everything below it. An inode that differs and has not come by
// such a name is looked for by name.
func (l *ledger) inodes(fs filesys.Differ, changed []filesys.Range) error {
	var list []uint64
	steps := 0
	err := fs.ChangedInodes(l.a.fs, changed, func(ino uint64) bool {
		list = append(list, ino)
		steps++
		return steps%1024 != 0 || l.ctx.Err() == nil
	})
	switch {
	case l.ctx.Err() != nil:
		return l.ctx.Err()
	case err != nil: // a walk says what of the trees cannot be read, and finds the rest
		return errWalk
	}
	slices.Sort(list)
	list = slices.Compact(list)
	want := wanted{}
	for i, ino := range list {
		if i%256 == 0 && l.ctx.Err() != nil {
			return l.ctx.Err()
		}
		if err := l.inode(ino, want); err != nil {
			return err
		}
	}
	return l.name(want)
}

// inode looks at one inode that may differ.
func (l *ledger) inode(ino uint64, want wanted) error {
	x, errX := l.a.fs.Attr(ino)
	y, errY := l.b.fs.Attr(ino)
	inUse := errX == nil || errY == nil
	for _, side := range []struct {
		v   *volume
		err error
	}{{l.a, errX}, {l.b, errY}} {
		switch {
		case side.err == nil || errors.Is(side.err, filesys.ErrNotExist):
		case inUse && errors.Is(side.err, filesys.ErrCorrupt):
			want[ino] = 1 // told with its path, if it has one
		default:
			l.problem(side.v, fmt.Sprintf("%s, inode %d", side.v.path(), ino), side.err)
			return nil
		}
	}
	id := other
	if errX == nil && errY == nil {
		id = identify(x, y)
	}
	if errX == nil && isDir(x) || errY == nil && isDir(y) {
		if err := l.entries(ino, errX == nil && isDir(x), errY == nil && isDir(y), id); err != nil {
			return err
		}
	}
	if errX != nil || errY != nil {
		return nil // its names came or went
	}
	k := l.look(ino, ino)
	if k.err == nil && k.w == 0 && id != other {
		return nil
	}
	want[ino] = 1
	if !isDir(y) {
		want[ino] = int(max(y.Nlink, 1))
	}
	return nil
}

// entries compares the entries of directory ino, which there may be on either
// side only.
func (l *ledger) entries(ino uint64, inA, inB bool, id identity) error {
	old := map[string]uint64{}
	if inA {
		if err := l.a.fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			old[e.Name] = e.Ino
			return true
		}); err != nil {
			l.problem(l.a, fmt.Sprintf("%s, directory %d", l.a.path(), ino), err)
			return nil
		}
	}
	same := inA && inB && id != other
	if inB {
		added := len(l.added)
		if err := l.b.fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			if was, ok := old[e.Name]; same && ok && was == e.Ino {
				delete(old, e.Name)
				return true
			}
			l.added = append(l.added, event{dir: ino, sure: same && id == sure, name: e.Name, ino: e.Ino})
			return true
		}); err != nil {
			l.added = l.added[:added]
			l.problem(l.b, fmt.Sprintf("%s, directory %d", l.b.path(), ino), err)
			return nil
		}
	}
	for name, was := range old {
		l.removed = append(l.removed, event{dir: ino, sure: same && id == sure, name: name, ino: was})
	}
	return l.ctx.Err()
}

// name finds the names of inodes that changed, but for those that are new.
func (l *ledger) name(want wanted) error {
	type key struct {
		dir  uint64
		name string
	}
	fresh, count := map[key]bool{}, map[uint64]int{}
	for _, e := range l.added {
		if _, ok := want[e.ino]; ok {
			fresh[key{e.dir, e.name}] = true
			count[e.ino]++
		}
	}
	for ino, n := range count {
		if n >= want[ino] {
			delete(want, ino)
		}
	}
	if len(want) == 0 {
		return nil
	}
	n := newNamer(l.ctx, l.b.fs)
	// Directories know the way up.
	for _, ino := range want.list() {
		if y, err := l.b.fs.Attr(ino); err != nil || !isDir(y) {
			continue
		}
		delete(want, ino)
		p, err := n.dir(ino)
		if err != nil {
			l.problem(l.b, fmt.Sprintf("%s, directory %d", l.b.path(), ino), err)
			continue
		}
		l.pairs = append(l.pairs, pair{p, ino, ino})
	}
	if len(want) == 0 {
		return nil
	}
	err := n.find(want, func(ino uint64, name filesys.Name) {
		if fresh[key{name.Parent, name.Name}] {
			return
		}
		p, err := n.dir(name.Parent)
		if err != nil {
			l.problem(l.b, fmt.Sprintf("%s/…/%s", l.b.path(), name.Name), err)
			return
		}
		l.pairs = append(l.pairs, pair{p + "/" + name.Name, ino, ino})
	})
	if l.ctx.Err() != nil {
		return l.ctx.Err()
	}
	for ino, left := range want {
		if err == nil {
			err = filesys.ErrCorrupt
		}
		l.problem(l.b, fmt.Sprintf("%s, inode %d", l.b.path(), ino), fmt.Errorf("%d of its names cannot be found: %w", left, err))
	}
	return nil
}
