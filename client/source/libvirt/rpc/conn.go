package rpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxCalls is how many calls are on their way at once; more wait. A daemon
	// works on max_client_requests (5) of them and reads nothing from us while
	// it has as many, not even keepalive messages: one less leaves it reading.
	maxCalls = 4

	// A daemon that has sent nothing for keepaliveInterval is pinged; after
	// keepaliveCount pings without a word, or a write that takes as long, it
	// is taken for dead. These are libvirt's own defaults.
	keepaliveInterval = 5 * time.Second
	keepaliveCount    = 5

	// goodbye is how long Close tries to tell the daemon.
	goodbye = time.Second
)

// Conn is a connection to a libvirt daemon. It is safe for concurrent use.
//
// Two goroutines serve it: receive reads what the daemon sends, send writes
// what callers hand it. A caller who gives up early never leaves half a
// message behind, for it does not write.
type Conn struct {
	nc    net.Conn
	out   chan []byte   // to send
	pings chan struct{} // to send: pings to be answered
	slots chan struct{} // a token for every call the daemon has not answered
	heard atomic.Bool   // something came in since send last looked
	done  chan struct{} // closed once err is set
	loops sync.WaitGroup
	err   error // why the connection is gone; to be read after done

	mu      sync.Mutex
	failed  bool
	serial  uint32
	pending map[uint32]*call
	subs    map[*subscription]struct{}

	events struct { // the daemon has been asked to send events
		asking chan struct{} // holds a token while somebody asks
		asked  bool
	}
}

// call is a call on its way. It stays pending until its reply comes, even if
// the caller has gone: then nobody looks at the reply.
type call struct {
	proc  proc
	reply chan reply // takes one without waiting
}

type reply struct {
	status  uint32
	payload []byte
}

// newConn starts to serve nc.
func newConn(nc net.Conn) *Conn {
	c := &Conn{
		nc:      nc,
		out:     make(chan []byte),
		pings:   make(chan struct{}, 1),
		slots:   make(chan struct{}, maxCalls),
		done:    make(chan struct{}),
		pending: map[uint32]*call{},
		subs:    map[*subscription]struct{}{},
	}
	c.events.asking = make(chan struct{}, 1)
	c.loops.Go(c.receive)
	c.loops.Go(c.send)
	return c
}

// Done is closed when the connection is gone. It does not come back: dial
// again.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err tells why the connection is gone, as an ErrDisconnected; nil while it
// stands.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close says goodbye to the daemon and closes the connection. Calls under way
// fail with ErrDisconnected. What they began goes on in the daemon: a backup
// outlives the connection. Close is idempotent.
func (c *Conn) Close() error {
	if c.Err() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), goodbye)
		defer cancel()
		// Without it the daemon logs an error. If it fails, nothing is lost.
		_ = c.call(ctx, procConnectClose, "", args(), nil)
	}
	c.fail(errors.New("closed by this side"))
	c.loops.Wait()
	return nil
}

// fail ends the connection for good; the first reason given is the one told.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed {
		return
	}
	c.failed = true
	c.err = fmt.Errorf("%w: %w", ErrDisconnected, err)
	c.nc.Close()
	close(c.done)
	for s := range c.subs {
		c.endSubscription(s)
	}
}

// call makes a call and waits for its reply, which ret reads; a call whose
// reply is empty has none. subject is what the call is about, "" if that is
// the daemon itself.
func (c *Conn) call(ctx context.Context, p proc, subject string, a *encoder, ret func(*decoder)) error {
	r, err := c.roundTrip(ctx, p, a)
	if err == nil {
		d := &decoder{b: r.payload}
		var failure *Error
		switch {
		case r.status == statusError:
			failure = d.failure()
		case ret != nil:
			ret(d)
		}
		if err = d.end(); err == nil && failure != nil {
			err = failure
		}
	}
	switch {
	case err == nil:
		return nil
	case subject == "":
		return fmt.Errorf("libvirt: %s: %w", p.name, err)
	}
	return fmt.Errorf("libvirt: %s %q: %w", p.name, subject, err)
}

