package blockstore

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

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

var (
	_ diskmap.PageWriter  = (*Upload)(nil)
	_ diskmap.BlockReader = (*Upload)(nil)
)

// ReadBlocks is Store.ReadBlocks, and pins what it reads: everything below a page
// that was read through the upload stays, and counts as there when a page is put
// that names it. A diskmap.Builder that works over a base should read it so:
// otherwise every page that it writes costs a look-up per entry. Errors name the
// point that was pinned last.
func (u *Upload) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	if err := u.enter(); err != nil {
		return nil, err
	}
	defer u.s.leave()
	u.s.pins.RLock()
	es, err := u.s.lookupAlive(ds)
	for i, e := range es {
		if e.id != 0 {
			u.pin(ds[i], e)
		}
	}
	u.s.pins.RUnlock()
	if err != nil {
		return nil, err
	}
	var r diskmap.BlockReader = u.s
	if base := u.base(); base != "" {
		r = u.s.Reader(base)
	}
	out, err := r.ReadBlocks(ctx, ds)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, e := range es {
		if e.page {
			for _, d := range pageChildren(out[i]) {
				u.known.add(d)
			}
		}
	}
	return out, nil
}

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
		f.keeper = s.barrier
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
