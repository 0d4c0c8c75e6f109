package qmp

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// Event is something that happened in QEMU.
type Event struct {
	Name string
	Time time.Time       // by the host's clock
	Data json.RawMessage // an object, or nil
}

// Listener collects events from when it was made.
type Listener struct {
	c     *Client
	names []string
	ended chan struct{} // closed when the connection has ended

	mu    sync.Mutex
	queue []Event
	more  chan struct{} // holds a token when the queue may not be empty
}

// maxQueue is how many events wait for a listener that does not call Next; then
// the oldest are dropped.
const maxQueue = 4096

// Listen begins to collect events of the given names, or all without any. So
// begin before the command whose event is waited for.
func (c *Client) Listen(names ...string) *Listener {
	l := &Listener{c: c, names: names, ended: make(chan struct{}), more: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listeners == nil {
		close(l.ended)
	} else {
		c.listeners[l] = struct{}{}
	}
	return l
}

// Close ends collecting. Nobody may be in Next.
func (l *Listener) Close() {
	l.c.mu.Lock()
	delete(l.c.listeners, l)
	l.c.mu.Unlock()
}

func (l *Listener) put(e Event) {
	if len(l.names) > 0 && !slices.Contains(l.names, e.Name) {
		return
	}
	l.mu.Lock()
	if len(l.queue) == maxQueue {
		l.queue = l.queue[1:]
	}
	l.queue = append(l.queue, e)
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// Next returns the oldest event that was not returned yet, and waits for one if
// there is none. What came before the connection ended is still returned.
//
// Errors: ErrClosed (or what else ended the connection), ctx's.
func (l *Listener) Next(ctx context.Context) (Event, error) {
	for {
		// Looked at before the queue: whatever came before the end is in it then.
		ended := false
		select {
		case <-l.ended:
			ended = true
		default:
		}
		l.mu.Lock()
		if len(l.queue) > 0 {
			e := l.queue[0]
			l.queue = l.queue[1:]
			l.mu.Unlock()
			return e, nil
		}
		l.mu.Unlock()
		if ended {
			l.c.mu.Lock()
			defer l.c.mu.Unlock()
			return Event{}, l.c.err
		}
		select {
		case <-l.more:
		case <-l.ended:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}
