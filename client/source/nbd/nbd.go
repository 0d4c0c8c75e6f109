// Package nbd is a client of the Network Block Device protocol, as QEMU,
// qemu-nbd, nbdkit and nbd-server speak it, and a small server: see [Server].
//
//	c, err := nbd.Dial(ctx, "unix", "/run/x.sock", nbd.Options{
//		Contexts: []string{nbd.BaseAllocation},
//	})
//	…
//	defer c.Close()
//	err = c.Walk(ctx, nbd.BaseAllocation, 0, c.Info().Size, func(s nbd.Status) error { … })
//	n, err := c.ReadAt(p, off)
//
// It speaks the fixed newstyle handshake with NBD_OPT_GO, and asks for
// structured replies and metadata contexts; a server without structured
// replies is read through simple ones. Oldstyle servers, TLS and extended
// headers are not spoken, so that one request stays below 4 GiB; longer reads,
// writes and walks are cut into several.
//
// A Client is safe for concurrent use. Requests are pipelined: each goes out
// at once with a cookie of its own, and one goroutine per connection hands the
// replies, in whatever order they come, to those who wait for them. Every
// method that waits obeys its context.
//
// Nothing a server sends is trusted. Lengths, offsets and counts are checked
// against what was asked and what was agreed on before anything is allocated
// or copied; a read is complete only when every byte was delivered exactly
// once. A server that breaks the protocol (ErrProtocol) loses its connection,
// and with it the Client, for what follows in the stream means nothing any
// more. An error that the server reports (*Error) concerns that request alone.
//
// Layouts and numbers are those of doc/proto.md of the NBD project
// (https://github.com/NetworkBlockDevice/nbd). The package imports the
// standard library only.
package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Names and flags of the metadata contexts that QEMU offers.
const (
	// BaseAllocation tells what of the export is allocated: StateHole, StateZero.
	BaseAllocation = "base:allocation"
	// DirtyBitmap followed by a bitmap's name tells what changed: StateDirty.
	DirtyBitmap = "qemu:dirty-bitmap:"

	StateHole  = 1 << 0 // base:allocation: takes no room; the contents are undefined unless StateZero is set
	StateZero  = 1 << 1 // base:allocation: reads as zeros
	StateDirty = 1 << 0 // qemu:dirty-bitmap:…: was written since the bitmap was made
)

// Options are what to ask of a server.
type Options struct {
	// Export is the export's name; "" is the server's default export.
	Export string
	// Contexts are the metadata contexts to select for Walk, by full name.
	// Info.Contexts tells which of them the server has.
	Contexts []string
	// Connections is how many connections to use if the server says that they
	// see the same data (multi-conn). 0 means 1.
	Connections int
}

// Info is what the server said of the export.
type Info struct {
	Size int64 // bytes
	// Description is the server's free text, or "".
	Description string

	ReadOnly, CanFlush, CanTrim, CanWriteZeroes, MultiConn bool

	// Structured tells that the server agreed to structured replies.
	Structured bool
	// Contexts are those of Options.Contexts that the server has.
	Contexts []string
	// MinBlock is the alignment in bytes that the server wants of requests,
	// PreferredBlock the one it likes best, MaxBlock the most bytes that one
	// request reads or writes. Without word from the server: 1, 4096, 32 MiB.
	MinBlock, PreferredBlock, MaxBlock int64
	// Connections is how many there are.
	Connections int
}

// Client is an open export.
type Client struct {
	info  Info
	conns []*conn
	next  atomic.Uint32

	closeOnce sync.Once
	closeErr  error
}

var (
	_ io.ReaderAt = (*Client)(nil)
	_ io.WriterAt = (*Client)(nil)
	_ io.Closer   = (*Client)(nil)
)

// Dial connects to the server at address ("unix" or "tcp", as package net) and
// opens an export. ctx bounds the handshake.
func Dial(ctx context.Context, network, address string, o Options) (*Client, error) {
	var d net.Dialer
	return Open(ctx, func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, network, address)
	}, o)
}

// Open is Dial with the caller's own way of getting connections.
func Open(ctx context.Context, dial func(context.Context) (net.Conn, error), o Options) (*Client, error) {
	c := &Client{}
	for want := max(1, o.Connections); len(c.conns) < want; {
		cn, info, err := openConn(ctx, dial, o)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("nbd: open export %q: %w", o.Export, err)
		}
		c.conns = append(c.conns, cn)
		if len(c.conns) == 1 {
			c.info = *info
			if !info.MultiConn {
				want = 1
			}
		} else if info.Size != c.info.Size {
			c.Close()
			return nil, fmt.Errorf("nbd: open export %q: %w: connections disagree on its size: %d and %d bytes",
				o.Export, ErrProtocol, c.info.Size, info.Size)
		}
	}
	c.info.Connections = len(c.conns)
	return c, nil
}

