package blockstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// VerifyProgress is what a check has done so far.
type VerifyProgress struct {
	Blocks uint64 // blocks and pages that were read, decoded and re-hashed
	Bytes  uint64 // plain bytes of those that were good
}

// VerifyReport is what a check found. That the check came to its end does not
// mean that the data is good: see BadCount.
type VerifyReport struct {
	VerifyProgress
	Points   int        // points walked
	Bad      []BadBlock // the first thousand, in no order
	BadCount uint64     // blocks that are damaged or missing
	Damaged  []string   // ids of the points that need any of them, sorted
	Orphans  uint64     // Verify only: sound blocks that the index does not name; crashes leave some, and Reclaim what is not worth writing a table anew
}

// BadBlock is a block that is damaged or missing.
type BadBlock struct {
	Digest block.Digest
	ID     uint64 // in blocks/; 0 if the index has no entry
	Page   bool   // it is a page: what only it leads to was not looked at
	Err    error
}

const (
	maxBad      = 1000
	verifyBatch = 256 // blocks that a worker takes at a time
	maxDepth    = 8   // levels of pages are 1 … 7
)

// verifier is one running check.
type verifier struct {
	s        *Store
	progress func(VerifyProgress)
	limit    uint64             // ids from here on are younger than the check
	emit     func(w want) error // VerifyPoint: takes each block of data once

	// Of the scan, nil when there is none.
	known  *roaring64.Bitmap // ids of blocks that are what the index says
	causes faults

	// Of the walk, which is one goroutine.
	pages   [maxDepth]roaring64.Bitmap // ids of the pages met, by level
	data    roaring64.Bitmap           // ids of data emitted
	tainted map[block.Digest]bool      // pages above something bad

	mu     sync.Mutex
	report VerifyReport
	bad    map[block.Digest]bool
}

func (s *Store) newVerifier(progress func(VerifyProgress)) *verifier {
	if progress == nil {
		progress = func(VerifyProgress) {}
	}
	return &verifier{
		s: s, progress: progress, limit: s.st.Load().next,
		tainted: map[block.Digest]bool{}, bad: map[block.Digest]bool{},
	}
}

// fault reports a bad block, once.
func (v *verifier) fault(b BadBlock) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad[b.Digest] {
		return
	}
	v.bad[b.Digest] = true
	v.report.BadCount++
	if len(v.report.Bad) < maxBad {
		v.report.Bad = append(v.report.Bad, b)
	}
}

func (v *verifier) isBad(d block.Digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bad[d]
}

func (v *verifier) checked(blocks, bytes uint64) {
	v.mu.Lock()
	v.report.Blocks += blocks
	v.report.Bytes += bytes
	p := v.report.VerifyProgress
	v.mu.Unlock()
	v.progress(p)
}

// check reads blocks and reports those that are not what they should be.
func (v *verifier) check(ctx context.Context, wants []want) error {
	var buf []byte
	var blocks, bytes uint64
	err := v.s.fetchRun(ctx, wants, func(w want, stored []byte, err error) error {
		blocks++
		if err == nil {
			var plain []byte
			if plain, err = block.Open(buf[:0], stored, w.digest); err == nil {
				bytes += uint64(len(plain))
				buf = plain
			}
		}
		if err != nil {
			v.fault(BadBlock{Digest: w.digest, ID: w.entry.id, Page: w.entry.page, Err: err})
		}
		return nil
	})
	v.checked(blocks, bytes)
	return err
}

// ReadBlocks reads pages for the walk, past the cache.
func (v *verifier) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	es, err := v.s.lookup(ds)
	if err != nil {
		return nil, err
	}
	out, wants := make([][]byte, len(ds)), make([]want, len(ds))
	var bytes uint64
	for i, d := range ds {
		wants[i] = want{i, d, es[i]}
	}
	err = v.s.fetchRun(ctx, wants, func(w want, stored []byte, err error) error {
		if err == nil {
			out[w.i], err = block.Open(nil, stored, w.digest)
		}
		bytes += uint64(len(out[w.i]))
		return err
	})
	if err != nil {
		return nil, err
	}
	if v.known == nil {
		v.checked(uint64(len(ds)), bytes)
	}
	return out, nil
}

// walk visits all pages of a point that were not visited before.
func (v *verifier) walk(ctx context.Context, p Point) error {
	for _, d := range p.Disks {
		err := diskmap.WalkPages(ctx, v, d.Map, diskmap.Visitor{
			Enter: v.enter,
			Leaf:  v.leaf,
			Fail: func(p diskmap.Page, err error) error {
				if errors.Is(err, ErrClosed) {
					return err
				}
				es, lerr := v.s.lookup([]block.Digest{p.Digest})
				if lerr != nil {
					return lerr
				}
				v.fault(BadBlock{Digest: p.Digest, ID: es[0].id, Page: true, Err: err})
				return nil
			},
		})
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return nil
}

func (v *verifier) enter(p diskmap.Page) (bool, error) {
	es, err := v.s.lookup([]block.Digest{p.Digest})
	if err != nil {
		return false, err
	}
	if !v.there(p.Digest, es[0], true) {
		return false, nil
	}
	return v.pages[p.Level].CheckedAdd(es[0].id), nil
}

// there reports whether the index has a good block of the right kind.
func (v *verifier) there(d block.Digest, e entry, page bool) bool {
	switch {
	case e.id == 0:
		v.fault(BadBlock{Digest: d, Page: page, Err: ErrBlockMissing})
	case e.page != page:
		v.fault(BadBlock{Digest: d, ID: e.id, Page: page, Err: fmt.Errorf("%w: a page stands for data, or data for a page", ErrCorrupt)})
	}
	return !v.isBad(d)
}

func (v *verifier) leaf(p diskmap.Page, entries []block.Digest) error {
	ds := make([]block.Digest, 0, len(entries))
	for _, d := range entries {
		if d != block.Zero {
			ds = append(ds, d)
		}
	}
	es, err := v.s.lookup(ds)
	if err != nil {
		return err
	}
	for i, e := range es {
		if !v.there(ds[i], e, false) {
			v.tainted[p.Digest] = true
		} else if v.emit != nil && v.data.CheckedAdd(e.id) {
			if err := v.emit(want{digest: ds[i], entry: e}); err != nil {
				return err
			}
		}
	}
	return nil
}

// VerifyPoint reads every block and page of a point, each once and past all
// caches, and checks that they have the digests by which the point knows them.
// Damage does not end it. progress, which may be nil, is called by several
// goroutines.
func (s *Store) VerifyPoint(ctx context.Context, id string, progress func(VerifyProgress)) (VerifyReport, error) {
	if err := s.enter(); err != nil {
		return VerifyReport{}, err
	}
	defer s.leave()
	h, err := s.hold(id)
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verify: %w", err)
	}
	defer s.drop(h)
	v := s.newVerifier(progress)
	g, gctx := errgroup.WithContext(ctx)
	todo := make(chan []want)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for ws := range todo {
				if err := v.check(gctx, ws); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(todo)
		var batch []want
		send := func() error {
			slices.SortFunc(batch, byID)
			select {
			case todo <- batch:
				batch = nil
				return nil
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		v.emit = func(w want) error {
			if batch = append(batch, w); len(batch) < verifyBatch {
				return nil
			}
			return send()
		}
		if err := v.walk(gctx, h.point); err != nil {
			return err
		}
		return send()
	})
	if err := g.Wait(); err != nil {
		return v.report, fmt.Errorf("verify point %s: %w", id, err)
	}
	v.report.Points = 1
	if v.report.BadCount > 0 {
		v.report.Damaged = []string{id}
	}
	return v.report, nil
}
