// Package qmp is a client of QEMU's machine protocol: JSON, line by line, over
// a unix socket (-qmp unix:PATH,server=on,wait=off).
//
//	c, err := qmp.Dial(ctx, "/run/vm.qmp")
//	defer c.Close()
//	l := c.Listen("JOB_STATUS_CHANGE")
//	defer l.Close()
//	err = c.Execute(ctx, "job-cancel", map[string]any{"id": "j"}, nil)
//	ev, err := l.Next(ctx)
//
// A Client is safe for concurrent use. Commands are pipelined, each with an id
// of its own; QEMU carries them out in the order in which they were sent. One
// goroutine reads what comes and hands replies and events to those who wait. A
// command whose caller has given up may still be carried out; its reply is
// dropped.
//
// QEMU serves one client of such a socket at a time. A second one connects, but
// gets no greeting until the first has gone: Dial then fails with ErrBusy when
// its ctx ends. So keep connections short, or give each program a monitor of
// its own.
//
// What QEMU sends is checked for its form: one that breaks the protocol
// (ErrProtocol) loses the connection.
//
// The protocol is docs/interop/qmp-spec.txt of QEMU; out-of-band execution is
// not asked for. The package imports the standard library only;
// client/source/qemu calls it.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Version is QEMU's, from the greeting.
type Version struct {
	Major, Minor, Micro int
	Package             string // the distribution's own, or ""
}

// Client is a connection to a monitor.
type Client struct {
	nc      net.Conn
	version Version
	sending chan struct{} // holds one token while a command is being written
	done    chan struct{} // closed when receive has returned

	mu        sync.Mutex
	id        uint64
	pending   map[uint64]chan<- reply
	listeners map[*Listener]struct{}
	err       error // why there is nothing more to come
}

type reply struct {
	value json.RawMessage
	err   error
}

