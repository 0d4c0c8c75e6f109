package blockstore

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
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

// Ack tells when what one Put brought is durable. What was new in it is fixed
// when Put returns.
type Ack struct {
	Blocks      int   // blocks that were neither stored nor on their way
	PlainBytes  int64 // their plain bytes
	StoredBytes int64 // the bytes they take

	done chan struct{}
	open atomic.Int32 // flights that are awaited, and one for Put itself
	mu   sync.Mutex
	err  error
}

// Done is closed when the blocks of the Put are durable, or the first failed.
// That can take as long as it takes to fill a table: have as much as two tables
// unacknowledged, or use Flush.
func (a *Ack) Done() <-chan struct{} { return a.done }

// Err says, once Done is closed, why a block was lost: ErrFull, ErrFailed,
// ErrClosed. Nil means that all are durable.
func (a *Ack) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *Ack) settle(err error) {
	if a == nil {
		return
	}
	if err != nil {
		a.mu.Lock()
		if a.err == nil {
			a.err = err
		}
		a.mu.Unlock()
	}
	if a.open.Add(-1) == 0 {
		close(a.done)
	}
}

// recent is a set that forgets its older half now and then.
type recent struct{ now, old map[block.Digest]struct{} }

const recentMax = 32 << 10

func (r *recent) add(d block.Digest) {
	if len(r.now) >= recentMax || r.now == nil {
		r.now, r.old = map[block.Digest]struct{}{}, r.now
	}
	r.now[d] = struct{}{}
}

func (r *recent) has(d block.Digest) bool {
	if _, ok := r.now[d]; ok {
		return true
	}
	_, ok := r.old[d]
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

// pin keeps a stored block for the upload.
func (u *Upload) pin(d block.Digest, e entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	if e.page {
		u.pages.Add(e.id)
	} else {
		u.data.Add(e.id)
	}
	u.known.add(d)
	delete(u.failed, d)
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

func (u *Upload) landed(f *flight) { u.pin(f.digest, f.entry) }

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
	es, err := u.s.lookup(ds)
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
			u.await(d)
		} else {
			missing(i)
		}
	}
	return nil
}

// Put takes blocks: their stored forms are decoded and re-hashed, and those that
// the store has not are queued. It blocks while the disk cannot keep up. Either
// all blocks are taken or none: errors are ErrDigestMismatch, ErrZeroBlock,
// ErrBlockSize, ErrBlockMissing for a page that names a block which is neither
// stored nor on its way nor earlier in blocks, and ErrFull.
func (u *Upload) Put(ctx context.Context, blocks []Block) (*Ack, error) {
	if err := u.enter(); err != nil {
		return nil, err
	}
	defer u.s.leave()
	fs, children, err := u.open(blocks)
	if err != nil {
		return nil, fmt.Errorf("put blocks: %w", err)
	}
	ack, err := u.queue(ctx, fs, children)
	if err != nil {
		return nil, fmt.Errorf("put blocks: %w", err)
	}
	return ack, nil
}

// WritePage stores a page of a disk map, like Put. With it, an Upload is the
// diskmap.PageWriter for its own maps.
func (u *Upload) WritePage(ctx context.Context, plain []byte) (block.Digest, error) {
	d := block.Sum(plain)
	_, err := u.Put(ctx, []Block{{Digest: d, Stored: block.Encode(nil, plain, block.Fastest)}})
	return d, err
}

var _ diskmap.PageWriter = (*Upload)(nil)

// open decodes and checks blocks, on all cores. children are the digests that
// each page names, nil for data.
func (u *Upload) open(blocks []Block) (fs []*flight, children [][]block.Digest, err error) {
	fs, children = make([]*flight, len(blocks)), make([][]block.Digest, len(blocks))
	var g errgroup.Group
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), (len(blocks)+3)/4) {
		g.Go(func() error {
			var buf []byte
			for i := int(next.Add(1)) - 1; i < len(blocks); i = int(next.Add(1)) - 1 {
				f, plain, err := u.s.openBlock(buf, blocks[i])
				if err != nil {
					return fmt.Errorf("block %d of %d (%s): %w", i, len(blocks), blocks[i].Digest, err)
				}
				fs[i], buf = f, plain[:0]
				if f.entry.page {
					children[i] = pageChildren(plain)
				}
			}
			return nil
		})
	}
	return fs, children, g.Wait()
}

