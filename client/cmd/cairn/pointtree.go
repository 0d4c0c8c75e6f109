package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/mount/filesys"
	"cairn/mount/tree"
	cairnv1 "cairn/proto/cairn/v1"
)

// How recovery points become trees of files: the one place where the client's
// block reader meets the readers of guest file systems.

// patience is how long a read waits for a server that is gone.
const patience = time.Minute

// blockCache is the memory of all disks of all points that this process opens:
// it does not grow with them, and what points have in common, most of what is in
// them, is fetched once.
var blockCache = sync.OnceValue(func() *diskmap.Cache {
	return diskmap.NewCache(diskmap.CacheOptions{Pages: 8 << 20, Blocks: 32 << 20, ReadAhead: 8 << 20})
})

// treePoint opens a point for reading and holds a lease on it until it is
// closed. what says what for; reads wait that long for a server that is gone.
func treePoint(ctx context.Context, c *client.Client, p *cairnv1.RecoveryPoint, what string, wait time.Duration) (tree.Point, error) {
	j, err := toJSON(p)
	if err != nil {
		return tree.Point{}, err
	}
	r := c.Reader(p.GetName())
	r.RetryFor = wait
	out := tree.Point{Name: p.GetName(), ID: short(p.GetName()), Time: p.GetSnapshotTime().AsTime(), JSON: j}
	var images []*diskmap.Image
	for _, d := range p.GetDisks() {
		m, err := client.Map(d)
		if err != nil {
			return tree.Point{}, fmt.Errorf("point %s: %w", p.GetName(), err)
		}
		im := diskmap.NewImage(r, m, diskmap.ImageOptions{Cache: blockCache()})
		images = append(images, im)
		out.Disks = append(out.Disks, tree.Disk{Name: d.GetTarget(), Size: m.Size, Image: im, Allocated: d.GetDataBytes()})
	}
	release, err := c.HoldPoint(ctx, p.GetName(), client.Holder(what))
	if err != nil {
		return tree.Point{}, err
	}
	out.Close = func() error {
		var errs []error
		for _, im := range images {
			errs = append(errs, im.Close())
		}
		release()
		return errors.Join(errs...)
	}
	return out, nil
}

// treeOptions are the options of a tree. Its warnings go to the user; who
// mounts is told as well how volumes were opened: that a journal was replayed.
func (a *app) treeOptions(what string) (tree.Options, error) {
	volumes, err := a.volumes.options()
	level := slog.LevelWarn
	if what == "mount" {
		level = slog.LevelInfo
	}
	return tree.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), Volumes: volumes}, err
}

// openTree opens the tree of a point, or of all points of an item.
func (a *app) openTree(ctx context.Context, c *client.Client, s, what string) (*tree.Tree, error) {
	opts, err := a.treeOptions(what)
	if err != nil {
		return nil, err
	}
	if isPoint(s) {
		p, err := a.point(ctx, c, s)
		if err != nil {
			return nil, err
		}
		tp, err := treePoint(ctx, c, p, what, a.wait)
		if err != nil {
			return nil, err
		}
		return tree.NewPoint(tp, opts), nil
	}
	item, err := a.itemName(ctx, c, s)
	if err != nil {
		return nil, err
	}
	if _, err := a.points(ctx, c, s); err != nil { // an item without points is an error, not an empty mount
		return nil, err
	}
	return tree.NewItem(tree.Item{
		Name: item,
		List: func(ctx context.Context) ([]tree.Ref, error) {
			points, err := listPoints(ctx, c, item)
			var refs []tree.Ref
			for _, p := range points {
				refs = append(refs, tree.Ref{ID: short(p.GetName()), Time: p.GetSnapshotTime().AsTime()})
			}
			return refs, err
		},
		Open: func(ctx context.Context, id string) (tree.Point, error) {
			var p tree.Point
			err := c.Patiently(ctx, a.wait, func() error {
				r, err := c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: item + "/recoveryPoints/" + id})
				if err != nil {
					return err
				}
				p, err = treePoint(ctx, c, r.GetRecoveryPoint(), what, a.wait)
				return err
			})
			return p, err
		},
	}, opts), nil
}

