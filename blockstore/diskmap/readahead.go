package diskmap

import (
	"context"
	"errors"
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
	// warmUp is what must have been read in a row before anything is fetched
	// ahead: small reads that only lie close to each other take long to get there.
	warmUp = 128 << 10
	// stale is after how many reads elsewhere a stream no longer counts.
	stale = 64
)

// readAhead notices sequential readers of an Image and fetches the blocks in
// front of them into its cache. A fetch that fails is forgotten: the reader
// will meet the error itself.
type readAhead struct {
	im     *Image
	window int64 // furthest ahead of all readers together, bytes

	ctx    context.Context
	cancel context.CancelCauseFunc
	slots  chan struct{} // bounds the fetches under way
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	reads   int       // so far, the clock of streams
	streams []*stream // most recently used first
}

type stream struct {
	next   int64 // where the next read is expected: the end of the furthest one so far
	warm   int64 // bytes read in a row
	used   int   // the read that used it last
	window int64 // how far ahead to fetch now; grows
	ahead  int64 // end of what was fetched for it
}

var errClosed = errors.New("image closed")

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
	ra.reads++
	s := ra.find(off)
	s.used = ra.reads
	if off+n <= s.next {
		return
	}
	s.next = off + n
	s.warm += n
	if s.warm < warmUp || s.warm == n || ra.closed {
		return
	}
	s.ahead = max(s.ahead, s.next)
	window := min(s.window, ra.share())
	if s.ahead-s.next > window/2 {
		return
	}
	bs := int64(ra.im.m.BlockSize)
	for s.ahead < min(s.next+window, ra.im.m.Size) {
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

// find returns the stream that a read at off continues or begins, as the first.
func (ra *readAhead) find(off int64) *stream {
	for i, s := range ra.streams {
		if s.next-slack <= off && off <= s.next+slack {
			copy(ra.streams[1:i+1], ra.streams[:i])
			ra.streams[0] = s
			return s
		}
	}
	s := &stream{next: off, window: aheadBatch}
	if len(ra.streams) == maxStreams {
		ra.streams = ra.streams[:maxStreams-1]
	}
	ra.streams = append([]*stream{s}, ra.streams...)
	return s
}

// share is what each of the streams now in use may have ahead of it, so that
// they do not push each other's blocks out of the cache.
func (ra *readAhead) share() int64 {
	n := int64(0)
	for _, s := range ra.streams {
		if s.warm >= warmUp && ra.reads-s.used < stale {
			n++
		}
	}
	return ra.window / max(1, n)
}
