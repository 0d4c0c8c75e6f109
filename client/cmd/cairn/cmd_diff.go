package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/mount/filesys"
	"cairn/mount/history"
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
is listed. What the guest's own kernel did not write is found with --walk only.
Access times, link counts and times of directories are no differences.

PATH is as for cairn ls. The exit status is 0, or with --exit-code 1 if there are
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
	if at == "/" {
		at = ""
	}
	if at != "" && at != "/volumes" && !strings.HasPrefix(at, "/volumes/") {
		// The path may be in either point alone.
		p, err := treePath(ctx, opened[1].Tree, at)
		if err != nil {
			var errOld error
			if p, errOld = treePath(ctx, opened[0].Tree, at); errOld != nil {
				return err
			}
		}
		at = p
	}
	o := problems()
	o.Walk = walk
	return history.Diff(ctx, opened[0], opened[1], at, o, fn)
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
	From   string       `json:"from,omitempty"`
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
		w.all = append(w.all, changeJSON{changeWords[c.Kind], c.Path, c.From, c.What, newAttrJSON(c.Old), newAttrJSON(c.New)})
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
