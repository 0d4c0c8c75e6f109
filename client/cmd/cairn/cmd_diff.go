package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/mount/filesys"
	"cairn/mount/history"
	"cairn/mount/tree"
	cairnv1 "cairn/proto/cairn/v1"
)

// errDifferent makes the exit status 1 with --exit-code; nothing is printed.
var errDifferent = errors.New("the points differ")

func (a *app) diffCmd() *cobra.Command {
	var exitCode, walk bool
	cmd := &cobra.Command{
		Use: "diff POINT POINT[:PATH]", Short: "List the files that differ between two recovery points", Args: args(cobra.ExactArgs(2)),
		Long: `List the files that differ between two recovery points of an item, the earlier
first, or only those below PATH:

  A  path           was added
  D  path           was removed
  M  path  (what)   was changed: content, target, device, mode, owner, mtime, xattrs
  R  path  <- old   was renamed or moved, with all below it, and changed if so said

Only what the guest changed is looked at: the blocks that differ lead to the
volumes and inodes in them. Of directories that are new or gone everything below
is listed. What the guest's own kernel did not write is found with --walk only, and
so may be what a guest wrote in the last seconds before a crash-consistent point.
Access times, link counts and times of directories are no differences.

PATH is as for cairn ls, and may be in either point; that a directory which it is
in was renamed is told as well. The exit status is 0, or with --exit-code 1 if there are
differences.`,
		Example: `  cairn diff web1@2026-11-19 web1@latest
  cairn diff web1@latest~1 web1@latest:/etc`,
	}
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with status 1 if there are differences")
	cmd.Flags().BoolVar(&walk, "walk", false, "walk both trees: finds also what was changed without the guest's kernel, by fsck for example")
	a.addVolumeFlags(cmd)
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		limitMemory()
		name, at, err := splitPath(args[1])
		if err != nil {
			return err
		}
		if i := strings.Index(args[0], ":/"); i >= 0 {
			return usagef("%q: the PATH stands behind the second point", args[0])
		}
		w := &changeWriter{format: a.output, all: []changeJSON{}}
		err = a.diff(ctx, c, args[0], name, at, walk, w.change)
		if err != nil && !errors.Is(err, history.ErrIncomplete) {
			return err
		}
		if err := w.flush(); err != nil {
			return err
		}
		if err == nil && exitCode && w.rows > 0 {
			return quietError{errDifferent}
		}
		return notRead(err)
	})
	return cmd
}

func (a *app) diff(ctx context.Context, c *client.Client, old, now, at string, walk bool, fn func(history.Change) error) error {
	h := a.past(c, "diff")
	var found [2]*cairnv1.RecoveryPoint
	var opened [2]*history.Point
	for i, s := range []string{old, now} {
		var err error
		if found[i], err = a.point(ctx, c, s); err != nil {
			return err
		}
	}
	if x, y := parentOf(found[0].GetName()), parentOf(found[1].GetName()); x != y {
		return usagef("the points are of two items, %s and %s: only points of one can be compared", short(x), short(y))
	}
	for i := range found {
		p, err := h.open(ctx, found[i])
		if err != nil {
			return err
		}
		defer p.Tree.Close()
		opened[i] = p
	}
	below, err := diffPaths(ctx, opened[0].Tree, opened[1].Tree, at)
	if err != nil {
		return err
	}
	o := problems()
	o.Walk = walk
	incomplete := error(nil)
	for _, p := range below {
		err := history.Diff(ctx, opened[0], opened[1], p, o, fn)
		if err != nil && !errors.Is(err, history.ErrIncomplete) {
			return err
		}
		incomplete = errors.Join(incomplete, err)
	}
	return incomplete
}

// diffPaths is where a path given by a user is in two trees: changes are told
// where they are, not by the symlinks that lead there. The path may be in either
// tree alone, or lead to different places; a symlink is meant, and what it leads to.
func diffPaths(ctx context.Context, old, now *tree.Tree, at string) ([]string, error) {
	if at == "/" || at == "/volumes" || at == "/volumes/" {
		return []string{""}, nil
	}
	var found []string
	var failed error
	for _, t := range []*tree.Tree{now, old} {
		p, err := treePath(ctx, t, at)
		for _, follow := range []bool{false, true} {
			if err != nil {
				break
			}
			var f tree.Found
			if f, err = t.Resolve(ctx, p, follow); err == nil && !slices.Contains(found, f.Path) {
				found = append(found, f.Path)
			}
		}
		if failed == nil {
			failed = err
		}
	}
	if len(found) == 0 {
		return nil, failed
	}
	for _, p := range found {
		if !strings.HasPrefix(p, "/volumes/") {
			return nil, usagef("%q: only what is on volumes can be compared", at)
		}
	}
	return slices.DeleteFunc(slices.Clone(found), func(p string) bool { // told with what it is in
		return slices.ContainsFunc(found, func(q string) bool { return strings.HasPrefix(p, q+"/") })
	}), nil
}

// parentOf is the resource name of the item that a point is of.
func parentOf(point string) string {
	p, _, _ := strings.Cut(point, "/recoveryPoints/")
	return p
}

// changeWriter prints changes.
type changeWriter struct {
	format string
	rows   int
	all    []changeJSON
}

type changeJSON struct {
	Change string       `json:"change"` // added, removed, changed, renamed
	Path   string       `json:"path"`
	Bytes  []byte       `json:"pathBytes,omitempty"` // of a path that is no UTF-8, in base64
	From   string       `json:"from,omitempty"`
	FromB  []byte       `json:"fromBytes,omitempty"` // likewise
	What   history.What `json:"what"`
	Old    *attrJSON    `json:"old,omitempty"`
	New    *attrJSON    `json:"new,omitempty"`
}

type attrJSON struct {
	Type  string    `json:"type"`
	Mode  string    `json:"mode"`
	UID   uint32    `json:"uid"`
	GID   uint32    `json:"gid"`
	Size  int64     `json:"size"`
	Mtime time.Time `json:"mtime"`
	Inode uint64    `json:"inode"`
}

func newAttrJSON(a *filesys.Attr) *attrJSON {
	if a == nil {
		return nil
	}
	return &attrJSON{typeWord(a.Mode), fmt.Sprintf("%04o", a.Mode&0o7777), a.UID, a.GID, a.Size, a.Mtime.UTC(), a.Ino}
}

var changeWords = map[history.Kind]string{history.Added: "added", history.Removed: "removed", history.Changed: "changed", history.Renamed: "renamed"}

func (w *changeWriter) change(c history.Change) error {
	w.rows++
	if w.format != "table" {
		w.all = append(w.all, changeJSON{changeWords[c.Kind], c.Path, pathBytes(c.Path), c.From, pathBytes(c.From), c.What, newAttrJSON(c.Old), newAttrJSON(c.New)})
		return nil
	}
	line := string(c.Kind) + "  " + quoted(c.Path)
	if a := c.New; a != nil && a.Mode&filesys.TypeMask == filesys.TypeDir || c.New == nil && c.Old.Mode&filesys.TypeMask == filesys.TypeDir {
		line += "/"
	}
	if c.What != 0 {
		line += "  (" + c.What.String() + ")"
	}
	if c.From != "" {
		line += "  <- " + quoted(c.From)
	}
	_, err := fmt.Println(line)
	return err
}

func (w *changeWriter) flush() error {
	if w.format == "table" {
		return nil
	}
	b, err := json.Marshal(w.all)
	if err != nil {
		return err
	}
	return printJSON(os.Stdout, w.format, b)
}
