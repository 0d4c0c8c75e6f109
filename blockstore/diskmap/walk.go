package diskmap

import (
	"context"

	"cairn/blockstore/block"
)

// pagesPerRead bounds the pages of one ReadBlocks call, 1 MiB of them.
const pagesPerRead = 128

// Visitor says what WalkPages does. Its functions may be nil.
type Visitor struct {
	// Enter is called for every reference to a page, before the page is read;
	// false leaves out the page and all below it. Nil enters all. A page that is
	// referred to several times is entered as often, unless Enter says no.
	Enter func(p Page) (descend bool, err error)
	// Leaf is called for every page of level 1, in ascending order, with its 256
	// digests, zeros included. The slice is valid until Leaf returns.
	Leaf func(p Page, entries []block.Digest) error
	// Fail is called for a page that cannot be read or is malformed. If it
	// returns nil the walk goes on without the page, else it ends with that
	// error. Without Fail the walk ends with err. A context's end is not
	// reported here, it always ends the walk.
	Fail func(p Page, err error) error
}

// WalkPages visits the pages of a map from the top down, in ascending order
// within each level. Pages are read in batches of up to 1 MiB; memory is
// within about 2 MiB per level.
func WalkPages(ctx context.Context, r BlockReader, m Map, v Visitor) error {
	return walk(ctx, r, m, 0, m.Blocks(), v)
}

// Walk calls fn for the blocks from ≤ index < to whose digest is not zero, in
// ascending order. Zero subtrees and what lies outside are not read. An error
// of fn ends the walk and is returned as it is. to may lie behind the end.
//
// A map that anyone may have made can refer to one page a million times, at
// every level: the time of a walk is bounded by the disk's size, not by the
// pages stored. Let ctx end it, or use WalkPages and enter each digest once.
func Walk(ctx context.Context, r BlockReader, m Map, from, to uint64, fn func(index uint64, d block.Digest) error) error {
	to = min(to, m.Blocks())
	return walk(ctx, r, m, from, to, Visitor{
		Leaf: func(p Page, entries []block.Digest) error {
			for i, d := range entries {
				if index := p.First() + uint64(i); d != block.Zero && from <= index && index < to {
					if err := fn(index, d); err != nil {
						return err
					}
				}
			}
			return nil
		},
	})
}

type walker struct {
	r        BlockReader
	blocks   uint64
	from, to uint64
	v        Visitor
	entries  [Fanout]block.Digest
}

func walk(ctx context.Context, r BlockReader, m Map, from, to uint64, v Visitor) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if m.Root == block.Zero || from >= to {
		return nil
	}
	w := &walker{r: r, blocks: m.Blocks(), from: from, to: to, v: v}
	top, err := w.enter(nil, m.top())
	if err != nil {
		return err
	}
	return w.pages(ctx, top)
}

// enter appends p to ps unless it is out of range or the visitor leaves it out.
func (w *walker) enter(ps []Page, p Page) ([]Page, error) {
	last := p.First() + 1<<(fanoutBits*p.Level) - 1
	if p.Digest == block.Zero || last < w.from || p.First() >= w.to {
		return ps, nil
	}
	if w.v.Enter != nil {
		if descend, err := w.v.Enter(p); err != nil || !descend {
			return ps, err
		}
	}
	return append(ps, p), nil
}

// pages visits entered pages, all of one level.
func (w *walker) pages(ctx context.Context, ps []Page) error {
	for len(ps) > 0 {
		n := min(len(ps), pagesPerRead)
		below, err := w.batch(ctx, ps[:n])
		if err != nil {
			return err
		}
		if err := w.pages(ctx, below); err != nil {
			return err
		}
		ps = ps[n:]
	}
	return nil
}

// batch reads pages and returns those to visit below them.
func (w *walker) batch(ctx context.Context, ps []Page) (below []Page, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pages, err := readPages(ctx, w.r, ps, func(int) uint64 { return w.blocks })
	if err != nil {
		if ctx.Err() != nil || w.v.Fail == nil {
			return nil, err
		}
		if len(ps) == 1 {
			return nil, w.v.Fail(ps[0], err)
		}
		for i := range ps { // one by one, to find which
			b, err := w.batch(ctx, ps[i:i+1])
			if err != nil {
				return nil, err
			}
			below = append(below, b...)
		}
		return below, nil
	}
	for i, p := range ps {
		if p.Level == 1 {
			if w.v.Leaf == nil {
				continue
			}
			for e := range w.entries {
				w.entries[e] = entry(pages[i], e)
			}
			if err := w.v.Leaf(p, w.entries[:]); err != nil {
				return nil, err
			}
			continue
		}
		for e := range Fanout {
			if below, err = w.enter(below, p.child(e, entry(pages[i], e))); err != nil {
				return nil, err
			}
		}
	}
	return below, nil
}
