package diskmap

import (
	"context"
	"sync"
)

const (
	// maxStreams is how many sequential readers are told apart.
	maxStreams = 8
	// aheadBatch is the size of a background fetch in bytes: small enough that a
	// reader who waits for its first block does not wait long for the last.
	aheadBatch = 1 << 20
	// slack is how far from the expected offset a read still belongs to a
	// stream: the kernel splits reads and sends the pieces in any order.
	slack = 1 << 20
	// warmUp is how many reads in a row make a stream.
	warmUp = 2
)

// readAhead notices sequential readers of an Image and fetches the blocks in
// front of them into its cache. A fetch that fails is forgotten: the reader
// will meet the error itself.
type readAhead struct {
	im     *Image
	window int64 // furthest ahead of a reader, bytes

	ctx    context.Context
	cancel context.CancelCauseFunc
	slots  chan struct{} // bounds the fetches under way
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	streams []*stream // most recently used first
}

type stream struct {
	next   int64 // where the next read is expected: the end of the furthest one so far
	reads  int   // that continued the stream
	window int64 // how far ahead to fetch now; grows
	ahead  int64 // end of what was fetched for it
}

func newReadAhead(im *Image, window int64) *readAhead {
	ra := &readAhead{im: im, window: window}
	ra.slots = make(chan struct{}, max(2, window/aheadBatch))
	ra.ctx, ra.cancel = context.WithCancelCause(context.Background())
	return ra
}

func (ra *readAhead) close() {
	ra.mu.Lock()
	ra.closed = true
	ra.mu.Unlock()
	ra.cancel(errClosed)
	ra.wg.Wait()
}

// notice tells of a read of n bytes at off, before it is served.
func (ra *readAhead) notice(off, n int64) {
	ra.mu.Lock()
	defer ra.mu.Unlock()
	s := ra.find(off)
	if s == nil {
		s = &stream{next: off + n, window: aheadBatch}
		if len(ra.streams) == maxStreams {
			ra.streams = ra.streams[:maxStreams-1]
		}
		ra.streams = append([]*stream{s}, ra.streams...)
		return
	}
	if off+n <= s.next {
		return
	}
	s.next = off + n
	if s.reads++; s.reads < warmUp {
		return
	}
	s.ahead = max(s.ahead, s.next)
	if ra.closed || s.ahead-s.next > s.window/2 {
		return
	}
	bs := int64(ra.im.m.BlockSize)
	for s.ahead < min(s.next+s.window, ra.im.m.Size) {
		from := s.ahead / bs
		to := min(from+max(1, aheadBatch/bs), int64(ra.im.m.Blocks()))
		select {
		case ra.slots <- struct{}{}:
		default:
			return // busy enough
		}
		s.ahead = to * bs
		ra.wg.Go(func() {
			_, _ = ra.im.fetch(ra.ctx, uint64(from), uint64(to))
			<-ra.slots
		})
	}
	s.window = min(2*s.window, ra.window)
}

// find returns the stream that a read at off continues, and moves it to front.
func (ra *readAhead) find(off int64) *stream {
	for i, s := range ra.streams {
		if s.next-slack <= off && off <= s.next+slack {
			copy(ra.streams[1:i+1], ra.streams[:i])
			ra.streams[0] = s
			return s
		}
	}
	return nil
}
