//go:build e2e

package e2e

import (
	"io"
	"net"
	"sync"
)

// relay is a port in front of a server, whose connections can be cut.
type relay struct {
	net.Listener
	mu     sync.Mutex
	target string // "" takes no connections
	conns  map[net.Conn]bool
}

func (w *world) newRelay(target string) *relay {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	r := &relay{Listener: l, target: target, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.serve(c) })
		}
	})
	w.Cleanup(func() {
		l.Close()
		r.to("")
		wg.Wait()
	})
	return r
}

// to cuts all connections; new ones go to target.
func (r *relay) to(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
	for c := range r.conns {
		c.Close()
	}
}

// serve relays one connection to its end.
func (r *relay) serve(c net.Conn) {
	defer c.Close()
	d := r.dial(c)
	if d == nil {
		return
	}
	defer d.Close()
	go func() {
		_, _ = io.Copy(d, c)
		d.Close()
	}()
	_, _ = io.Copy(c, d)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	delete(r.conns, d)
}

// dial connects to the target; nil if that cannot be.
func (r *relay) dial(c net.Conn) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, err := net.Dial("tcp", r.target)
	if err != nil {
		return nil
	}
	r.conns[c], r.conns[d] = true, true
	return d
}
