package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var be = binary.BigEndian

// peer is the server's end of a connection, with a script for a brain.
type peer struct {
	net.Conn
	t *testing.T
}

// serve starts a server whose every connection runs script, and returns a
// function that dials it. A script may return at any time: the connection is
// closed then.
func serve(t *testing.T, script func(*peer)) func(context.Context) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				script(&peer{c, t})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
}

// put sends integers of their own width, strings and byte slices.
func (p *peer) put(values ...any) {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case uint16:
			b = be.AppendUint16(b, v)
		case uint32:
			b = be.AppendUint32(b, v)
		case uint64:
			b = be.AppendUint64(b, v)
		case string:
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		default:
			panic("put: what is this?")
		}
	}
	p.Write(b) // the client may have gone: it is hostile servers that matter here
}

// take reads n bytes; at the end of the connection it returns nil.
func (p *peer) take(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(p, b); err != nil {
		return nil
	}
	return b
}

// greet plays the server's part up to the options.
func (p *peer) greet() {
	p.put(uint64(magicInit), uint64(magicOption), uint16(hsFixedNewstyle|hsNoZeroes))
	p.take(4)
}

// opt reads an option; ok is false when the client has gone.
func (p *peer) opt() (opt uint32, data []byte, ok bool) {
	h := p.take(16)
	if h == nil {
		return 0, nil, false
	}
	data = p.take(int(be.Uint32(h[12:])))
	return be.Uint32(h[8:]), data, data != nil
}

// rep replies to an option.
func (p *peer) rep(opt, typ uint32, data ...byte) {
	p.put(uint64(magicOptReply), opt, typ, uint32(len(data)), data)
}

// fakeExport is what the well-behaved part of a fake server offers.
type fakeExport struct {
	size     uint64
	flags    uint16
	simple   bool              // no structured replies
	contexts map[string]uint32 // id by name
	blocks   []byte            // NBD_INFO_BLOCK_SIZE, or nil
}

// negotiate plays a decent server until the transmission phase; false means
// that the client has gone.
func (p *peer) negotiate(e fakeExport) bool {
	p.greet()
	for {
		opt, data, ok := p.opt()
		if !ok {
			return false
		}
		switch opt {
		case optStructuredReply:
			if e.simple {
				p.rep(opt, repErrUnsup)
			} else {
				p.rep(opt, repAck)
			}
		case optSetMeta:
			for data = data[4+be.Uint32(data)+4:]; len(data) > 0; {
				n := be.Uint32(data)
				name := string(data[4 : 4+n])
				if id, ok := e.contexts[name]; ok {
					p.rep(opt, repMetaContext, append(be.AppendUint32(nil, id), name...)...)
				}
				data = data[4+n:]
			}
			p.rep(opt, repAck)
		case optGo:
			info := be.AppendUint16(nil, infoExport)
			info = be.AppendUint64(info, e.size)
			p.rep(opt, repInfo, be.AppendUint16(info, e.flags|flagHasFlags)...)
			if e.blocks != nil {
				p.rep(opt, repInfo, append(be.AppendUint16(nil, infoBlockSize), e.blocks...)...)
			}
			p.rep(opt, repAck)
			return true
		default:
			p.rep(opt, repErrUnsup)
		}
	}
}

// fakeRequest is a request as it came in.
type fakeRequest struct {
	flags, cmd     uint16
	cookie, offset uint64
	length         uint32
	payload        []byte
}

// request reads one; nil means that the client has gone or said so.
func (p *peer) request() *fakeRequest {
	h := p.take(28)
	if h == nil || be.Uint16(h[6:]) == cmdDisc {
		return nil
	}
	if be.Uint32(h) != magicRequest {
		p.t.Errorf("request with magic %#x", h[:4])
		return nil
	}
	r := &fakeRequest{
		flags: be.Uint16(h[4:]), cmd: be.Uint16(h[6:]),
		cookie: be.Uint64(h[8:]), offset: be.Uint64(h[16:]), length: be.Uint32(h[24:]),
	}
	if r.cmd == cmdWrite {
		if r.payload = p.take(int(r.length)); r.payload == nil {
			return nil
		}
	}
	return r
}

// chunk sends a chunk of a structured reply.
func (p *peer) chunk(flags, typ uint16, r *fakeRequest, values ...any) {
	n := 0
	for _, v := range values {
		switch v := v.(type) {
		case uint16:
			n += 2
		case uint32:
			n += 4
		case uint64:
			n += 8
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	p.put(append([]any{uint32(magicStructured), flags, typ, r.cookie, uint32(n)}, values...)...)
}

// connect opens a client on a dialer; it is closed when the test ends.
func connect(t *testing.T, dial func(context.Context) (net.Conn, error), o Options) *Client {
	t.Helper()
	c, err := Open(t.Context(), dial, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantProtocol fails unless err is a protocol violation.
func wantProtocol(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrProtocol) {
		t.Fatalf("error %v, want a protocol violation", err)
	}
}
