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

// Bounds on what clients may make a Server hold or do.
const (
	maxServed    = 256              // connections at a time; more are hung up on
	maxInFlight  = 16               // requests of one connection at a time
	maxReads     = 64               // pieces of pieceSize being read at a time, over all connections
	pieceSize    = 1 << 20          // bytes of a read that are held at a time
	maxRequest   = 32 << 20         // bytes of one read, or of the payload of a refused write
	maxOptions   = 1024             // options of one handshake
	maxOption    = 16 << 10         // bytes of one option
	handshakeFor = 30 * time.Second // from the connection to its transmission phase
	maxExtents   = 1024             // calls of Mapper.Extent, and descriptors, of one block status
)

// Export is what a Server gives under a name.
type Export struct {
	// Data is what is read. If it is a Mapper, clients are told where the holes
	// are; if it is a ContextReaderAt, reads end when nobody waits for them.
	Data interface {
		io.ReaderAt
		Size() int64
	}
	// Description is free text for a person.
	Description string
}

// description is no longer than the protocol allows.
func (e Export) description() string { return e.Description[:min(len(e.Description), maxString)] }

// Mapper is implemented by an Export's Data that knows its holes. Extent says
// whether the byte at off is in a hole, which reads as zeros, and for how many
// bytes from off on, at least 1, this goes on at least.
type Mapper interface {
	Extent(ctx context.Context, off int64) (data bool, length int64, err error)
}

// ContextReaderAt is implemented by an Export's Data whose reads can be ended.
type ContextReaderAt interface {
	ReadAtContext(ctx context.Context, p []byte, off int64) (int, error)
}

// Server gives exports, read-only, to any number of clients that speak the fixed
// newstyle handshake. It trusts them with nothing: what they send is bounded in
// number, size and time before anything is done for it, and who breaks the
// protocol is hung up on. It has no TLS and asks for no password: listen on a
// socket that only those can reach who may read.
type Server struct {
	exports map[string]Export
	reads   chan struct{} // a slot for every piece being read
}

// NewServer makes a Server of exports by name. When there is only one, a client
// that asks for the default export, "", gets it too.
func NewServer(exports map[string]Export) *Server {
	return &Server{exports: exports, reads: make(chan struct{}, maxReads)}
}

// Serve accepts clients until ctx is done. Then it closes the listener and all
// connections, waits until reads under way have ended, and returns nil. Any
// other error is the listener's.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer stop()
	slots := make(chan struct{}, maxServed)
	for {
		nc, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if err != nil {
			l.Close()
			return fmt.Errorf("nbd: serve: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			nc.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, nc)
		})
	}
}

// export finds an export by the name that a client gave.
func (s *Server) export(name string) (Export, bool) {
	e, ok := s.exports[name]
	if !ok && name == "" && len(s.exports) == 1 {
		for _, e = range s.exports {
			ok = true
		}
	}
	return e, ok
}

// served is one connection of a Server.
type served struct {
	s   *Server
	nc  net.Conn
	br  *bufio.Reader
	ctx context.Context // ends with the connection

	noZeroes   bool
	structured bool
	metaExport string // of the last NBD_OPT_SET_META_CONTEXT
	allocation bool   // base:allocation was selected, for metaExport

	export Export // once the transmission phase begins
	size   int64
	wmu    sync.Mutex // one reply, or chunk of one, at a time
}

// serve takes a connection through its life.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer nc.Close()
	defer stop()
	defer cancel()
	c := &served{s: s, nc: nc, br: bufio.NewReaderSize(nc, 4096), ctx: ctx}
	nc.SetDeadline(time.Now().Add(handshakeFor))
	ready, err := c.negotiate()
	if err != nil || !ready {
		return
	}
	nc.SetDeadline(time.Time{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // reads in flight are for nobody any more
	c.transmit(&wg)
}

// errHangUp ends a connection whose client broke the protocol or said goodbye.
var errHangUp = errors.New("hang up")

// transmit reads requests and answers them until the client goes.
func (c *served) transmit(wg *sync.WaitGroup) {
	slots := make(chan struct{}, maxInFlight)
	var head [28]byte
	for {
		if _, err := io.ReadFull(c.br, head[:]); err != nil {
			return
		}
		be := binary.BigEndian
		r := servedRequest{
			flags: be.Uint16(head[4:]), cmd: be.Uint16(head[6:]), cookie: be.Uint64(head[8:]),
			off: be.Uint64(head[16:]), length: be.Uint32(head[24:]),
		}
		if be.Uint32(head[:]) != magicRequest || r.cmd == cmdDisc {
			return
		}
		if r.cmd == cmdWrite { // its payload follows, wanted or not
			if r.length > maxRequest {
				return
			}
			if _, err := io.CopyN(io.Discard, c.br, int64(r.length)); err != nil {
				return
			}
		}
		select {
		case slots <- struct{}{}:
		case <-c.ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := c.answer(r); err != nil {
				c.nc.Close() // ends the loop above
			}
		})
	}
}

// write sends the parts as one.
func (c *served) write(parts ...[]byte) error {
	b := net.Buffers(parts)
	_, err := b.WriteTo(c.nc)
	return err
}
