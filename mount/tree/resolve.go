package tree

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"cairn/mount/filesys"
)

// maxLinks is how many symlinks one path may lead through, as in Linux.
const maxLinks = 40

// Found is what a path led to.
type Found struct {
	Node Node
	// Path is the way there without symlinks, from the root of the tree,
	// beginning with "/".
	Path string
	Attr filesys.Attr
}

// Resolve finds what path names, from the root of the tree; a leading "/" makes
// no difference. Symlinks on the way are followed, one at the end only if
// follow is set.
//
// A guest's symlink sees its own volume as the whole world: an absolute target
// begins at the volume's root, and ".." there leads no further up. The ".." that
// the caller wrote leads wherever the tree goes. Nothing outside of the tree can
// be reached at all.
func (t *Tree) Resolve(ctx context.Context, p string, follow bool) (Found, error) {
	f, err := t.resolve(ctx, p, follow)
	if err != nil {
		err = fmt.Errorf("%s: %w", p, err)
		if hint := t.hint(ctx, p); hint != "" && errors.Is(err, filesys.ErrNotExist) {
			err = fmt.Errorf("%w (%s)", err, hint)
		}
	}
	return f, err
}

// step is one path element that is still to be walked.
type step struct {
	name string
	link bool // it comes from a guest's symlink and must stay in the volume
}

func (t *Tree) resolve(ctx context.Context, p string, follow bool) (Found, error) {
	type place struct {
		node Node
		name string
	}
	stack := []place{{t.root, ""}}
	steps := push(nil, p, false)
	mustBeDir := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	links := 0
	for len(steps) > 0 {
		s := steps[len(steps)-1]
		steps = steps[:len(steps)-1]
		here := stack[len(stack)-1].node
		if s.name == ".." {
			parent := len(stack) - 2
			if parent >= 0 && !(s.link && stack[parent].node.Volume() == nil) {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		next, err := here.Lookup(ctx, s.name)
		if err != nil {
			return Found{}, err
		}
		a, err := next.Attr(ctx)
		if err != nil {
			return Found{}, err
		}
		last := len(steps) == 0
		if a.Mode&filesys.TypeMask != filesys.TypeSymlink || last && !follow && !mustBeDir {
			if !last && a.Mode&filesys.TypeMask != filesys.TypeDir {
				return Found{}, filesys.ErrNotDir
			}
			stack = append(stack, place{next, s.name})
			continue
		}
		if links++; links > maxLinks {
			return Found{}, ErrLoop
		}
		target, err := next.Readlink(ctx)
		if err != nil {
			return Found{}, err
		}
		inGuest := next.Volume() != nil
		if strings.HasPrefix(target, "/") {
			// The volume's root is the first of its nodes on the stack.
			for len(stack) > 1 && (!inGuest || stack[len(stack)-2].node.Volume() != nil) {
				stack = stack[:len(stack)-1]
			}
		}
		steps = push(steps, target, inGuest)
	}
	f := Found{Node: stack[len(stack)-1].node, Path: "/"}
	for _, pl := range stack {
		f.Path = path.Join(f.Path, pl.name)
	}
	var err error
	if f.Attr, err = f.Node.Attr(ctx); err != nil {
		return Found{}, err
	}
	if mustBeDir && f.Attr.Mode&filesys.TypeMask != filesys.TypeDir {
		return Found{}, filesys.ErrNotDir
	}
	return f, nil
}

// push puts the elements of p on top of the steps that are still to do.
func push(steps []step, p string, link bool) []step {
	elems := strings.Split(p, "/")
	for i := len(elems) - 1; i >= 0; i-- {
		if e := elems[i]; e != "" && e != "." {
			steps = append(steps, step{e, link})
		}
	}
	return steps
}

// hint helps with the path that people try first: one of the guest, without the
// volume that it is in.
func (t *Tree) hint(ctx context.Context, p string) string {
	point, ok := t.root.(*dir)
	first, _, _ := strings.Cut(strings.Trim(p, "/"), "/")
	if !ok || first == "" {
		return ""
	}
	if first == "volumes" {
		return t.volumeHint(ctx, p)
	}
	if _, err := point.Lookup(ctx, first); err == nil {
		return ""
	}
	vols, err := point.Lookup(ctx, "volumes")
	if err != nil {
		return ""
	}
	var readable []string
	err = vols.ReadDir(ctx, 0, func(e Entry) bool {
		if e.Type == filesys.TypeDir {
			readable = append(readable, "/volumes/"+e.Name)
		}
		return true
	})
	switch {
	case err != nil || len(readable) == 0:
		return "see /volumes for what the point holds"
	default:
		return "the files of this point are in " + strings.Join(readable, ", ")
	}
}

// volumeHint says why the volume of a path has no files.
func (t *Tree) volumeHint(ctx context.Context, p string) string {
	vols, err := t.Volumes(ctx)
	elems := strings.Split(strings.Trim(path.Clean(p), "/"), "/")
	if err != nil || len(elems) < 2 {
		return ""
	}
	for _, v := range vols {
		if v.Name != elems[1] {
			continue
		}
		if _, err := v.FS(); err != nil {
			if v.isEmpty() {
				return "that volume " + v.content()
			}
			return "that volume cannot be read: " + err.Error()
		}
	}
	return ""
}
