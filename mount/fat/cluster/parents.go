package cluster

import (
	"fmt"
	"sync"

	"cairn/mount/filesys"
)

// Parents knows the way from a directory up to the root.
//
// FAT directories name their parent's first cluster, which may be wrong; those
// of exFAT name nothing. So the way is remembered where a directory was found,
// and searched from the root when it has been forgotten: the answers do not
// depend on what was remembered.
type Parents struct {
	root uint64
	// list calls fn with the subdirectories of a directory.
	list func(dir uint64, fn func(child uint64) bool) error

	mu         sync.Mutex
	young, old map[uint64]uint64 // child → parent; the young ones become old together
	searching  sync.Mutex
}

const (
	// generation is how many ways are young at most.
	generation = 1 << 16
	// maxDirs bounds a search; its memory is about 50 bytes for each directory.
	maxDirs = 1 << 17
	// maxDepth bounds the way up.
	maxDepth = 4096
)

// NewParents makes an empty memory.
func NewParents(root uint64, list func(dir uint64, fn func(child uint64) bool) error) *Parents {
	return &Parents{root: root, list: list, young: map[uint64]uint64{}}
}

// Note remembers that a directory was found in another. If it was found in a
// different one before, that is an error: an entry has one place, and that is in
// one directory, unless two of them share clusters. Names would lead in circles
// if both were believed.
func (p *Parents) Note(child, parent uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.get(child)
	if !ok {
		p.put(child, parent)
		return nil
	}
	if known != parent {
		return Corrupt("directory %d is in the directories %d and %d", child, known, parent)
	}
	return nil
}

func (p *Parents) get(child uint64) (uint64, bool) {
	if parent, ok := p.young[child]; ok {
		return parent, true
	}
	parent, ok := p.old[child]
	if ok {
		p.put(child, parent)
	}
	return parent, ok
}

func (p *Parents) put(child, parent uint64) {
	if len(p.young) >= generation {
		p.old, p.young = p.young, make(map[uint64]uint64, generation/4)
	}
	p.young[child] = parent
}

// Of gives the parent of a directory; the root's is the root.
func (p *Parents) Of(dir uint64) (uint64, error) {
	if dir == p.root {
		return dir, nil
	}
	p.mu.Lock()
	parent, ok := p.get(dir)
	p.mu.Unlock()
	if ok {
		return parent, nil
	}
	return p.search(dir)
}

// Up calls fn with the directories above dir, up to the root.
func (p *Parents) Up(dir uint64, fn func(dir uint64) error) error {
	for depth := 0; dir != p.root; depth++ {
		parent, err := p.Of(dir)
		if err != nil {
			return err
		}
		if err := fn(parent); err != nil {
			return err
		}
		if depth == maxDepth {
			return Corrupt("directory %d is more than %d deep", dir, maxDepth)
		}
		dir = parent
	}
	return nil
}

// search goes through the tree, breadth first.
func (p *Parents) search(dir uint64) (uint64, error) {
	p.searching.Lock() // one is enough of what takes long
	defer p.searching.Unlock()
	above := map[uint64]uint64{p.root: p.root}
	todo := []uint64{p.root}
	var unread error
	for len(todo) > 0 {
		at := todo[0]
		todo = todo[1:]
		full := false
		err := p.list(at, func(child uint64) bool {
			if _, ok := above[child]; !ok {
				above[child] = at
				todo = append(todo, child)
			}
			full = len(above) > maxDirs
			return child != dir && !full
		})
		if _, ok := above[dir]; ok {
			for d := dir; d != p.root; d = above[d] {
				_ = p.Note(d, above[d]) // whoever was first
			}
			return above[dir], nil
		}
		if full {
			return 0, fmt.Errorf("directory %d not found among %d: %w", dir, maxDirs, filesys.ErrUnsupported)
		}
		// A directory that is damaged or cannot be read does not hide the others.
		if err != nil && !Damaged(err) && unread == nil {
			unread = err
		}
	}
	if unread != nil {
		return 0, fmt.Errorf("search directory %d: %w", dir, unread)
	}
	return 0, fmt.Errorf("directory %d: %w", dir, filesys.ErrNotExist)
}