// message is everything that a server may send.
type message struct {
	QMP *struct {
		Version struct {
			QEMU    struct{ Major, Minor, Micro int } `json:"qemu"`
			Package string                            `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	Time   struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// maxLine is the longest message that is taken, in bytes.
const maxLine = 64 << 20

// Dial connects to a monitor's socket and negotiates. ctx bounds that.
//
// Errors: ErrBusy, ErrProtocol, ErrClosed when QEMU hung up, and those of
// net.Dial, such as syscall.ECONNREFUSED and fs.ErrNotExist: no QEMU is there.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, fmt.Errorf("qmp: %s: %w: %w", path, ErrBusy, cause) // its backlog is full
		}
		return nil, fmt.Errorf("qmp: %w", err)
	}
	c, err := negotiate(ctx, nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("qmp: %s: %w", path, err)
	}
	return c, nil
}

func negotiate(ctx context.Context, nc net.Conn) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	br := bufio.NewReader(nc)
	m, err := readMessage(br)
	if !stop() {
		return nil, fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	} else if err != nil {
		return nil, lost(err)
	}
	if m.QMP == nil {
		return nil, fmt.Errorf("%w: it does not begin with a greeting", ErrProtocol)
	}
	v := m.QMP.Version
	c := &Client{
		nc: nc, version: Version{v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package},
		sending: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[uint64]chan<- reply{}, listeners: map[*Listener]struct{}{},
	}
	go c.receive(br)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version returns QEMU's version.
func (c *Client) Version() Version { return c.version }

// PeerPID returns the process at the other end: the one that made the socket
// listen, which is QEMU unless somebody gave it the socket.
func (c *Client) PeerPID() (pid int, err error) {
	u, ok := c.nc.(*net.UnixConn)
	if !ok {
		return 0, errors.New("qmp: not a unix socket")
	}
	rc, err := u.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("qmp: %w", err)
	}
	var cred *syscall.Ucred
	ctlErr := rc.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(ctlErr, err); err != nil {
		return 0, fmt.Errorf("qmp: credentials of the peer: %w", err)
	}
	return int(cred.Pid), nil
}

// Execute sends a command and waits for its reply. arguments is marshalled; nil
// and nil maps are none; what the command returns is put into out, unless that is nil.
//
// Errors: *Error when QEMU refuses, ErrClosed when the connection is gone (the
// command may have been carried out), ErrProtocol, ctx's.
func (c *Client) Execute(ctx context.Context, command string, arguments, out any) error {
	if err := c.execute(ctx, command, arguments, out); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	return nil
}

func (c *Client) execute(ctx context.Context, command string, arguments, out any) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	select {
	case c.sending <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	id, answer, err := c.register()
	if err == nil {
		err = c.write(ctx, id, command, arguments)
	}
	<-c.sending
	if err != nil {
		return err
	}
	select {
	case r := <-answer:
		if r.err != nil || out == nil {
			return r.err
		}
		if err := json.Unmarshal(r.value, out); err != nil {
			return fmt.Errorf("%w: unexpected answer: %w", ErrProtocol, err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Client) register() (uint64, <-chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.id++
	answer := make(chan reply, 1)
	c.pending[c.id] = answer
	return c.id, answer, nil
}

// write sends a command. If it fails half way, the connection is of no more use.
func (c *Client) write(ctx context.Context, id uint64, command string, arguments any) error {
	a, err := json.Marshal(arguments)
	if string(a) == "null" {
		a = nil // also of a nil map: QEMU wants an object or nothing
	}
	var line []byte
	if err == nil {
		line, err = json.Marshal(struct {
			Execute   string          `json:"execute"`
			Arguments json.RawMessage `json:"arguments,omitempty"`
			ID        uint64          `json:"id"`
		}{command, a, id})
	}
	if err != nil {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
		return err
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.nc.SetWriteDeadline(time.Unix(1, 0))
		close(fired)
	})
	_, err = c.nc.Write(append(line, '\n'))
	if !stop() {
		<-fired
		if err == nil { // it went out in time
			c.nc.SetWriteDeadline(time.Time{})
			return nil
		}
		err = context.Cause(ctx)
	}
	if err != nil {
		reason := c.fail(lost(err))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return reason // the receiver may have closed the connection under the write, and knows why
	}
	return nil
}

// receive reads messages until the connection fails, and then fails what is
// still pending.
func (c *Client) receive(br *bufio.Reader) {
	defer close(c.done)
	var err error
	for err == nil {
		var m *message
		if m, err = readMessage(br); err == nil {
			err = c.dispatch(m)
		}
	}
	c.fail(lost(err))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, answer := range c.pending {
		answer <- reply{err: c.err}
	}
	c.pending = nil
	for l := range c.listeners {
		close(l.ended)
	}
	c.listeners = nil
}

func (c *Client) dispatch(m *message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.Event != "":
		e := Event{Name: m.Event, Time: time.Unix(m.Time.Seconds, m.Time.Microseconds*1000), Data: m.Data}
		for l := range c.listeners {
			l.put(e)
		}
	case m.Error == nil && m.Return == nil:
		return fmt.Errorf("%w: a message is neither reply nor event", ErrProtocol)
	case m.ID == nil:
		return fmt.Errorf("%w: a reply has no id", ErrProtocol)
	default:
		answer := c.pending[*m.ID]
		if answer == nil {
			return fmt.Errorf("%w: reply to command %s, which is not pending", ErrProtocol, strconv.FormatUint(*m.ID, 10))
		}
		delete(c.pending, *m.ID)
		r := reply{value: m.Return}
		if m.Error != nil {
			r.err = m.Error
		}
		answer <- r // there is room for one
	}
	return nil
}

// fail closes the connection and returns the first reason given: the one told.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	reason := c.err
	c.mu.Unlock()
	c.nc.Close()
	return reason
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection. Commands in flight fail with ErrClosed.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// readMessage reads one line.
func readMessage(br *bufio.Reader) (*message, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("%w: a message is longer than %d bytes", ErrProtocol, maxLine)
		}
		line = append(line, part...)
		if err == nil {
			break
		} else if !errors.Is(err, bufio.ErrBufferFull) {
			if err == io.EOF && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, fmt.Errorf("%w: %.80q: %w", ErrProtocol, line, err)
	}
	return &m, nil
}
