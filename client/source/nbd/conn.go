package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// conn is one connection in its transmission phase.
//
// Requests are written by those who make them, one at a time (sending).
// Replies are read by one goroutine, receive, which alone completes requests:
// so a request is complete only when nobody touches its buffer any more.
type conn struct {
	nc       net.Conn
	replies  replyReader
	sending  chan struct{} // holds one token while a request is being written
	received chan struct{} // closed when receive has returned

	mu      sync.Mutex
	pending map[uint64]*request
	cookie  uint64
	err     error // why no further request is taken
}

// request is one request on its way. What is below mu's line is guarded by
// conn.mu; the rest belongs to the caller until the request is pending, and to
// conn.receive until done is closed.
type request struct {
	cmd, flags uint16
	offset     uint64
	length     uint32
	payload    []byte // of a write
	buf        []byte // of a read: length bytes

	pieces   pieces              // of a structured read: what came
	statuses map[string][]status // of a block status: by context
	failure  error               // what the server said first
	err      error
	done     chan struct{}

	// guarded by conn.mu
	abandoned bool          // the caller has gone: buf is not to be touched
	filling   chan struct{} // not nil while receive fills buf; closed after
}

func newConn(nc net.Conn, br *bufio.Reader, info *Info, ids map[uint32]string) *conn {
	c := &conn{
		nc:       nc,
		sending:  make(chan struct{}, 1),
		received: make(chan struct{}),
		pending:  map[uint64]*request{},
	}
	c.replies = replyReader{br: br, structured: info.Structured, contexts: ids, conn: c}
	return c
}

// do sends r and waits for its reply. When it returns, r.buf and r.payload are
// not touched any more.
func (c *conn) do(ctx context.Context, r *request) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.done = make(chan struct{})
	select {
	case c.sending <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	cookie, err := c.register(r)
	if err == nil {
		err = c.write(ctx, r, cookie)
	}
	<-c.sending
	if err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return c.abandon(ctx, r)
	}
}

func (c *conn) register(r *request) (cookie uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.cookie++
	c.pending[c.cookie] = r
	return c.cookie, nil
}

// write sends a request. If it fails half way, the connection is of no more
// use, and r is complete when write returns.
func (c *conn) write(ctx context.Context, r *request, cookie uint64) error {
	be := binary.BigEndian
	head := make([]byte, 0, 28)
	head = be.AppendUint32(head, magicRequest)
	head = be.AppendUint16(head, r.flags)
	head = be.AppendUint16(head, r.cmd)
	head = be.AppendUint64(head, cookie)
	head = be.AppendUint64(head, r.offset)
	head = be.AppendUint32(head, r.length)

	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.nc.SetWriteDeadline(time.Unix(1, 0))
		close(fired)
	})
	bufs := net.Buffers{head}
	if len(r.payload) > 0 {
		bufs = append(bufs, r.payload)
	}
	_, err := bufs.WriteTo(c.nc)
	if !stop() {
		<-fired
		if err == nil { // it went out in time
			c.nc.SetWriteDeadline(time.Time{})
			return nil
		}
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	c.fail(fmt.Errorf("send request: %w", err))
	<-r.done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.err
}

// abandonGrace is how long a cancelled read waits for the server to finish the
// chunk that is coming in, before it gives up the connection instead.
const abandonGrace = time.Second

// abandon gives up on a request that is pending: its reply will be dropped.
func (c *conn) abandon(ctx context.Context, r *request) error {
	c.mu.Lock()
	r.abandoned = true
	filling := r.filling
	c.mu.Unlock()
	if filling != nil {
		t := time.NewTimer(abandonGrace)
		defer t.Stop()
		select {
		case <-filling:
		case <-t.C:
			c.fail(fmt.Errorf("server stalled while a read was cancelled: %w", context.Cause(ctx)))
			<-filling
		}
	}
	return context.Cause(ctx)
}

// fill calls f with the part of r's buffer that [off, off+n) of it is, unless
// the caller of r has gone: then f gets nil and has to drop what it reads.
func (c *conn) fill(r *request, off, n uint32, f func(dst []byte) error) error {
	c.mu.Lock()
	if r.abandoned {
		c.mu.Unlock()
		return f(nil)
	}
	r.filling = make(chan struct{})
	c.mu.Unlock()
	err := f(r.buf[off : off+n])
	c.mu.Lock()
	close(r.filling)
	r.filling = nil
	c.mu.Unlock()
	return err
}

// find returns the pending request that a reply is for.
func (c *conn) find(cookie uint64) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.pending[cookie]
	if r == nil {
		return nil, violation("reply to request %d, which is not pending", cookie)
	}
	return r, nil
}

// complete ends a request. Only receive may call it.
func (c *conn) complete(cookie uint64, r *request, err error) {
	c.mu.Lock()
	delete(c.pending, cookie)
	c.mu.Unlock()
	r.err = err
	close(r.done)
}

// receive reads replies until the connection fails, and then fails what is
// still pending.
func (c *conn) receive() {
	defer close(c.received)
	var err error
	for err == nil {
		err = c.replies.next()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	c.fail(fmt.Errorf("receive reply: %w", err))
	c.mu.Lock()
	left := c.pending
	c.pending = nil
	err = c.err
	c.mu.Unlock()
	for _, r := range left {
		r.err = err
		close(r.done)
	}
}

// fail closes the connection for good; the first reason given is the one told.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.nc.Close()
}

// goodbye is how long Close tries to tell the server.
const goodbye = time.Second

// close disconnects in good order, if the connection is still in any.
func (c *conn) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	var err error
	select {
	case c.sending <- struct{}{}:
		c.mu.Lock()
		ok := c.err == nil
		c.mu.Unlock()
		if ok {
			// There is no reply to a disconnect: nothing is registered.
			r := &request{cmd: cmdDisc, done: make(chan struct{})}
			close(r.done)
			err = c.write(ctx, r, 0)
		}
		<-c.sending
	case <-ctx.Done():
	}
	c.fail(ErrClosed)
	<-c.received
	return err
}