// Info returns what is known of the export.
func (c *Client) Info() Info { return c.info }

// ReadAt implements io.ReaderAt.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	return c.Read(context.Background(), p, off)
}

// Read is ReadAt with a context. When it returns, p is not touched any more.
func (c *Client) Read(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("nbd: read at %d: negative offset", off)
	}
	var eof error
	if left := max(0, c.info.Size-off); int64(len(p)) > left {
		p, eof = p[:left], io.EOF
	}
	end, mask := off+int64(len(p)), c.info.MinBlock-1
	if len(p) > 0 && (off&mask != 0 || end&mask != 0 && end != c.info.Size) {
		lo := off &^ mask
		whole := make([]byte, min((end+mask)&^mask, c.info.Size)-lo)
		if _, err := c.Read(ctx, whole, lo); err != nil {
			return 0, err
		}
		return copy(p, whole[off-lo:]), eof
	}
	n := 0
	for n < len(p) {
		part := p[n:min(int64(len(p)), int64(n)+c.info.MaxBlock)]
		r := &request{cmd: cmdRead, offset: uint64(off) + uint64(n), length: uint32(len(part)), buf: part}
		if err := c.do(ctx, r); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, eof
}

// WriteAt implements io.WriterAt.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	return c.Write(context.Background(), p, off)
}

// Write is WriteAt with a context. A write beyond the end is refused as a whole.
func (c *Client) Write(ctx context.Context, p []byte, off int64) (int, error) {
	if err := c.inside("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		part := p[n:min(int64(len(p)), int64(n)+c.info.MaxBlock)]
		r := &request{cmd: cmdWrite, offset: uint64(off) + uint64(n), length: uint32(len(part)), payload: part}
		if err := c.do(ctx, r); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// WriteZeroes makes a range read as zeros, without sending them. With punch
// false the server is asked to keep the range allocated.
func (c *Client) WriteZeroes(ctx context.Context, off, length int64, punch bool) error {
	if !c.info.CanWriteZeroes {
		return errors.New("nbd: the server cannot write zeroes")
	}
	var flags uint16
	if !punch {
		flags = cmdFlagNoHole
	}
	return c.ranged(ctx, cmdWriteZeroes, flags, off, length)
}

// Trim tells the server that the contents of a range are not needed any more.
func (c *Client) Trim(ctx context.Context, off, length int64) error {
	if !c.info.CanTrim {
		return errors.New("nbd: the server cannot trim")
	}
	return c.ranged(ctx, cmdTrim, 0, off, length)
}

// Flush returns when every write that was answered before it is durable, over
// all connections. It does nothing if the server has no such command.
func (c *Client) Flush(ctx context.Context) error {
	if !c.info.CanFlush {
		return nil
	}
	return c.do(ctx, &request{cmd: cmdFlush})
}

// maxRange bounds the range of a request that carries no data of it: below
// 4 GiB, and a multiple of every block size there is.
const maxRange = 1 << 30

func (c *Client) ranged(ctx context.Context, cmd, flags uint16, off, length int64) error {
	if err := c.inside(cmdNames[cmd], off, length); err != nil {
		return err
	}
	for length > 0 {
		n := min(length, maxRange)
		if err := c.do(ctx, &request{cmd: cmd, flags: flags, offset: uint64(off), length: uint32(n)}); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// inside checks that a range lies within the export.
func (c *Client) inside(op string, off, length int64) error {
	if off < 0 || length < 0 || off > c.info.Size || length > c.info.Size-off {
		return fmt.Errorf("nbd: %s of %d bytes at %d: beyond the export's %d bytes", op, length, off, c.info.Size)
	}
	return nil
}

// do sends a request over the next connection in turn and waits for its reply.
func (c *Client) do(ctx context.Context, r *request) error {
	cn := c.conns[int(c.next.Add(1)%uint32(len(c.conns)))]
	if err := cn.do(ctx, r); err != nil {
		if r.cmd == cmdFlush {
			return fmt.Errorf("nbd: flush: %w", err)
		}
		return fmt.Errorf("nbd: %s of %d bytes at %d: %w", cmdNames[r.cmd], r.length, r.offset, err)
	}
	return nil
}

// Close says goodbye to the server and closes the connections. Requests in
// flight fail with ErrClosed. It is idempotent.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		for _, cn := range c.conns {
			c.closeErr = errors.Join(c.closeErr, cn.close())
		}
	})
	return c.closeErr
}
