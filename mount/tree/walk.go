package tree

import (
	"context"
	"errors"
	"fmt"
	"path"

	"cairn/mount/filesys"
)

// ErrSkipDir, returned by a WalkFunc for a directory, leaves its entries out.
var ErrSkipDir = errors.New("skip this directory")

// MaxDepth bounds how deep a walk goes below its start. Real trees stay far
// below; a hostile volume could otherwise nest directories without end.
const MaxDepth = 2048

// WalkFunc is called with every node of a walk. err says why the node's
// attributes or entries could not be read; the walk goes on unless the function
// returns an error.
type WalkFunc func(p string, n Node, a filesys.Attr, err error) error

// Walk visits start and everything below it, parents first, in the order of the
// directories. It follows no symlinks. Memory does not grow with the size of a
// directory. A directory that was met before (only a damaged or hostile volume
// has one) is reported as filesys.ErrCorrupt and not entered.
func Walk(ctx context.Context, p string, start Node, fn WalkFunc) error {
	w := walker{fn: fn, dirs: make(map[uint64]struct{})}
	return w.visit(ctx, p, start, 0)
}

// batch is how many entries of a directory are taken before they are visited:
// a reader may hold a lock while it calls back, so nothing is read in between.
const batch = 512

type walker struct {
	fn   WalkFunc
	dirs map[uint64]struct{}
}

func (w *walker) visit(ctx context.Context, p string, n Node, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a, err := n.Attr(ctx)
	isDir := err == nil && a.Mode&filesys.TypeMask == filesys.TypeDir
	if isDir {
		if _, met := w.dirs[a.Ino]; met {
			err = fmt.Errorf("directory with two names: %w", filesys.ErrCorrupt)
		} else if depth >= MaxDepth {
			err = fmt.Errorf("directories nested deeper than %d: %w", MaxDepth, filesys.ErrCorrupt)
		}
		w.dirs[a.Ino] = struct{}{}
	}
	switch ferr := w.fn(p, n, a, err); {
	case ferr == ErrSkipDir && isDir:
		return nil
	case ferr != nil:
		return ferr
	case err != nil || !isDir:
		return nil
	}
	return Entries(ctx, n, func(e Entry) error {
		return w.visit(ctx, path.Join(p, e.Name), e.Node, depth+1)
	}, func(err error) error {
		return w.fn(p, n, a, err)
	})
}

// Entries calls each with the entries of a directory, a batch at a time, outside
// of ReadDir: each may read the tree. An error of the directory itself goes to
// failed, and what failed returns, like an error of each, ends the listing.
func Entries(ctx context.Context, dir Node, each func(Entry) error, failed func(error) error) error {
	entries := make([]Entry, 0, 16)
	for cookie := uint64(0); ; {
		entries = entries[:0]
		err := dir.ReadDir(ctx, cookie, func(e Entry) bool {
			entries = append(entries, e)
			return len(entries) < batch
		})
		for _, e := range entries {
			if err := each(e); err != nil {
				return err
			}
			cookie = e.Next
		}
		if err != nil {
			return failed(err)
		}
		if len(entries) < batch {
			return nil
		}
	}
}