func (c *Conn) roundTrip(ctx context.Context, p proc, a *encoder) (r reply, err error) {
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case a.err != nil:
		return r, a.err
	case len(a.b) > maxMessage:
		return r, fmt.Errorf("call of %d bytes: at most %d can be sent", len(a.b), maxMessage)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return r, context.Cause(ctx)
	case <-c.done:
		return r, c.err
	}
	k := &call{proc: p, reply: make(chan reply, 1)}
	c.mu.Lock()
	c.serial++
	serial := c.serial
	c.pending[serial] = k
	c.mu.Unlock()

	m := a.finish(header{p.program, protocolVersion, p.number, typeCall, serial, statusOK})
	select {
	case c.out <- m:
	case <-ctx.Done(): // it was not sent
		c.settle(serial)
		return r, context.Cause(ctx)
	case <-c.done:
		return r, c.err
	}
	select {
	case r = <-k.reply:
		return r, nil
	case <-ctx.Done():
		return r, context.Cause(ctx)
	case <-c.done:
	}
	select {
	case r = <-k.reply: // it came in time after all
		return r, nil
	default:
		return r, c.err
	}
}

// settle ends the call with that serial and returns it, nil if there is none.
func (c *Conn) settle(serial uint32) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.pending[serial]
	if k != nil {
		delete(c.pending, serial)
		<-c.slots
	}
	return k
}

// send writes messages and watches over the daemon's life.
func (c *Conn) send() {
	tick := time.NewTicker(keepaliveInterval)
	defer tick.Stop()
	keepalive := func(procedure uint32) []byte {
		return args().finish(header{keepaliveProgram, protocolVersion, procedure, typeMessage, 0, statusOK})
	}
	for unanswered := 0; ; {
		var m []byte
		select {
		case m = <-c.out:
		case <-c.pings:
			m = keepalive(keepalivePong)
		case <-tick.C:
			if c.heard.Swap(false) {
				unanswered = 0
				continue
			}
			if unanswered == keepaliveCount {
				c.fail(fmt.Errorf("the daemon has not answered for %v", (keepaliveCount+1)*keepaliveInterval))
				return
			}
			unanswered++
			m = keepalive(keepalivePing)
		case <-c.done:
			return
		}
		c.nc.SetWriteDeadline(time.Now().Add(keepaliveCount * keepaliveInterval))
		if _, err := c.nc.Write(m); err != nil {
			c.fail(fmt.Errorf("send: %w", err))
			return
		}
	}
}

// receive reads messages until the connection fails.
func (c *Conn) receive() {
	br := bufio.NewReaderSize(c.nc, 64<<10)
	for {
		h, payload, err := readMessage(br)
		if err == nil {
			c.heard.Store(true)
			err = c.dispatch(h, payload)
		}
		if err != nil {
			c.fail(fmt.Errorf("receive: %w", err))
			return
		}
	}
}

// readMessage reads one message. Memory for it is taken as its bytes come in,
// not on the word of its length.
func readMessage(r io.Reader) (h header, payload []byte, err error) {
	var head [headerSize]byte
	if _, err = io.ReadFull(r, head[:4]); err != nil {
		return h, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < headerSize || n > maxMessage {
		return h, nil, violation("message of %d bytes: from %d to %d are allowed", n, headerSize, maxMessage)
	}
	if _, err = io.ReadFull(r, head[4:]); err == nil {
		h.parse(head[4:])
		var buf bytes.Buffer
		_, err = io.CopyN(&buf, r, int64(n-headerSize))
		payload = buf.Bytes()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return h, payload, err
}

// dispatch hands a message to whom it is for. An error ends the connection.
func (c *Conn) dispatch(h header, payload []byte) error {
	if h.version != protocolVersion {
		return violation("version %d of program %#x", h.version, h.program)
	}
	switch {
	case h.kind == typeReply:
		if h.status > statusError {
			return violation("reply with status %d", h.status)
		}
		k := c.settle(h.serial)
		if k == nil {
			return violation("reply to call %d, which is not pending", h.serial)
		}
		if k.proc.program != h.program || k.proc.number != h.procedure {
			return violation("reply of procedure %d of program %#x to a call of procedure %d of program %#x",
				h.procedure, h.program, k.proc.number, k.proc.program)
		}
		k.reply <- reply{h.status, payload}
	case h.kind != typeMessage:
		return violation("message of type %d", h.kind)
	case h.program == keepaliveProgram && h.procedure == keepalivePing:
		select {
		case c.pings <- struct{}{}:
		default: // one pong answers both
		}
	case h.program == remoteProgram:
		return c.event(h.procedure, payload)
	}
	return nil
}
