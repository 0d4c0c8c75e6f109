package blockstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"
)

// Reclaim is mark and sweep, with uploads, readers and deletions going on. The
// rules that make this safe:
//
//   - At one moment, under pins for writing, it sees all points, holds and pins,
//     and the barrier goes up. From then on every block that an upload pins or
//     puts is kept, with all that is below it. So whatever a
//     point needs that is committed later was pinned at that moment, or is kept
//     since, or is younger than the limit: the next id, taken once everything has
//     landed that was on its way at that moment.
//   - When all that is marked, and no late page waits to be walked, sweeping
//     begins. What is below the limit and not marked is doomed. For uploads a
//     doomed page is not there. It may be put again: then all that it names was
//     found or put before, and it simply stays. A doomed block of data is there
//     until it is removed, and stays when it is found before. Each batch of
//     removals is made under pins for writing, and leaves out what stays.
//   - Index entries go first, those of pages by descending id, then those of data.
//     A page's id is greater than those of what it names, so invariant 2 holds
//     after each batch, whatever ends the Reclaim there. Then blocks/ gives up the
//     space of all ids that no entry names (tables.go), also those that a crash
//     left behind.
//
// Points that are deleted and uploads that end meanwhile leave their blocks to the
// next one.

// ReclaimOptions are choices for Reclaim. The zero value is good.
type ReclaimOptions struct {
	// DryRun only counts.
	DryRun bool
	// Threshold is the share of garbage, above 0 and at most 1, from which on a
	// table of blocks is written anew without it. 0 is 0.2.
	Threshold float64
	// Progress, if not nil, is called now and then, by one goroutine.
	Progress func(ReclaimProgress)
}

// ReclaimPhase is what a Reclaim is doing.
type ReclaimPhase int

// The phases in their order; a dry run ends with the second.
const (
	ReclaimMarking  ReclaimPhase = iota // walking the maps of points
	ReclaimCounting                     // reading the index
	ReclaimRemoving                     // removing index entries
	ReclaimWriting                      // giving space back to the file system
)

// ReclaimProgress is how far a Reclaim has come.
type ReclaimProgress struct {
	Phase       ReclaimPhase
	Done, Total uint64 // of the phase: points, index entries, garbage blocks, bytes of tables
	Report      ReclaimReport
}

// ReclaimReport says what a Reclaim found and did. Bytes are those of stored
// forms, unless said otherwise.
type ReclaimReport struct {
	Points        int    // whose maps were walked
	MarkedBlocks  uint64 // blocks that are needed, pages included
	MarkedMemory  uint64 // bytes of memory that remembering them took
	GarbageBlocks uint64 // blocks that nothing needs and that can be removed
	GarbageBytes  uint64
	// LeftBytes are garbage without index entries in tables that have too little
	// of it to be written anew. It goes when there is more.
	LeftBytes uint64

	RemovedEntries uint64 // index entries removed
	TablesDropped  int    // tables of which nothing was needed
	TablesWritten  int    // tables written anew, counted before
	TablesFailed   int    // tables that could not be, because of damage or a full disk
	// FreedBytes is by how much the files of blocks/ became smaller; in a dry run,
	// about how much they would. It is negative when small tables were joined and
	// nothing else was to do.
	FreedBytes              int64
	BytesBefore, BytesAfter uint64 // size of the tables in blocks/, those of concurrent uploads included
	Duration                time.Duration
}

const defaultThreshold = 0.2

// Reclaim removes the blocks that no point, hold or upload needs, and gives their
// space back. It may be stopped at any time: the next one finishes. Errors:
// ErrReclaiming; ErrCorrupt, when something cannot be read that says what is
// needed: then nothing was removed; ErrFull, when there is not even room to
// remove index entries.
//
// Memory is a bitmap of the blocks that are needed (at most a bit per id ever
// given, 125 MB for 10⁹), 200 bytes per table, and some 50 MiB.
func (s *Store) Reclaim(ctx context.Context, o ReclaimOptions) (ReclaimReport, error) {
	enter := s.enterWrite
	if o.DryRun {
		enter = s.enter
	}
	if err := enter(); err != nil {
		return ReclaimReport{}, err
	}
	defer s.leave()
	if !s.reclaiming.TryLock() {
		return ReclaimReport{}, fmt.Errorf("%w: %s", ErrReclaiming, s.dir)
	}
	defer s.reclaiming.Unlock()
	if o.Threshold == 0 {
		o.Threshold = defaultThreshold
	}
	if !(o.Threshold > 0 && o.Threshold <= 1) {
		return ReclaimReport{}, fmt.Errorf("%w: reclaim threshold %v, must be above 0 and at most 1", ErrInvalid, o.Threshold)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })()

	start := time.Now()
	r := reclaim{s: s, o: o, b: &barrier{}}
	err := r.run(ctx)
	r.report.Duration = time.Since(start)
	if err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return r.report, fmt.Errorf("reclaim vault %s: %w", s.dir, s.noSpace(err))
	}
	return r.report, nil
}

// reclaim is a running Reclaim.
type reclaim struct {
	s      *Store
	o      ReclaimOptions
	b      *barrier
	limit  uint64
	tables []tableSpan
	pages  roaring64.Bitmap // ids of pages that are garbage
	report ReclaimReport
	shown  time.Time

	lost, lostBytes uint64 // garbage that no entry names, in tables that go
	removedBytes    uint64 // stored bytes of RemovedEntries
}

