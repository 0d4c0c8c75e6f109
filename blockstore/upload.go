package blockstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"cairn/blockstore/block"
)

// Upload collects what a point needs, and keeps alive what of it the store has
// already. It lives in memory: after a restart it is gone, but not the blocks it
// made durable, which FindMissing then finds. It is safe for concurrent use.
type Upload struct {
	s  *Store
	id string

	mu     sync.Mutex
	closed bool
	// data and pages are the ids of blocks that must not go away while the
	// upload is open. Pages are apart because all that is below them must stay
	// as well, and the page alone is pinned.
	data, pages roaring64.Bitmap
	// known are digests that are pinned, or on their way, of the recent past:
	// what the next page names is mostly there.
	known recent
	// failed are blocks that were promised and then lost, until they are put
	// again. With any of them no point can be whole.
	failed map[block.Digest]error
	holds  []*hold
}

// Block is a block on its way into a store.
type Block struct {
	Digest block.Digest // of the plain bytes
	Stored []byte       // stored form, see block.Encode; Put keeps it until its Ack is done
}

// recent is a set of digests that forgets its older half now and then. It keeps
// 64 bits of each, hashed with a secret: nobody can make up a digest that it
// takes for another.
type recent struct{ now, old map[uint64]struct{} }

// recentMax is half of what is remembered: blocks of 16 GiB, in 9 MiB of memory
// at most for both halves.
const recentMax = 256 << 10

var recentSeed = maphash.MakeSeed()

func (r *recent) add(d block.Digest) {
	if len(r.now) >= recentMax || r.now == nil {
		r.now, r.old = map[uint64]struct{}{}, r.now
	}
	r.now[maphash.Bytes(recentSeed, d[:])] = struct{}{}
}

func (r *recent) has(d block.Digest) bool {
	h := maphash.Bytes(recentSeed, d[:])
	if _, ok := r.now[h]; ok {
		return true
	}
	_, ok := r.old[h]
	return ok
}

// StartUpload opens an upload. The id names it in messages; no two open uploads
// have the same (ErrExists).
func (s *Store) StartUpload(id string) (*Upload, error) {
	if err := checkName("upload id", id); err != nil {
		return nil, err
	}
	if err := s.enterWrite(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uploads[id] != nil {
		return nil, fmt.Errorf("upload %s: %w", id, ErrExists)
	}
	u := &Upload{s: s, id: id, failed: map[block.Digest]error{}}
	s.uploads[id] = u
	return u, nil
}

// ID is what StartUpload was given.
func (u *Upload) ID() string { return u.id }

// enter begins a call; Store.leave ends it.
func (u *Upload) enter() error {
	if err := u.s.enterWrite(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		u.s.leave()
		return fmt.Errorf("upload %s: %w", u.id, ErrUploadClosed)
	}
	return nil
}

// base is the point that was pinned last, "" if there is none.
func (u *Upload) base() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.holds) == 0 {
		return ""
	}
	return u.holds[len(u.holds)-1].point.ID
}

// pin keeps a stored block for the upload. The caller holds pins.
func (u *Upload) pin(d block.Digest, e entry) {
	// For a closed upload as well: its page may be on its way.
	u.s.barrier.need(d, e)
	u.add(d, e)
}

// add pins a block unless the upload is closed.
func (u *Upload) add(d block.Digest, e entry) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	if e.page {
		u.pages.Add(e.id)
	} else {
		u.data.Add(e.id)
	}
	u.known.add(d)
	delete(u.failed, d)
	return true
}

// await is pin for a block on its way.
func (u *Upload) await(d block.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.closed {
		u.known.add(d)
		delete(u.failed, d)
	}
}

func (u *Upload) landed(f *flight) {
	if u.add(f.digest, f.entry) {
		u.s.barrier.need(f.digest, f.entry)
	}
}

func (u *Upload) lost(f *flight, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.closed {
		u.failed[f.digest] = err
		u.known = recent{}
	}
}

// findBatch bounds the look-ups made under one hold of pins.
const findBatch = 4096

// FindMissing returns the indexes of those blocks that the store lacks, in
// ascending order, and pins the others for this upload. What another upload is
// just putting counts as there; if it is lost, Flush says so.
func (u *Upload) FindMissing(ctx context.Context, ds []block.Digest) ([]int, error) {
	if err := u.enter(); err != nil {
		return nil, err
	}
	defer u.s.leave()
	for i, d := range ds {
		if d == block.Zero {
			return nil, fmt.Errorf("find missing: digest %d: %w", i, ErrZeroBlock)
		}
	}
	var missing []int
	for from := 0; from < len(ds); from += findBatch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := ds[from:min(from+findBatch, len(ds))]
		u.s.pins.RLock()
		err := u.find(part, func(i int) { missing = append(missing, from+i) })
		u.s.pins.RUnlock()
		if err != nil {
			return nil, fmt.Errorf("find missing: %w", err)
		}
	}
	return missing, nil
}

// find pins what there is of ds and reports the rest. The caller holds pins.
func (u *Upload) find(ds []block.Digest, missing func(i int)) error {
	es, err := u.s.lookupAlive(ds)
	if err != nil {
		return err
	}
	p := u.s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, d := range ds {
		if es[i].id != 0 {
			u.pin(d, es[i])
		} else if f := p.flights[d]; f != nil {
			f.waiters = append(f.waiters, waiter{u: u})
			f.keeper = u.s.barrier
			u.await(d)
		} else {
			missing(i)
		}
	}
	return nil
}

// Flush returns when everything put so far is durable, and what FindMissing
// found on its way. If some of it was lost, it says why, until that is put again.
func (u *Upload) Flush(ctx context.Context) error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.s.leave()
	return u.flush(ctx)
}

func (u *Upload) flush(ctx context.Context) error {
	select {
	case <-u.s.pipe.flush():
	case <-ctx.Done():
		return ctx.Err()
	case <-u.s.ctx.Done():
		return ErrClosed
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for d, err := range u.failed {
		return fmt.Errorf("upload %s: %d blocks are lost and must be put again, block %s for one: %w", u.id, len(u.failed), d, err)
	}
	return nil
}

// Abort closes the upload without a point. What it put is garbage then, unless
// another upload uses it. After Commit or Close of the store it does nothing.
func (u *Upload) Abort() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.closed {
		u.s.abandoned.Add(1)
	}
	u.close()
}

// close drops the pins. The caller holds mu.
func (u *Upload) close() {
	if u.closed {
		return
	}
	u.closed = true
	u.data.Clear()
	u.pages.Clear()
	u.known, u.failed = recent{}, nil
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	delete(u.s.uploads, u.id)
	for _, h := range u.holds {
		delete(u.s.held, h)
	}
	u.holds = nil
}