func (s *Store) openBlock(buf []byte, b Block) (*flight, []byte, error) {
	n, err := block.PlainLen(b.Stored)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrDigestMismatch, err)
	}
	page := n == diskmap.PageSize
	if !page && n != s.format.blockSize {
		return nil, nil, fmt.Errorf("%w: %d bytes, must be %d, or %d for a map page", ErrBlockSize, n, s.format.blockSize, diskmap.PageSize)
	}
	if b.Digest == block.Zero {
		return nil, nil, ErrZeroBlock
	}
	plain, err := block.Open(buf, b.Stored, b.Digest)
	if err != nil {
		// Not wrapped: what the store holds is not corrupt.
		return nil, nil, fmt.Errorf("%w: %v", ErrDigestMismatch, err)
	}
	if block.IsZero(plain) {
		return nil, nil, ErrZeroBlock
	}
	stored := b.Stored
	if len(stored) > block.MaxEncodedLen(n) { // padded frames must not fill the disk
		stored = block.Encode(nil, plain, block.None)
	}
	f := &flight{digest: b.Digest, bytes: stored, plain: n}
	f.entry = entry{stored: uint32(len(stored)), page: page}
	return f, plain, nil
}

// pageChildren are the blocks or pages that a page names, without zeros.
func pageChildren(page []byte) []block.Digest {
	var ds []block.Digest
	for ; len(page) > 0; page = page[len(block.Digest{}):] {
		if d := block.Digest(page[:len(block.Digest{})]); d != block.Zero {
			ds = append(ds, d)
		}
	}
	return ds
}

// queue hands checked blocks to the pipeline, those that are new.
func (u *Upload) queue(ctx context.Context, fs []*flight, children [][]block.Digest) (*Ack, error) {
	s, p := u.s, u.s.pipe
	if err := s.room(s.o.MinFree + spaceStep); err != nil {
		return nil, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, ErrClosed
	}
	ack, queued, err := u.register(fs, children)
	if !queued {
		<-p.slots
	}
	return ack, err
}

func (u *Upload) register(fs []*flight, children [][]block.Digest) (ack *Ack, queued bool, err error) {
	s, p := u.s, u.s.pipe
	s.pins.RLock()
	defer s.pins.RUnlock()
	ds := make([]block.Digest, len(fs))
	for i, f := range fs {
		ds[i] = f.digest
	}
	es, err := s.lookup(ds)
	if err != nil {
		return nil, false, err
	}
	if err := u.checkChildren(ds, es, children); err != nil {
		return nil, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil, false, ErrClosed
	}
	ack = &Ack{done: make(chan struct{})}
	ack.open.Store(1)
	var fresh []*flight
	for i, f := range fs {
		if es[i].id != 0 {
			u.pin(f.digest, es[i])
			continue
		}
		if g := p.flights[f.digest]; g != nil {
			f = g
		} else {
			p.flights[f.digest] = f
			fresh = append(fresh, f)
			ack.Blocks++
			ack.PlainBytes += int64(f.plain)
			ack.StoredBytes += int64(f.entry.stored)
		}
		ack.open.Add(1)
		f.waiters = append(f.waiters, waiter{u, ack})
		u.await(f.digest)
	}
	if len(fresh) > 0 {
		p.push(step{blocks: fresh})
	}
	ack.settle(nil)
	return ack, len(fresh) > 0, nil
}

// checkChildren makes sure that nothing is missing below the pages among ds,
// also below those that are stored already. It is what makes it enough to look
// for the root when a point is committed: the index never has a page without
// having all that the page names.
func (u *Upload) checkChildren(ds []block.Digest, es []entry, children [][]block.Digest) error {
	batch := map[block.Digest]bool{}
	for i, cs := range children {
		var ask []block.Digest
		u.mu.Lock()
		for _, c := range cs {
			if !u.known.has(c) && !batch[c] {
				ask = append(ask, c)
			}
		}
		u.mu.Unlock()
		if len(ask) > 0 {
			var missing []block.Digest
			if err := u.find(ask, func(i int) { missing = append(missing, ask[i]) }); err != nil {
				return err
			}
			if len(missing) > 0 {
				return fmt.Errorf("page %s names block %s and %d more: %w: put it first", ds[i], missing[0], len(missing)-1, ErrBlockMissing)
			}
		}
		batch[ds[i]] = true
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
