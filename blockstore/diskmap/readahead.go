package diskmap

import (
	"context"
	"errors"
	"slices"
	"sync"
)

const (
	// maxStreams is how many sequential readers are told apart.
	maxStreams = 16
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

// readAhead notices the sequential readers of all Images of a Cache and fetches
// the blocks in front of them into it. A fetch that fails is forgotten: the
// reader will meet the error itself.
type readAhead struct {
	window int64         // furthest ahead of all readers together, bytes
	slots  chan struct{} // bounds the fetches under way

	mu      sync.Mutex
	reads   int       // so far, the clock of streams
	streams []*stream // most recently used first
}

type stream struct {
	p      *prefetcher
	next   int64 // where the next read is expected: the end of the furthest one so far
	warm   int64 // bytes read in a row
	used   int   // the read that used it last
	window int64 // how far ahead to fetch now; grows
	ahead  int64 // end of what was fetched for it
}

var errClosed = errors.New("image closed")

func newReadAhead(window int64) *readAhead {
	return &readAhead{window: window, slots: make(chan struct{}, max(2, window/aheadBatch))}
}

// prefetcher is one Image's part in it, which ends with the Image.
type prefetcher struct {
	*readAhead
	im     *Image
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	closed bool // under mu
}

func newPrefetcher(im *Image, ra *readAhead) *prefetcher {
	p := &prefetcher{readAhead: ra, im: im}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	return p
}

func (p *prefetcher) close() {
	p.mu.Lock()
	p.closed = true
	p.streams = slices.DeleteFunc(p.streams, func(s *stream) bool { return s.p == p })
	p.mu.Unlock()
	p.cancel(errClosed)
	p.wg.Wait()
}

// notice tells of a read of n bytes at off, before it is served.
func (p *prefetcher) notice(off, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.reads++
	s := p.find(off)
	s.used = p.reads
	if off+n <= s.next {
		return
	}
	s.next = off + n
	s.warm += n
	if s.warm < warmUp || s.warm == n {
		return
	}
	s.ahead = max(s.ahead, s.next)
	window := min(s.window, p.share())
	if s.ahead-s.next > window/2 {
		return
	}
	bs := int64(p.im.m.BlockSize)
	for s.ahead < min(s.next+window, p.im.m.Size) {
		from := s.ahead / bs
		to := min(from+max(1, aheadBatch/bs), int64(p.im.m.Blocks()))
		select {
		case p.slots <- struct{}{}:
		default:
			return // busy enough
		}
		s.ahead = to * bs
		p.wg.Go(func() {
			if h, err := p.im.fetch(p.ctx, uint64(from), uint64(to)); err == nil {
				h.release()
			}
			<-p.slots
		})
	}
	s.window = min(2*s.window, p.window)
}

// find returns the stream that a read at off continues or begins, as the first.
func (p *prefetcher) find(off int64) *stream {
	ra := p.readAhead
	for i, s := range ra.streams {
		if s.p == p && s.next-slack <= off && off <= s.next+slack {
			copy(ra.streams[1:i+1], ra.streams[:i])
			ra.streams[0] = s
			return s
		}
	}
	s := &stream{p: p, next: off, window: aheadBatch}
	if len(ra.streams) == maxStreams {
		ra.streams = ra.streams[:maxStreams-1]
	}
	ra.streams = slices.Insert(ra.streams, 0, s)
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