// pointTime is a POINT that ends in a time of day, without a PATH.
var pointTime = regexp.MustCompile(`@\d{4}-\d\d-\d\dT\d\d:[\d:]*Z?$`)

// splitPath splits POINT:PATH. A point's short form can hold colons (a time of
// day), a path begins with a slash.
func splitPath(s string) (point, p string, err error) {
	i := strings.Index(s, ":/")
	if i < 0 {
		i = strings.LastIndexByte(s, ':')
		if i < 0 || strings.Contains(s[i:], "@") || pointTime.MatchString(s) {
			return s, "/", nil
		}
	}
	if i == 0 {
		return "", "", usagef("%q: must be POINT:PATH", s)
	}
	return s[:i], path.Join("/", s[i+1:]) + strings.Repeat("/", btoi(strings.HasSuffix(s, "/") && len(s) > i+2)), nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// treePath is where a path given by a user is in the tree of a point. Paths
// that begin with disks, volumes or point.json are in the tree as they stand.
// Any other is a path of the guest: where the guest's own /etc/fstab says that
// it is, or else on the only volume that has it.
func treePath(ctx context.Context, t *tree.Tree, p string) (string, error) {
	first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	if first == "" || isTreeTop(ctx, t, first) {
		return p, nil
	}
	at, own, err := t.GuestPath(ctx, p)
	if err != nil {
		return "", err
	}
	if at != "" {
		if _, err := t.Resolve(ctx, at, false); err == nil {
			return at + strings.Repeat("/", btoi(strings.HasSuffix(p, "/"))), nil
		} else if !errors.Is(err, filesys.ErrNotExist) && !errors.Is(err, filesys.ErrNotDir) {
			return "", err
		}
	}
	vols, err := t.Resolve(ctx, "/volumes", true)
	if errors.Is(err, filesys.ErrNotExist) { // an item's tree: the path begins with a point
		return "", hintf(fmt.Errorf("%s: the item has no such point", p), "write ITEM@latest:%s for a path in its newest point; cairn ls ITEM lists all points", p)
	}
	if err != nil {
		return "", err
	}
	var found, readable []string
	err = vols.Node.ReadDir(ctx, 0, func(e tree.Entry) bool {
		if e.Type == filesys.TypeDir {
			readable = append(readable, e.Name)
		}
		return true
	})
	if err != nil {
		return "", err
	}
	for _, v := range readable {
		at := "/volumes/" + v + p
		if _, err := t.Resolve(ctx, at, false); err == nil {
			found = append(found, at)
		} else if !errors.Is(err, filesys.ErrNotExist) && !errors.Is(err, filesys.ErrNotDir) {
			return "", err
		}
	}
	switch {
	case own && len(found) > 0: // never another file than the guest's own
		where := "which is none of the volumes that can be read"
		if at != "" {
			where = "and it is not there (" + at + ")"
		}
		return "", fmt.Errorf("%s: by its /etc/fstab the guest mounts a file system there, %s; hidden below the mount point there is %s: write that if it is meant",
			p, where, strings.Join(found, " and "))
	case len(found) == 1:
		return found[0], nil
	case len(readable) == 0:
		return "", fmt.Errorf("%s: no volume of the point can be read; ls POINT:/volumes says why", p)
	case len(found) == 0:
		more := ""
		for name, err := range tree.Unreadable(vols.Node) {
			more += fmt.Sprintf("; %s: %v", name, err)
		}
		return "", fmt.Errorf("%s: no such file or directory on any volume that can be read (%s)%s", p, strings.Join(readable, ", "), more)
	}
	return "", usagef("%s is on several volumes: write %s", p, strings.Join(found, " or "))
}

func isTreeTop(ctx context.Context, t *tree.Tree, name string) bool {
	_, err := t.Root().Lookup(ctx, name)
	return err == nil
}
