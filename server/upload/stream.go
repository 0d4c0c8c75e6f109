package upload

import (
	"context"
	"io"
	"sync"

	"cairn/blockstore"
)

const (
	// MaxBatchBytes bounds the stored bytes of a batch that has several blocks.
	MaxBatchBytes = 2 << 20
	// MaxBatchBlocks bounds the blocks of a batch.
	MaxBatchBlocks = 4096
	// maxQueue is how many batches of one stream may wait to become durable:
	// several tables full, even if each batch is a single block.
	maxQueue = 4096
)

// Stream brings batches of blocks into the vault. Send and CloseSend are for
// one goroutine, Next is for another.
//
// Several batches are decoded and hashed at a time, over all streams as many as
// there are workers; their bytes count as in flight until the store has queued
// them for a table. What was sent becomes durable also when nobody waits for it
// any more: closing a stream flushes, and goes on in the background.
type Stream struct {
	s       *Session
	ctx     context.Context // of the caller, and the session's
	stop    func()
	queue   chan *batch
	sent    int64         // batches; Send's
	closing chan struct{} // closed by CloseSend
	news    chan struct{} // capacity 1: what Next waits for

	mu     sync.Mutex
	state  Received
	closed error // what CloseSend was given; io.EOF for nil
	err    error // why nothing more comes
}

// batch is a batch in flight.
type batch struct {
	put chan struct{} // closed when ack and err are set
	ack *blockstore.Ack
	err error
}

// NewStream opens a stream. When ctx ends, so does what waits in Send and Next.
// CloseSend must be called.
func (s *Session) NewStream(ctx context.Context) (*Stream, error) {
	if _, err := s.Renew(); err != nil {
		return nil, err
	}
	st := &Stream{s: s, queue: make(chan *batch, maxQueue), closing: make(chan struct{}), news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	st.ctx, st.stop = ctx, func() { detach(); cancel(nil) }
	go st.settle()
	return st, nil
}

// Send hands a batch over and returns when it is being worked on; it waits
// while too much is. The blocks' bytes must not be changed any more. After an
// error, which it passes to CloseSend, the caller sends no more.
func (st *Stream) Send(blocks []blockstore.Block) error {
	s, number := st.s, st.sent
	size, err := s.check(blocks, number)
	if err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	b := &batch{put: make(chan struct{})}
	if err := st.admit(b, size); err != nil {
		s.finish()
		return s.reason(err)
	}
	st.sent++
	go func() {
		b.ack, b.err = s.up.Put(s.ctx, blocks)
		if b.err != nil {
			b.err = s.blame(b.err, blocks, number)
		}
		s.m.workers.Release(1)
		s.m.memory.Release(size)
		s.ops.Done() // while it is not settled, the lease stays busy
		close(b.put)
	}()
	return nil
}

// admit waits for memory, a worker, and room in the queue.
func (st *Stream) admit(b *batch, size int64) error {
	m := st.s.m
	if err := m.memory.Acquire(st.ctx, size); err != nil {
		return context.Cause(st.ctx)
	}
	if err := m.workers.Acquire(st.ctx, 1); err != nil {
		m.memory.Release(size)
		return context.Cause(st.ctx)
	}
	select {
	case st.queue <- b:
		return nil
	case <-st.ctx.Done():
		m.memory.Release(size)
		m.workers.Release(1)
		return context.Cause(st.ctx)
	}
}

// CloseSend says that nothing more is sent, and why if that is an error, which
// Next then returns when everything before it is settled.
func (st *Stream) CloseSend(err error) {
	if err == nil {
		err = io.EOF
	}
	st.mu.Lock()
	st.closed = err
	st.mu.Unlock()
	close(st.closing)
	close(st.queue)
}

// Next waits for news, and returns what came in through this stream and is
// durable: Batches counts from its start, without a gap. With it comes io.EOF
// when the stream was closed and everything is durable, or the error of the
// first batch that failed.
func (st *Stream) Next() (Received, error) {
	select {
	case <-st.news:
	case <-st.ctx.Done():
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil && st.ctx.Err() != nil {
		return st.state, context.Cause(st.ctx)
	}
	return st.state, st.err
}

// settle follows the batches, one after the other.
func (st *Stream) settle() {
	defer st.stop()
	for b := range st.queue {
		<-b.put
		if b.err == nil {
			b.err = st.durable(b.ack)
		}
		st.settled(b)
		st.s.idle()
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		st.err = st.closed
	}
	st.tell()
}

// settled counts a batch that is durable, as long as none before it failed.
func (st *Stream) settled(b *batch) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.err != nil:
	case b.err != nil:
		st.err = b.err
		st.tell()
	default:
		got := Received{1, int64(b.ack.Blocks), b.ack.PlainBytes, b.ack.StoredBytes}
		st.state.add(got)
		st.s.count(got)
		st.tell()
	}
}

// tell wakes Next; st.mu is held.
func (st *Stream) tell() {
	select {
	case st.news <- struct{}{}:
	default:
	}
}

// durable waits for an acknowledgement. Once no more batches come it asks for a
// flush, and need not wait for the table to fill.
func (st *Stream) durable(ack *blockstore.Ack) error {
	s := st.s
	select {
	case <-ack.Done():
		return ack.Err()
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-st.closing:
	}
	if err := s.flush(); err != nil {
		return err
	}
	<-ack.Done()
	return s.reason(ack.Err())
}
