package diskmap

import (
	"context"
	"fmt"
	"math"

	"cairn/blockstore/block"
)

// pair is one place in two maps. Where a map is not as deep as the other, its
// root hangs from imagined pages that have it as entry 0: a node whose own
// level is lower than the place's stands for such a page.
type pair struct {
	level int
	index uint64
	a, b  node
}

type node struct {
	d     block.Digest
	level int
}

// Diff calls fn, in ascending order, for every block that differs between two
// maps of one block size: da is its digest in a, db in b, block.Zero behind the
// end of either. It reads only pages on paths to differences. An error of fn
// ends the comparison and is returned as it is.
func Diff(ctx context.Context, r BlockReader, a, b Map, fn func(index uint64, da, db block.Digest) error) error {
	return DiffRange(ctx, r, a, b, 0, math.MaxUint64, fn)
}

// DiffRange is Diff of the blocks from ≤ index < to. It reads no page that has
// none of them below it.
func DiffRange(ctx context.Context, r BlockReader, a, b Map, from, to uint64, fn func(index uint64, da, db block.Digest) error) error {
	for _, m := range []Map{a, b} {
		if err := m.Validate(); err != nil {
			return err
		}
	}
	if a.BlockSize != b.BlockSize {
		return fmt.Errorf("compare disk maps: block sizes %d and %d differ", a.BlockSize, b.BlockSize)
	}
	d := &differ{r: r, a: a, b: b, from: from, to: to, fn: fn}
	top := pair{
		level: max(a.Depth(), b.Depth()),
		a:     node{a.Root, a.Depth()},
		b:     node{b.Root, b.Depth()},
	}
	if top.same() || from >= to || d.outside(top) {
		return nil
	}
	return d.pairs(ctx, []pair{top})
}

func (p pair) same() bool {
	return p.a.d == p.b.d && (p.a.level == p.b.level || p.a.d == block.Zero)
}

type differ struct {
	r        BlockReader
	a, b     Map
	from, to uint64
	fn       func(index uint64, da, db block.Digest) error
}

// outside says whether no block of the range is below p.
func (d *differ) outside(p pair) bool {
	shift := fanoutBits * p.level
	first := p.index << shift
	return first >= d.to || first+(1<<shift-1) < d.from
}

// pairs compares what is below differing places of one level.
func (d *differ) pairs(ctx context.Context, ps []pair) error {
	for len(ps) > 0 {
		n := min(len(ps), pagesPerRead/2)
		below, err := d.batch(ctx, ps[:n])
		if err != nil {
			return err
		}
		if err := d.pairs(ctx, below); err != nil {
			return err
		}
		ps = ps[n:]
	}
	return nil
}

func (d *differ) batch(ctx context.Context, ps []pair) (below []pair, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var refs []Page // of a, then of b
	var blocks []uint64
	for _, p := range ps {
		if p.a.isPage(p.level) {
			refs, blocks = append(refs, p.ref(p.a)), append(blocks, d.a.Blocks())
		}
	}
	ofA := len(refs)
	for _, p := range ps {
		if p.b.isPage(p.level) {
			refs, blocks = append(refs, p.ref(p.b)), append(blocks, d.b.Blocks())
		}
	}
	pages, err := readPages(ctx, d.r, refs, func(i int) uint64 { return blocks[i] })
	if err != nil {
		return nil, err
	}
	pagesA, pagesB := pages[:ofA], pages[ofA:]
	for _, p := range ps {
		var pageA, pageB []byte
		if p.a.isPage(p.level) {
			pageA, pagesA = pagesA[0], pagesA[1:]
		}
		if p.b.isPage(p.level) {
			pageB, pagesB = pagesB[0], pagesB[1:]
		}
		for e := range Fanout {
			c := pair{
				level: p.level - 1,
				index: p.index<<fanoutBits + uint64(e),
				a:     p.a.child(p.level, e, pageA),
				b:     p.b.child(p.level, e, pageB),
			}
			if c.same() || d.outside(c) {
				continue
			}
			if c.level > 0 {
				below = append(below, c)
			} else if err := d.fn(c.index, c.a.d, c.b.d); err != nil {
				return nil, err
			}
		}
	}
	return below, nil
}

// isPage says whether n is a stored page when it stands at the given level.
func (n node) isPage(level int) bool { return n.d != block.Zero && n.level == level }

func (p pair) ref(n node) Page { return Page{Level: p.level, Index: p.index, Digest: n.d} }

// child is entry e of the node's page at a place of the given level; page is
// nil unless isPage.
func (n node) child(level, e int, page []byte) node {
	if page != nil {
		return node{entry(page, e), level - 1}
	}
	if e == 0 {
		return n
	}
	return node{level: level - 1}
}
