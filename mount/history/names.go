package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// searcher is an FS whose inodes do not know their names, but that can look for
// them where they are likely to be. *ext4.FS is one.
type searcher interface {
	// SearchNames calls fn with the entries that name an inode of want, the
	// nearest directories first, until fn returns false or all were searched.
	SearchNames(want []uint64, fn func(ino uint64, n filesys.Name) bool) error
}

// namer finds paths in one state of a volume, from below.
type namer struct {
	ctx  context.Context
	fs   filesys.FS
	dirs map[uint64]string // paths of directories, "" for the root
	// listed has the subdirectories of directories that were searched for one.
	listed map[uint64]map[uint64]string
}

func newNamer(ctx context.Context, fs filesys.FS) *namer {
	return &namer{ctx: ctx, fs: fs, dirs: map[uint64]string{fs.Root(): ""}, listed: map[uint64]map[uint64]string{}}
}

// dir is the path of a directory, beginning with a slash, "" for the root.
func (n *namer) dir(ino uint64) (string, error) {
	var names []string // from below
	var inos []uint64
	at := ino
	for {
		if p, ok := n.dirs[at]; ok {
			for i := len(names) - 1; i >= 0; i-- {
				p += "/" + names[i]
				n.dirs[inos[i]] = p
			}
			return p, nil
		}
		if len(names) >= tree.MaxDepth {
			return "", fmt.Errorf("directory %d: more than %d directories above it: %w", ino, tree.MaxDepth, filesys.ErrCorrupt)
		}
		if err := n.ctx.Err(); err != nil {
			return "", err
		}
		parent, name, err := n.up(at)
		if err != nil {
			return "", fmt.Errorf("path of directory %d: %w", ino, err)
		}
		names, inos = append(names, name), append(inos, at)
		at = parent
	}
}

// up finds a directory in the one above it.
func (n *namer) up(ino uint64) (parent uint64, name string, err error) {
	if nm, ok := n.fs.(filesys.Namer); ok {
		if _, search := n.fs.(searcher); !search { // else it would be searched for again and again
			names, err := nm.Names(ino)
			if err == nil && len(names) > 0 {
				return names[0].Parent, names[0].Name, nil
			}
			if err != nil && !errors.Is(err, filesys.ErrUnsupported) {
				return 0, "", err
			}
		}
	}
	if parent, err = n.fs.Parent(ino); err != nil {
		return 0, "", err
	}
	list, ok := n.listed[parent]
	if !ok {
		list = map[uint64]string{}
		if err := n.fs.ReadDir(parent, 0, func(e filesys.DirEntry) bool {
			if e.Type == filesys.TypeDir || e.Type == 0 {
				list[e.Ino] = e.Name
			}
			return true
		}); err != nil {
			return 0, "", err
		}
		n.listed[parent] = list
	}
	name, ok = list[ino]
	if !ok {
		return 0, "", fmt.Errorf("directory %d is not in the one above it, %d: %w", ino, parent, filesys.ErrCorrupt)
	}
	return parent, name, nil
}

// wanted is how many names of each inode are still to be found.
type wanted map[uint64]int

// find calls fn with names of all inodes of want, and takes those found off it.
// What is left had fewer names than it said, or lies where nothing can be read.
func (n *namer) find(want wanted, fn func(ino uint64, name filesys.Name)) error {
	if nm, ok := n.fs.(filesys.Namer); ok {
		if _, search := n.fs.(searcher); !search {
			if err := n.ask(nm, want, fn); err != nil || len(want) == 0 {
				return err
			}
		}
	}
	found := func(ino uint64, name filesys.Name) bool {
		left, ok := want[ino]
		if !ok {
			return true
		}
		fn(ino, name)
		if left <= 1 {
			delete(want, ino)
		} else {
			want[ino] = left - 1
		}
		return len(want) > 0 && n.ctx.Err() == nil
	}
	if s, ok := n.fs.(searcher); ok && len(want) > 0 {
		if err := s.SearchNames(want.list(), found); err == nil || !errors.Is(err, filesys.ErrUnsupported) || len(want) == 0 {
			return errors.Join(err, n.ctx.Err())
		}
	}
	return n.walk(want, found)
}

func (w wanted) list() []uint64 {
	list := make([]uint64, 0, len(w))
	for ino := range w {
		list = append(list, ino)
	}
	slices.Sort(list)
	return list
}

// ask takes names from the inodes that know theirs.
func (n *namer) ask(nm filesys.Namer, want wanted, fn func(uint64, filesys.Name)) error {
	for _, ino := range want.list() {
		if err := n.ctx.Err(); err != nil {
			return err
		}
		names, err := nm.Names(ino)
		switch {
		case errors.Is(err, filesys.ErrUnsupported):
			continue
		case err != nil:
			return fmt.Errorf("names of inode %d: %w", ino, err)
		}
		for _, name := range names {
			fn(ino, name)
		}
		delete(want, ino)
	}
	return nil
}

// walk looks through all directories, and leaves those out that cannot be read:
// their errors come last.
func (n *namer) walk(want wanted, found func(uint64, filesys.Name) bool) error {
	var failed []error
	seen := map[uint64]bool{}
	for stack := []uint64{n.fs.Root()}; len(stack) > 0 && len(want) > 0; {
		if err := n.ctx.Err(); err != nil {
			return err
		}
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[dir] {
			continue
		}
		seen[dir] = true
		err := n.fs.ReadDir(dir, 0, func(e filesys.DirEntry) bool {
			if e.Type == filesys.TypeDir || e.Type == 0 {
				stack = append(stack, e.Ino)
			}
			return found(e.Ino, filesys.Name{Parent: dir, Name: e.Name})
		})
		if err != nil && !errors.Is(err, filesys.ErrNotDir) && !errors.Is(err, filesys.ErrNotExist) && len(failed) < 10 {
			failed = append(failed, fmt.Errorf("list directory %d: %w", dir, err))
		}
	}
	return errors.Join(failed...)
}
