package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/mount/filesys"
	"cairn/mount/history"
)

// findFlags are what a search is narrowed by.
type findFlags struct {
	name, path, kind, point string
	fold, deleted, walk     bool
	span                    dateRange
}

func (a *app) findCmd() *cobra.Command {
	var fl findFlags
	cmd := &cobra.Command{
		Use: "find ITEM --name PATTERN", Short: "Search the recovery points of an item for a file by name", Args: args(cobra.ExactArgs(1)),
		Long: `Search the recovery points of an item for files and directories by name. Each
path is printed once, with the first and the last point that have it: the last one
is where to copy it from. --deleted leaves out what the newest point has.

A PATTERN is as in a shell: * stands for anything, ? for one character, [abc] for
one of them. --name is held against the last part of a path, --path against all of
it, as it is in the guest (/home/*/notes*) or with the volume (/volumes/vda1/*).

The trees of the first point are walked; of each further one only what differs
from the one before. Memory grows with the number of paths that match.`,
		Example: `  cairn find web1 --name 'report*.odt' --deleted
  cairn cp web1@POINT:/volumes/vda1/home/ann/report.odt .`,
	}
	f := cmd.Flags()
	f.StringVar(&fl.name, "name", "", "what the name must match")
	f.StringVar(&fl.path, "path", "", "what the whole path must match")
	f.StringVar(&fl.kind, "type", "", "only f (files), d (directories), l (symlinks), b, c (devices), p (fifos) or s (sockets)")
	f.BoolVarP(&fl.fold, "ignore-case", "i", false, "upper and lower case are the same")
	f.BoolVar(&fl.deleted, "deleted", false, "only what the item's newest point does not have any more")
	f.StringVar(&fl.point, "point", "", "search this point alone: a POINT, or what stands behind its @ (latest, a date)")
	f.StringVar(&fl.span.from, "from", "", "only points from this day or time on: 2026-11-20, or 30d for 30 days ago")
	f.StringVar(&fl.span.to, "to", "", "only points up to this day or time")
	f.BoolVar(&fl.walk, "walk", false, "walk the trees of every point: finds also what was changed without the guest's kernel, by fsck for example")
	a.addVolumeFlags(cmd)
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		limitMemory()
		q, err := fl.query()
		if err != nil {
			return err
		}
		w := newHitWriter(a.output)
		if fl.point != "" {
			err = a.findInPoint(ctx, c, args[0], fl, q, w)
		} else {
			err = a.findInAll(ctx, c, args[0], fl, q, w)
		}
		if err != nil && !errors.Is(err, history.ErrIncomplete) {
			return err
		}
		if err := w.flush(); err != nil {
			return err
		}
		return notRead(err)
	})
	return cmd
}

func (fl *findFlags) query() (q history.Query, err error) {
	kinds := map[string]uint32{"": 0, "f": filesys.TypeRegular, "d": filesys.TypeDir, "l": filesys.TypeSymlink, "b": filesys.TypeBlock,
		"c": filesys.TypeChar, "p": filesys.TypeFIFO, "s": filesys.TypeSocket}
	typ, ok := kinds[fl.kind]
	switch {
	case fl.name == "" && fl.path == "":
		return q, usagef("say what to look for: --name PATTERN or --path PATTERN")
	case !ok:
		return q, usagef("--type %q: must be f, d, l, b, c, p or s", fl.kind)
	case fl.point != "" && (fl.deleted || fl.span != dateRange{}):
		return q, usagef("--point searches one point: --deleted, --from and --to do not go with it")
	}
	q.Type = typ
	if fl.name != "" {
		if q.Name, err = history.NewPattern(fl.name, fl.fold); err != nil {
			return q, usageError{fmt.Errorf("--name %w", err)}
		}
	}
	if fl.path != "" {
		if q.Path, err = history.NewPattern(fl.path, fl.fold); err != nil {
			return q, usageError{fmt.Errorf("--path %w", err)}
		}
	}
	return q, nil
}

// findInPoint searches one point and prints as it goes.
func (a *app) findInPoint(ctx context.Context, c *client.Client, item string, fl findFlags, q history.Query, w *hitWriter) error {
	name := fl.point
	if !isPoint(name) {
		name = item + "@" + name
	}
	rp, err := a.point(ctx, c, name)
	if err != nil {
		return err
	}
	of, err := a.itemName(ctx, c, item)
	if err != nil {
		return err
	}
	if parentOf(rp.GetName()) != of {
		return usagef("--point %s is a point of another item than %s", fl.point, item)
	}
	p, err := a.past(c, "find").open(ctx, rp)
	if err != nil {
		return err
	}
	defer p.Tree.Close()
	return history.FindIn(ctx, p, q, problems(), w.hit)
}

// findInAll searches all points, or those of a time.
func (a *app) findInAll(ctx context.Context, c *client.Client, item string, fl findFlags, q history.Query, w *hitWriter) error {
	points, all, err := a.itemPoints(ctx, c, item, fl.span)
	if err != nil {
		return err
	}
	newest := short(all[0].GetName())
	searched := map[string]bool{}
	for _, p := range points {
		searched[short(p.GetName())] = true
	}
	if fl.deleted && !searched[newest] {
		points = slices.Insert(points, 0, all[0])
	}
	o := problems()
	o.Walk = fl.walk
	return history.Find(ctx, a.past(c, "find").item(points), q, o, func(h history.Hit) error {
		if fl.deleted && (h.Last.ID == newest || !searched[h.First.ID]) {
			return nil
		}
		return w.hit(h)
	})
}

// hitWriter prints hits.
type hitWriter struct {
	format string
	w      *tabwriter.Writer
	rows   int
	all    []hitJSON
}

type hitJSON struct {
	Path   string      `json:"path"`
	Bytes  []byte      `json:"pathBytes,omitempty"` // of a path that is no UTF-8, in base64
	Type   string      `json:"type"`
	Size   int64       `json:"size"`
	Mtime  time.Time   `json:"mtime"`
	Inode  uint64      `json:"inode"`
	First  history.Ref `json:"first"`
	Last   history.Ref `json:"last"`
	Points int         `json:"points"`
}

func newHitWriter(format string) *hitWriter {
	return &hitWriter{format: format, all: []hitJSON{}, w: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
}

func (w *hitWriter) hit(h history.Hit) error {
	if w.format != "table" {
		w.all = append(w.all, hitJSON{h.Path, pathBytes(h.Path), typeWord(h.Attr.Mode), h.Attr.Size, h.Attr.Mtime.UTC(), h.Attr.Ino, h.First, h.Last, h.Points})
		return nil
	}
	if w.rows == 0 {
		fmt.Fprintln(w.w, "FIRST POINT\tLAST POINT\tPOINTS\tSIZE\tMODIFIED\tPATH")
	}
	fmt.Fprintf(w.w, "%s\t%s\t%d\t%d\t%s\t%s\n", h.First.ID, h.Last.ID, h.Points, h.Attr.Size, stamp(h.Attr.Mtime), quoted(h.Path))
	if w.rows++; w.rows%200 == 0 { // a long list appears as it goes
		return w.w.Flush()
	}
	return nil
}

func (w *hitWriter) flush() error {
	if w.format == "table" {
		if w.rows == 0 {
			fmt.Fprintln(os.Stderr, "nothing was found")
		}
		return w.w.Flush()
	}
	b, err := json.Marshal(w.all)
	if err != nil {
		return err
	}
	return printJSON(os.Stdout, w.format, b)
}
