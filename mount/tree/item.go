package tree

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"cairn/mount/filesys"
)

// Item is a protected item: many points, opened when somebody enters one.
type Item struct {
	Name string // resource name, for messages
	// List gives the item's points, in any order. It is called again when the
	// last answer is older than Refresh.
	List func(context.Context) ([]Ref, error)
	// Open gives one of them.
	Open func(ctx context.Context, id string) (Point, error)
	// Refresh is how long a list is good; 0 stands for 10 seconds.
	Refresh time.Duration
}

// Ref names a point without opening it.
type Ref struct {
	ID   string
	Time time.Time
}

// TimeFormat is how a point's directory is named, in UTC. Such names sort by
// time and need no quoting in a shell.
const TimeFormat = "2006-01-02T15-04-05Z"

// NewItem lays out an item: a directory per point, named by its time, and the
// symlink "latest". Points that appear or expire while the tree is used come
// and go in it.
func NewItem(it Item, opts Options) *Tree {
	t := newTree(opts)
	if it.Refresh <= 0 {
		it.Refresh = 10 * time.Second
	}
	d := &itemDir{base: t.newBase(dirMode, time.Time{}), item: it, points: make(map[string]*pointRef)}
	d.latest = &link{base: t.newBase(linkMode, time.Time{}), target: d.newest, fresh: it.Refresh}
	t.root = d
	return t
}

// itemDir is the root of an item's tree.
type itemDir struct {
	base
	item   Item
	latest *link

	mu     sync.Mutex
	points map[string]*pointRef // by id, all that were ever listed
	listed time.Time            // when names was made
	names  []child              // sorted by time
}

// list gives the points' directories, oldest first. When the list cannot be had
// the one before it is used: a mount outlives a restart of the server.
func (d *itemDir) list(ctx context.Context) ([]child, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names != nil && time.Since(d.listed) < d.item.Refresh {
		return d.names, nil
	}
	refs, err := d.item.List(ctx)
	if err != nil {
		if d.names == nil {
			return nil, fmt.Errorf("list the points of %s: %w", d.item.Name, err)
		}
		d.tree.opts.Log.Warn("the list of points cannot be refreshed", "item", d.item.Name, "error", err)
		d.listed = time.Now()
		return d.names, nil
	}
	refs = slices.Clone(refs)
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	taken := make(map[string]bool)
	names := make([]child, 0, len(refs)+1)
	for _, r := range refs {
		// Of several points of one second the first has the plain name.
		name := r.Time.UTC().Format(TimeFormat)
		if taken[name] {
			name = fileName(name+"-"+r.ID, "point")
		}
		name = unique(taken, name)
		p := d.points[r.ID]
		if p == nil {
			p = &pointRef{base: d.tree.newBase(dirMode, r.Time), id: r.ID, item: d.item}
			d.points[r.ID] = p
		}
		names = append(names, child{name, p})
	}
	if len(refs) > 0 {
		d.time = refs[len(refs)-1].Time
	}
	d.names, d.listed = names, time.Now()
	return names, nil
}

// newest is the target and time of "latest".
func (d *itemDir) newest(ctx context.Context) (string, time.Time, error) {
	names, err := d.list(ctx)
	if err == nil && len(names) == 0 {
		err = notExist("latest")
	}
	if err != nil {
		return "", time.Time{}, err
	}
	last := names[len(names)-1]
	return last.name, last.node.(*pointRef).time, nil
}

// entries is the points and the symlink.
func (d *itemDir) entries(ctx context.Context) ([]child, error) {
	names, err := d.list(ctx)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return append(slices.Clip(names), child{"latest", d.latest}), nil
}

func (d *itemDir) Attr(ctx context.Context) (filesys.Attr, error) {
	if _, err := d.list(ctx); err != nil {
		return filesys.Attr{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attr(0), nil
}

func (d *itemDir) Lookup(ctx context.Context, name string) (Node, error) {
	entries, err := d.entries(ctx)
	if err != nil {
		return nil, err
	}
	return lookup(entries, name)
}

func (d *itemDir) ReadDir(ctx context.Context, cookie uint64, fn func(Entry) bool) error {
	entries, err := d.entries(ctx)
	if err != nil {
		return err
	}
	readDir(entries, cookie, fn)
	return nil
}

func (d *itemDir) Fresh() time.Duration { return d.item.Refresh }

// pointRef is the directory of a point that is opened when it is entered.
type pointRef struct {
	base
	id   string
	item Item
	dir  lazy[*dir]
}

func (p *pointRef) enter(ctx context.Context) (*dir, error) {
	return p.dir.get(func() (*dir, error) {
		point, err := p.item.Open(ctx, p.id)
		if err != nil {
			return nil, fmt.Errorf("open point %s: %w", p.id, err)
		}
		if err := p.tree.onClose(point.Close); err != nil {
			return nil, err
		}
		if point.Time.IsZero() {
			point.Time = p.time
		}
		return p.tree.pointDir(p.base, point), nil
	})
}

func (p *pointRef) Lookup(ctx context.Context, name string) (Node, error) {
	d, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	return d.Lookup(ctx, name)
}

func (p *pointRef) ReadDir(ctx context.Context, cookie uint64, fn func(Entry) bool) error {
	d, err := p.enter(ctx)
	if err != nil {
		return err
	}
	return d.ReadDir(ctx, cookie, fn)
}
