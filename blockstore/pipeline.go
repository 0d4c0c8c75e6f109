package blockstore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"cairn/blockstore/block"
)

// The way of a block to the disk. Put queues it; the builder gives it the next
// id and appends it to a table; when the table is full, old or flushed, the
// committer syncs it, ingests it into blocks/, writes its index entries with
// one synced batch and tells those who wait, while the builder fills the next
// table. Everything is first in, first out, over all uploads: that keeps ids
// dense with any number of uploads (reserved ranges would leave gaps, and
// tables whose ranges enclose others'), and it gives the order of durability
// for nothing.
//
// When a table fails, everything behind it that was queued by then fails with
// it. So a page never becomes durable without the blocks that it names.

const (
	// queuedPuts bounds the Puts that wait for the builder, and so the memory
	// that they hold: 2 MiB each on the wire.
	queuedPuts = 4
	// tableEntries bounds the blocks of a table, so that their index entries
	// fit one batch, and flights some MiB of memory, however small blocks get.
	tableEntries = 32 << 10
	// tableAge is how long a table may wait for more blocks. It keeps alive a
	// client that waits for acknowledgements without asking for a flush.
	tableAge = time.Second
)

// flight is a block between Put and the index.
type flight struct {
	digest block.Digest
	bytes  []byte // stored form; nil once it is in a table
	plain  int
	entry  entry       // id is set by the builder
	dead   atomic.Bool // failed and reported: to be skipped
	// Guarded by pipeline.mu:
	waiters []waiter
	keeper  *barrier // of the Reclaim that ran when somebody needed it last
}

// waiter is an upload that needs a flight to land, and the Put that said so, if
// it was one.
type waiter struct {
	u   *Upload
	ack *Ack
}

type pipeline struct {
	s     *Store
	slots chan struct{} // one per queued Put
	wake  chan struct{} // the queue has something
	built chan step     // from builder to committer
	done  sync.WaitGroup

	mu      sync.Mutex
	flights map[block.Digest]*flight // all that have not landed
	queue   []step
	stopped bool // nothing more may be queued
}

// step is one thing in the pipeline: blocks for the builder, a table for the
// committer, or a marker, which is closed when it has passed the committer.
type step struct {
	blocks []*flight
	table  *table
	marker chan struct{}
}

func newPipeline(s *Store) (*pipeline, error) {
	dir := s.path(incomingName)
	if err := s.fs.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear %s: %w", dir, err)
	}
	if err := s.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	p := &pipeline{
		s:       s,
		slots:   make(chan struct{}, queuedPuts),
		wake:    make(chan struct{}, 1),
		built:   make(chan step),
		flights: map[block.Digest]*flight{},
	}
	p.done.Add(2)
	go p.build()
	go p.commit()
	return p, nil
}

// wait returns when the pipeline has stopped, after Store.cancel. What was in
// it has failed with ErrClosed.
func (p *pipeline) wait() { p.done.Wait() }

// push queues a step. The caller holds mu, and a slot if there are blocks.
func (p *pipeline) push(st step) {
	p.queue = append(p.queue, st)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// flush returns a channel that is closed when everything queued so far has
// landed or failed.
func (p *pipeline) flush() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := make(chan struct{})
	p.push(step{marker: m})
	return m
}

func (p *pipeline) pop() (step, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return step{}, false
	}
	st := p.queue[0]
	p.queue[0] = step{}
	p.queue = p.queue[1:]
	return st, true
}

