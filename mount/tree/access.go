package tree

import (
	"context"
	"fmt"
	"iter"

	"cairn/mount/filesys"
)

// What reads more of a guest's volume than its tree of files shows
// (mount/history) comes to it here.

// Volumes lists the volumes of a tree that NewPoint laid out, readable or not.
func (t *Tree) Volumes(ctx context.Context) ([]*Volume, error) {
	n, err := t.root.Lookup(ctx, "volumes")
	if err != nil {
		return nil, err
	}
	d, ok := n.(*volumesDir)
	if !ok {
		return nil, fmt.Errorf("volumes of a tree of many points: %w", filesys.ErrInvalid)
	}
	return d.list().volumes, nil
}

// Guest is the file system that a node is of, and its number there; ok is false
// for what Cairn adds around guests' files.
func Guest(n Node) (fs filesys.FS, ino uint64, ok bool) {
	g, ok := n.(*guest)
	if !ok {
		return nil, 0, false
	}
	return g.fs, g.ino, true
}

// Unreadable gives, of the directory of a point's volumes, the names of those
// that hold files and cannot be read, and why; of any other node nothing.
func Unreadable(n Node) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		d, ok := n.(*volumesDir)
		if !ok {
			return
		}
		for _, v := range d.list().volumes {
			if err := v.problem(); err != nil && !yield(v.Name, err) {
				return
			}
		}
	}
}

// problem is why a volume cannot be read that should be.
func (v *Volume) problem() error {
	if _, err := v.FS(); err != nil && !v.isEmpty() {
		return fmt.Errorf("the volume cannot be read: %w", err)
	}
	return nil
}
