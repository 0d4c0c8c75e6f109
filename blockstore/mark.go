package blockstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// barrier is what a running Reclaim and the uploads know of each other. It is
// Store.barrier from the moment at which the Reclaim looks at what must stay until
// the last index entry is gone. reclaim.go has the rules.
type barrier struct {
	mu sync.Mutex
	// keep are the ids of blocks that stay. While it is marked it grows; blocks
	// below limit that are not in it when sweeping begins are doomed.
	keep roaring64.Bitmap
	// late are pages that somebody came to need since marking began, and which
	// were not marked then: what is below them has to be marked as well.
	late []pageRef
	// limit: blocks with this id and greater ones are younger than the Reclaim
	// and stay. 0 as long as it is not known.
	limit uint64
	// sweeping is guarded by Store.pins.
	sweeping bool
}

// pageRef is a page to be walked: by digest, or by id alone.
type pageRef struct {
	digest block.Digest // block.Zero: not known, whatever is stored under the id
	id     uint64
	point  string // that needs it, for messages
}

// need keeps a block that is stored, and has a page's own blocks marked. The
// caller holds pins. When it is swept already, a page must not come here unless
// all that it names is kept.
func (b *barrier) need(d block.Digest, e entry) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit != 0 && e.id >= b.limit {
		return
	}
	if b.keep.CheckedAdd(e.id) && e.page && !b.sweeping {
		b.late = append(b.late, pageRef{digest: d, id: e.id})
	}
}

// doomed reports whether a block is about to go. The caller holds pins.
func (b *barrier) doomed(e entry) bool {
	if b == nil || !b.sweeping {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return e.id < b.limit && !b.keep.Contains(e.id)
}

// takeLate gives the pages that wait to be walked.
func (b *barrier) takeLate() []pageRef {
	b.mu.Lock()
	defer b.mu.Unlock()
	refs := b.late
	b.late = nil
	return refs
}

// lookupAlive is lookup for uploads: a page that is about to be swept is not
// there, since what it names may be gone already. Its blocks of data are there
// as long as they are: whoever pins one keeps it. The caller holds pins.
func (s *Store) lookupAlive(ds []block.Digest) ([]entry, error) {
	es, err := s.lookup(ds)
	if err == nil && s.barrier != nil {
		for i, e := range es {
			if e.page && s.barrier.doomed(e) {
				es[i] = entry{}
			}
		}
	}
	return es, err
}

// walker visits everything that can be reached from pages, each page once. It
// goes by what the index says is a page, not by levels, which two maps may see
// differently, and which a pinned page does not tell.
type walker struct {
	s *Store
	// mark takes ids that were reached, and reports for each, in place, whether it
	// is new. A page is walked if it is.
	mark func(es []entry, fresh []bool)
	// fail takes what cannot be read or is not there; if it returns nil, the walk
	// goes on without it.
	fail    func(r pageRef, err error) error
	visited func(pages int) // may be nil
}

// walkBatch is how many pages are read at a time: 1 MiB of them, which name up to
// 32768 blocks.
const walkBatch = 128

// walk visits pages that are marked already, and all below them. Memory is 4 MiB
// and some 2 MiB for each level of the maps.
func (w *walker) walk(ctx context.Context, stack []pageRef) error {
	var fresh []bool
	for len(stack) > 0 {
		n := len(stack) - min(len(stack), walkBatch)
		batch := slices.Clone(stack[n:])
		stack = stack[:n]
		children, err := w.read(ctx, batch)
		if err != nil {
			return err
		}
		var ds []block.Digest
		for _, c := range children {
			ds = append(ds, c...)
		}
		es, err := w.s.lookup(ds)
		if err != nil {
			return err
		}
		at := 0
		for i, c := range children {
			for j := range c {
				if es[at+j].id == 0 {
					if err := w.fail(batch[i], fmt.Errorf("page %s names block %s: %w", batch[i].digest, c[j], ErrBlockMissing)); err != nil {
						return err
					}
				}
			}
			at += len(c)
		}
		fresh = append(fresh[:0], make([]bool, len(es))...)
		w.mark(es, fresh)
		at = 0
		for i, c := range children {
			for j := range c {
				if e := es[at+j]; e.page && fresh[at+j] {
					stack = append(stack, pageRef{c[j], e.id, batch[i].point})
				}
			}
			at += len(c)
		}
		if w.visited != nil {
			w.visited(len(batch))
		}
	}
	return nil
}

// read gives what each of a batch of pages names, in the order of their ids.
func (w *walker) read(ctx context.Context, batch []pageRef) ([][]block.Digest, error) {
	wants := make([]want, len(batch))
	for i, r := range batch {
		wants[i] = want{i: i, digest: r.digest, entry: entry{id: r.id}}
	}
	slices.SortFunc(wants, byID)
	children := make([][]block.Digest, len(batch))
	err := w.s.fetchRun(ctx, wants, func(v want, stored []byte, err error) error {
		r := &batch[v.i]
		var plain []byte
		switch {
		case err != nil:
		case r.digest == block.Zero:
			if plain, err = block.Decode(nil, stored); err == nil {
				r.digest = block.Sum(plain)
			}
		default:
			plain, err = block.Open(nil, stored, r.digest)
		}
		if err == nil && len(plain) != diskmap.PageSize {
			err = fmt.Errorf("%w: %d bytes where a page should be", ErrCorrupt, len(plain))
		}
		if err != nil {
			if !isDamage(err) {
				return err
			}
			return w.fail(*r, err)
		}
		children[v.i] = pageChildren(plain)
		return nil
	})
	return children, err
}

// roots looks up the roots of points. What is not there goes to fail.
func (w *walker) roots(ps []Point) ([]pageRef, error) {
	var refs []pageRef
	var ds []block.Digest
	for _, p := range ps {
		for _, d := range p.Disks {
			if d.Map.Root != block.Zero {
				refs, ds = append(refs, pageRef{d.Map.Root, 0, p.ID}), append(ds, d.Map.Root)
			}
		}
	}
	es, err := w.s.lookup(ds)
	if err != nil {
		return nil, err
	}
	fresh := make([]bool, len(es))
	w.mark(es, fresh)
	var out []pageRef
	for i, e := range es {
		refs[i].id = e.id
		switch {
		case e.id == 0 || !e.page:
			if err := w.fail(refs[i], fmt.Errorf("%w: root page %s", ErrBlockMissing, ds[i])); err != nil {
				return nil, err
			}
		case fresh[i]:
			out = append(out, refs[i])
		}
	}
	return out, nil
}

// incomplete is walker.fail of a walk that must miss nothing.
func incomplete(r pageRef, err error) error {
	if errors.Is(err, ErrClosed) || errors.Is(err, context.Canceled) {
		return err
	}
	return &CorruptError{Digest: r.digest, ID: r.id, Point: r.point, Err: err}
}