func (r *reclaim) run(ctx context.Context) error {
	defer r.s.lower()
	if err := r.mark(ctx); err != nil {
		return err
	}
	if err := r.s.g.failure(); err != nil {
		return err
	}
	var err error
	if r.tables, err = r.s.tablesBelow(r.limit); err != nil {
		return err
	}
	if err := r.count(ctx); err != nil {
		return err
	}
	for _, t := range r.tables {
		r.report.BytesBefore += t.size
	}
	r.report.BytesAfter = r.report.BytesBefore
	if r.o.DryRun {
		r.estimate()
		return nil
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	r.s.lower()
	return r.shrink(ctx)
}

// lower takes the barrier down. What is doomed and still there is there again,
// with all that it needs.
func (s *Store) lower() {
	s.pins.Lock()
	defer s.pins.Unlock()
	s.barrier = nil
}

// show reports progress, twice a second, or at once.
func (r *reclaim) show(phase ReclaimPhase, done, total uint64, now bool) {
	if r.o.Progress == nil || !now && time.Since(r.shown) < time.Second/2 {
		return
	}
	r.shown = time.Now()
	r.o.Progress(ReclaimProgress{Phase: phase, Done: min(done, max(done, total)), Total: max(done, total), Report: r.report})
}

// mark finds what is needed, up to the moment at which sweeping begins.
func (r *reclaim) mark(ctx context.Context) error {
	s, b := r.s, r.b
	// What is on its way into small tables must not be joined with what is looked
	// at here: tables below the limit are this Reclaim's.
	s.merging.Lock()
	s.mergeFloor.Store(^uint64(0))
	s.merging.Unlock()
	defer func() { s.mergeFloor.Store(r.limit) }()

	snap, pinned, held := s.raise(b)
	defer snap.Close()
	if s.pipe != nil {
		// Twice: first what was on its way lands, to be judged like all else, and
		// then everything below the limit has told who needs it.
		for range 2 {
			select {
			case <-s.pipe.flush():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if r.limit == 0 {
				r.limit = s.st.Load().next
			}
		}
	} else {
		r.limit = s.st.Load().next
	}
	b.mu.Lock()
	b.limit = r.limit
	b.mu.Unlock()

	total, err := countPoints(snap)
	if err != nil {
		return s.readError(err)
	}
	r.show(ReclaimMarking, 0, total, true)
	w := &walker{s: s, mark: b.markAll, fail: incomplete, visited: func(int) {
		r.show(ReclaimMarking, uint64(r.report.Points), total, false)
	}}
	if err := w.walk(ctx, pinned); err != nil {
		return err
	}
	if err := r.markPoints(ctx, w, held); err != nil {
		return err
	}
	var some []Point
	err = s.pointsOf(snap, func(p Point) error {
		if some = append(some, p); len(some) < walkBatch {
			return nil
		}
		err := r.markPoints(ctx, w, some)
		r.report.Points += len(some)
		some = some[:0]
		return err
	})
	if err != nil {
		return err
	}
	r.report.Points += len(some)
	if err := r.markPoints(ctx, w, some); err != nil {
		return err
	}
	for {
		if err := w.walk(ctx, b.takeLate()); err != nil {
			return err
		}
		if r.o.DryRun || s.beginSweep(b) {
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r.report.MarkedBlocks, r.report.MarkedMemory = b.keep.GetCardinality(), b.keep.GetSizeInBytes()
	r.show(ReclaimMarking, total, total, true)
	return nil
}

func (r *reclaim) markPoints(ctx context.Context, w *walker, ps []Point) error {
	roots, err := w.roots(ps)
	if err != nil {
		return err
	}
	return w.walk(ctx, roots)
}

// raise puts the barrier up, and gives what is needed at this moment. The points
// are looked at last: an upload whose pins are gone by then has made its point.
func (s *Store) raise(b *barrier) (snap *pebble.Snapshot, pinned []pageRef, held []Point) {
	s.pins.Lock()
	defer s.pins.Unlock()
	s.barrier = b
	s.mu.Lock()
	for h := range s.held {
		held = append(held, h.point)
	}
	uploads := slices.Collect(maps.Values(s.uploads))
	s.mu.Unlock() // an upload that ends takes its own lock first
	for _, u := range uploads {
		u.mu.Lock()
		b.keep.Or(&u.data)
		for it := u.pages.Iterator(); it.HasNext(); {
			if id := it.Next(); b.keep.CheckedAdd(id) {
				pinned = append(pinned, pageRef{id: id})
			}
		}
		u.mu.Unlock()
	}
	return s.index.NewSnapshot(), pinned, held
}

// markAll is walker.mark.
func (b *barrier) markAll(es []entry, fresh []bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, e := range es {
		fresh[i] = e.id != 0 && b.keep.CheckedAdd(e.id)
	}
}

// beginSweep dooms what is not marked, unless there is more to mark.
func (s *Store) beginSweep(b *barrier) bool {
	s.pins.Lock()
	defer s.pins.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweeping = len(b.late) == 0
	return b.sweeping
}

func countPoints(snap *pebble.Snapshot) (n uint64, err error) {
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: []byte{pointSpace}, UpperBound: []byte{pointSpace + 1}})
	if err != nil {
		return 0, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	return n, it.Close()
}

// pointsOf calls fn for all points of a snapshot.
func (s *Store) pointsOf(snap *pebble.Snapshot, fn func(Point) error) error {
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: []byte{pointSpace}, UpperBound: []byte{pointSpace + 1}})
	if err != nil {
		return s.readError(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return s.readError(err)
		}
		p, err := parsePoint(string(it.Key()[1:]), v)
		if err != nil {
			return err
		}
		if err := fn(p); err != nil {
			return err
		}
	}
	return s.readError(it.Error())
}
