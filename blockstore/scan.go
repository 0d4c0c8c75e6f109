package blockstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// Verify is VerifyPoint for the whole vault: it reads every block in blocks/, in
// the order in which they lie there, checks that every index entry leads to the
// block that it should, and walks all points, each page once, to find what is
// missing and which points are damaged.
func (s *Store) Verify(ctx context.Context, progress func(VerifyProgress)) (VerifyReport, error) {
	if err := s.enter(); err != nil {
		return VerifyReport{}, err
	}
	defer s.leave()
	v := s.newVerifier(progress)
	err := func() error {
		if err := v.scanBlocks(ctx); err != nil {
			return err
		}
		if err := v.scanIndex(ctx); err != nil {
			return err
		}
		return v.walkAll(ctx)
	}()
	if err != nil {
		return v.report, fmt.Errorf("verify vault %s: %w", s.dir, err)
	}
	return v.report, nil
}

// scanChunk is how many ids a worker takes at a time.
const scanChunk = 4096

// faults are errors by block id, of as many ids as a report can list.
type faults struct {
	mu sync.Mutex
	m  map[uint64]error
}

func (f *faults) add(id uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.m) < maxBad {
		f.m[id] = err
	}
}

// scanBlocks collects in known the ids whose block is what the index says.
func (v *verifier) scanBlocks(ctx context.Context) error {
	v.known, v.causes = roaring64.New(), faults{m: map[uint64]error{}}
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			sc := scanner{v: v}
			for {
				lo := next.Add(scanChunk) - scanChunk
				if lo >= v.limit {
					return nil
				}
				if err := sc.scan(ctx, lo, min(lo+scanChunk, v.limit)); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// scanner reads a range of ids.
type scanner struct {
	v       *verifier
	buf     []byte
	digests []block.Digest
	found   []entry // what the blocks themselves say
	bytes   uint64
}

func (sc *scanner) scan(ctx context.Context, lo, hi uint64) error {
	it, err := sc.v.s.blockIter(&pebble.IterOptions{LowerBound: blockKey(lo), UpperBound: blockKey(hi)})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ; ok = it.Next() {
		for !ok && it.Error() != nil && lo < hi {
			// Something from lo on cannot be read. Try every id: the index will
			// tell which of them should have been there.
			sc.v.causes.add(lo, it.Error())
			if pebble.IsCorruptionError(it.Error()) {
				sc.v.s.damaged.add(lo, it.Error())
			}
			lo++
			ok = it.SeekGE(blockKey(lo))
		}
		if !ok {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if sc.v.s.ctx.Err() != nil {
			return ErrClosed
		}
		id, err := parseBlockKey(it.Key())
		if err != nil {
			return err
		}
		lo = id + 1
		stored, err := it.ValueAndErr()
		if err == nil {
			sc.buf, err = block.Decode(sc.buf[:0], stored)
		}
		if err != nil {
			sc.v.causes.add(id, err)
			continue
		}
		sc.digests = append(sc.digests, block.Sum(sc.buf))
		sc.found = append(sc.found, entry{id: id, stored: uint32(len(stored)), page: len(sc.buf) == diskmap.PageSize})
		sc.bytes += uint64(len(sc.buf))
		if len(sc.found) >= verifyBatch {
			if err := sc.compare(); err != nil {
				return err
			}
		}
	}
	return sc.compare()
}

// compare asks the index about the blocks found.
func (sc *scanner) compare() error {
	es, err := sc.v.s.lookup(sc.digests)
	if err != nil {
		return err
	}
	sc.v.mu.Lock()
	for i, e := range es {
		if e == sc.found[i] {
			sc.v.known.Add(e.id)
		} else if e.id != sc.found[i].id {
			sc.v.report.Orphans++
		}
	}
	sc.v.mu.Unlock()
	sc.v.checked(uint64(len(es)), sc.bytes)
	sc.digests, sc.found, sc.bytes = sc.digests[:0], sc.found[:0], 0
	return nil
}

// errOther is what is wrong with a block that can be read, and is another.
var errOther = fmt.Errorf("%w: there is no such block under its id", ErrCorrupt)

// scanIndex reports every entry that does not lead to its block.
func (v *verifier) scanIndex(ctx context.Context) error {
	var met, twice roaring64.Bitmap
	err := v.entries(ctx, func(d block.Digest, e entry) error {
		if !v.known.Contains(e.id) {
			err := v.causes.m[e.id]
			if err == nil {
				err = errOther
			}
			v.fault(BadBlock{Digest: d, ID: e.id, Page: e.page, Err: err})
		} else if !met.CheckedAdd(e.id) {
			twice.Add(e.id)
		}
		return nil
	})
	if err != nil || twice.IsEmpty() {
		return err
	}
	// Two digests lead to one block, which has one of them.
	return v.entries(ctx, func(d block.Digest, e entry) error {
		if twice.Contains(e.id) {
			return v.check(ctx, []want{{digest: d, entry: e}})
		}
		return nil
	})
}

// entries calls fn for the index entries of blocks that are not too young.
func (v *verifier) entries(ctx context.Context, fn func(block.Digest, entry) error) error {
	it, err := v.s.index.NewIter(&pebble.IterOptions{LowerBound: []byte{digestSpace}, UpperBound: []byte{digestSpace + 1}})
	if err != nil {
		return v.s.readError(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if v.s.ctx.Err() != nil {
			return ErrClosed
		}
		if len(it.Key()) != digestKeyLen {
			return fmt.Errorf("%w: index key %x", ErrCorrupt, it.Key())
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return v.s.readError(err)
		}
		d := block.Digest(it.Key()[1:])
		e, err := parseEntry(value)
		if err != nil {
			v.fault(BadBlock{Digest: d, Err: err})
			continue
		}
		if e.id >= v.limit {
			continue
		}
		if err := fn(d, e); err != nil {
			return err
		}
	}
	return v.s.readError(it.Error())
}

// walkAll finds what points lack, and which of them are damaged.
func (v *verifier) walkAll(ctx context.Context) error {
	var werr error
	err := v.s.Points("", "", func(p Point) bool {
		h, err := v.s.hold(p.ID)
		if errors.Is(err, ErrNotFound) {
			return true // deleted meanwhile, and perhaps reclaimed
		}
		if werr = err; err != nil {
			return false
		}
		defer v.s.drop(h)
		v.report.Points++
		werr = v.walk(ctx, h.point)
		return werr == nil
	})
	if err := errors.Join(werr, err); err != nil {
		return err
	}
	if v.report.BadCount == 0 {
		return nil
	}
	if err := v.taint(ctx); err != nil {
		return err
	}
	return v.s.Points("", "", func(p Point) bool {
		if slices.ContainsFunc(p.Disks, func(d Disk) bool { return v.bad[d.Map.Root] || v.tainted[d.Map.Root] }) {
			v.report.Damaged = append(v.report.Damaged, p.ID)
		}
		return true
	})
}

// taint marks, level by level, the inner pages above something bad. They are one
// in 256 of the pages, so reading them again costs little.
func (v *verifier) taint(ctx context.Context) error {
	for level := 2; level < maxDepth; level++ {
		var wants []want
		ids := v.pages[level].Iterator()
		for ids.HasNext() {
			wants = append(wants, want{entry: entry{id: ids.Next()}})
		}
		err := v.s.fetchRun(ctx, wants, func(_ want, stored []byte, err error) error {
			if err != nil {
				return nil // bad itself, as is known
			}
			page, err := block.Decode(nil, stored)
			if err != nil || len(page) != diskmap.PageSize {
				return nil
			}
			if slices.ContainsFunc(pageChildren(page), func(d block.Digest) bool { return v.bad[d] || v.tainted[d] }) {
				v.tainted[block.Sum(page)] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