// build is the builder.
func (p *pipeline) build() {
	defer p.done.Done()
	defer close(p.built)
	var t *table
	old := time.NewTimer(0)
	defer old.Stop()
	next := p.s.st.Load().next
	// cut hands the open table on; false when the store closes.
	cut := func() bool {
		if t == nil {
			return true
		}
		select {
		case p.built <- step{table: t}:
			t = nil
			return true
		case <-p.s.ctx.Done():
			return false
		}
	}
	defer func() {
		if t != nil {
			t.discard()
		}
	}()
	for {
		st, ok := p.pop()
		if !ok {
			select {
			case <-p.wake:
			case <-old.C:
				if t != nil && time.Since(t.born) >= tableAge && !cut() {
					return
				}
			case <-p.s.ctx.Done():
				return
			}
			continue
		}
		for _, f := range st.blocks {
			if f.dead.Load() {
				continue
			}
			if t == nil {
				t = p.s.newTable(next, "", p.s.o.MinFree)
				old.Reset(tableAge)
			}
			f.entry.id = next
			next++
			t.add(f)
			if t.full() && !cut() {
				return
			}
		}
		if st.blocks != nil {
			<-p.slots
		}
		if st.marker != nil {
			if !cut() {
				return
			}
			select {
			case p.built <- st:
			case <-p.s.ctx.Done():
				return
			}
		}
	}
}

// commit is the committer.
func (p *pipeline) commit() {
	defer p.done.Done()
	m := merger{s: p.s}
	for st := range p.built {
		if st.marker != nil {
			close(st.marker)
			continue
		}
		live := st.table.live()
		if len(live) == 0 {
			st.table.discard()
			continue
		}
		if err := p.s.land(st.table, live); err != nil {
			p.failAll(err)
			continue
		}
		p.landed(live)
		m.landed(st.table)
	}
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.failAll(ErrClosed)
}

// land makes a table's blocks durable and known.
func (s *Store) land(t *table, live []*flight) error {
	err := t.finish()
	if err == nil {
		// The builder left MinFree; a part of it may be used up to get done.
		err = s.room(s.o.MinFree / 2)
	}
	if err == nil {
		err = s.blocks.Ingest(s.ctx, []string{t.path})
	}
	if err == nil {
		err = s.g.failure()
	}
	if err != nil {
		t.discard()
		return s.noSpace(fmt.Errorf("write table of blocks: %w", err))
	}
	return s.update(0, func(b *pebble.Batch, st *state) error {
		var key, value []byte
		for _, f := range live {
			key, value = digestKey(key[:0], f.digest), f.entry.append(value[:0])
			if err := b.Set(key, value, nil); err != nil {
				return err
			}
			st.blocks++
			st.stored += uint64(f.entry.stored)
			st.plain += uint64(f.plain)
		}
		st.next = live[len(live)-1].entry.id + 1
		return nil
	})
}

// landed takes flights off and tells the waiters. A Put that looked into the
// index too early still finds them here, since it holds pins until it has.
func (p *pipeline) landed(fs []*flight) {
	p.s.pins.Lock()
	defer p.s.pins.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range fs {
		delete(p.flights, f.digest)
		if f.keeper == p.s.barrier {
			p.s.barrier.need(f.digest, f.entry)
		}
		for _, w := range f.waiters {
			w.u.landed(f)
			w.ack.settle(nil)
		}
	}
}

// failAll fails everything that is on its way.
func (p *pipeline) failAll(err error) {
	p.s.pins.Lock()
	defer p.s.pins.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.flights {
		f.dead.Store(true)
		for _, w := range f.waiters {
			w.u.lost(f, err)
			w.ack.settle(err)
		}
	}
	clear(p.flights)
}

// update writes one synced batch to the index. It needs reserve bytes of disk
// free. change may alter the state, which is kept if the batch is.
func (s *Store) update(reserve uint64, change func(*pebble.Batch, *state) error) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	if err := s.g.failure(); err != nil {
		return err
	}
	if err := s.room(reserve); err != nil {
		return err
	}
	b := s.index.NewBatch()
	defer b.Close()
	old := s.st.Load()
	st := *old
	if err := change(b, &st); err != nil {
		return err
	}
	if st != *old {
		if err := b.Set([]byte(stateKey), st.append(nil), nil); err != nil {
			return err
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	// Whether a batch of a failed WAL is durable, nobody knows.
	if err := s.g.failure(); err != nil {
		return err
	}
	s.st.Store(&st)
	return nil
}

// noSpace turns the system's way to say that the disk is full into the store's.
func (s *Store) noSpace(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %s: %w", ErrFull, s.dir, err)
	}
	return err
}
