package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/mount/history"
	"cairn/mount/tree"
	cairnv1 "cairn/proto/cairn/v1"
)

// How the points of an item become those that mount/history compares: like
// pointtree.go, but all points share one cache of blocks, and nothing is read
// ahead, since only little of each point is wanted.

// past opens points of one item.
type past struct {
	app   *app
	c     *client.Client
	what  string // for leases: who reads
	cache *history.Cache
}

func (a *app) past(c *client.Client, what string) *past {
	return &past{a, c, what, history.NewCache(history.DefaultCache)}
}

// open opens a point and holds a lease on it until its tree is closed.
func (h *past) open(ctx context.Context, p *cairnv1.RecoveryPoint) (*history.Point, error) {
	opts, err := h.app.treeOptions(h.what)
	if err != nil {
		return nil, err
	}
	opts.Log = nil // what cannot be read is reported once, not for each point
	r := h.c.Reader(p.GetName())
	r.RetryFor = patience
	blocks := h.cache.Reader(r)
	out := &history.Point{ID: short(p.GetName()), Time: p.GetSnapshotTime().AsTime(), Blocks: blocks}
	tp := tree.Point{Name: p.GetName(), ID: out.ID, Time: out.Time}
	for _, d := range p.GetDisks() {
		m, err := client.Map(d)
		if err != nil {
			return nil, fmt.Errorf("point %s: %w", p.GetName(), err)
		}
		out.Disks = append(out.Disks, history.Disk{Name: d.GetTarget(), Map: m})
		im := diskmap.NewImage(blocks, m, diskmap.ImageOptions{PageCache: -1, BlockCache: -1})
		tp.Disks = append(tp.Disks, tree.Disk{Name: d.GetTarget(), Size: m.Size, Image: im, Allocated: d.GetDataBytes()})
	}
	release, err := h.c.HoldPoint(ctx, p.GetName(), client.Holder(h.what))
	if err != nil {
		return nil, err
	}
	tp.Close = func() error { release(); return nil }
	out.Tree = tree.NewPoint(tp, opts)
	return out, nil
}

// item makes points, given newest first, an item to be searched.
func (h *past) item(points []*cairnv1.RecoveryPoint) history.Item {
	points = slices.Clone(points)
	slices.Reverse(points)
	it := history.Item{Open: func(ctx context.Context, i int) (*history.Point, error) { return h.open(ctx, points[i]) }}
	for _, p := range points {
		it.Refs = append(it.Refs, history.Ref{ID: short(p.GetName()), Time: p.GetSnapshotTime().AsTime()})
	}
	return it
}

// itemPoints lists the points of an item in a range of time, newest first, and
// none is an error. all has those outside of the range too.
func (a *app) itemPoints(ctx context.Context, c *client.Client, s string, r dateRange) (points, all []*cairnv1.RecoveryPoint, err error) {
	if isPoint(s) {
		return nil, nil, usagef("%q is one point: write the item alone", s)
	}
	start, end, err := r.times(dateBack, dateBackEnd)
	if err != nil {
		return nil, nil, err
	}
	if all, err = a.points(ctx, c, s); err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		at := p.GetSnapshotTime().AsTime()
		if (start == nil || !at.Before(start.AsTime())) && (end == nil || !at.After(end.AsTime())) {
			points = append(points, p)
		}
	}
	if len(points) == 0 {
		return nil, nil, hintf(fmt.Errorf("item %s has no recovery points in that time", s), "list its points with: cairn point list %s", s)
	}
	return points, all, nil
}

// problems prints what could not be read, each thing once.
func problems() history.Options {
	said := map[string]bool{}
	return history.Options{Problem: func(point, p string, err error) {
		line := quoted(p) + ": " + printable(err.Error())
		if p == "" {
			line = printable(err.Error())
		}
		if !said[line] {
			said[line] = true
			fmt.Fprintf(os.Stderr, "cairn: point %s: %s\n", point, line)
		}
	}}
}

// notRead is the error of a command that could not read everything; it tells
// apart what was said already.
func notRead(err error) error {
	if errors.Is(err, history.ErrIncomplete) {
		return errors.New("not everything could be read, as said above: the list may lack something")
	}
	return err
}

// stamp is a time of the guest, to the second.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
