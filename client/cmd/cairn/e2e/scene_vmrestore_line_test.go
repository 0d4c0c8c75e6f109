//go:build e2e

package e2e

import (
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// line is a way to the server that can be made narrow: so narrow that no more
// than a part of the data can ever pass, however long things take that are to
// happen before all of it has passed.
type line struct {
	address string

	mu     sync.Mutex
	given  int64         // bytes from the server since the line was made narrow
	budget int64         // the limit of that
	began  time.Time     // of being narrow
	wide   chan struct{} // closed while the line is not narrow
}

// newLine makes a line, which is wide.
func (h *restoreHost) newLine() *line {
	h.Helper()
	l := &line{address: "unix:" + h.path("line"), wide: make(chan struct{})}
	close(l.wide)
	listener, err := net.Listen("unix", h.path("line"))
	h.must(err)
	var all sync.WaitGroup
	h.Cleanup(func() {
		l.widen()
		listener.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.serve(near, h.path("s")) })
		}
	})
	return l
}

func (l *line) serve(near net.Conn, server string) {
	defer near.Close()
	far, err := net.Dial("unix", server)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(far, near)
		far.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := far.Read(buf)
		if n > 0 {
			l.pass(n)
			if _, err := near.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// narrows is how fast the line gets narrower: within this time two thirds of what
// may pass at all may have passed.
const narrows = 15 * time.Second

// pass returns when n more bytes may pass.
func (l *line) pass(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given += int64(n)
	for {
		wide := l.wide
		if l.given <= int64(float64(l.budget)*(1-math.Exp(-time.Since(l.began).Seconds()/narrows.Seconds()))) {
			return
		}
		l.mu.Unlock()
		select {
		case <-wide:
			l.mu.Lock()
			return
		case <-time.After(5 * time.Millisecond):
		}
		l.mu.Lock()
	}
}

// narrow lets so many bytes pass from now on, and ever fewer in a second.
func (l *line) narrow(budget int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given, l.budget, l.began, l.wide = 0, budget, time.Now(), make(chan struct{})
}

// widen lets everything pass.
func (l *line) widen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.wide:
	default:
		close(l.wide)
	}
}

// passed is how many bytes have left the server since the line was made narrow.
func (l *line) passed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.given
}
