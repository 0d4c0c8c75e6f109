package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// TestHandshakeViolations is about servers that never get to serve.
func TestHandshakeViolations(t *testing.T) {
	// goReplies runs a decent handshake up to NBD_OPT_GO and answers that.
	goReplies := func(f func(p *peer, opt uint32)) func(*peer) {
		return func(p *peer) {
			p.greet()
			for {
				opt, _, ok := p.opt()
				if !ok {
					return
				}
				if opt == optGo {
					f(p, opt)
					p.take(1 << 20) // until the client goes
					return
				}
				p.rep(opt, repAck)
			}
		}
	}
	export := func(size uint64) []byte {
		b := be.AppendUint16(nil, infoExport)
		b = be.AppendUint64(b, size)
		return be.AppendUint16(b, flagHasFlags)
	}
	blocks := func(lo, pref, hi uint32) []byte {
		b := be.AppendUint16(nil, infoBlockSize)
		b = be.AppendUint32(b, lo)
		b = be.AppendUint32(b, pref)
		return be.AppendUint32(b, hi)
	}
	tests := map[string]struct {
		script func(*peer)
		want   string
	}{
		"not NBD":         {func(p *peer) { p.put("HTTP/1.1 400 Bad Request\r\n\r\n") }, "no NBD server"},
		"oldstyle":        {func(p *peer) { p.put(uint64(magicInit), uint64(magicOldstyle), make([]byte, 136)) }, "oldstyle"},
		"unknown style":   {func(p *peer) { p.put(uint64(magicInit), "WHATEVER") }, "unknown handshake"},
		"not fixed":       {func(p *peer) { p.put(uint64(magicInit), uint64(magicOption), uint16(0)) }, "fixed newstyle"},
		"bad reply magic": {func(p *peer) { p.greet(); p.opt(); p.put(uint64(1), make([]byte, 12)) }, "bad magic"},
		"other option":    {func(p *peer) { p.greet(); p.opt(); p.rep(optAbort, repAck) }, "NBD_OPT_ABORT instead of NBD_OPT_STRUCTURED_REPLY"},
		"huge reply": {func(p *peer) {
			p.greet()
			o, _, _ := p.opt()
			p.put(uint64(magicOptReply), o, uint32(repInfo), uint32(math.MaxUint32))
		}, "option reply of 4294967295 bytes"},
		"ack with data":    {func(p *peer) { p.greet(); o, _, _ := p.opt(); p.rep(o, repAck, 1, 2) }, "acknowledgement with 2 bytes"},
		"unexpected reply": {func(p *peer) { p.greet(); o, _, _ := p.opt(); p.rep(o, repInfo, 0, 0) }, "reply of type 3"},
		"no size":          {goReplies(func(p *peer, o uint32) { p.rep(o, repAck) }), "did not tell the export's size"},
		"short info":       {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, 0) }), "1 bytes"},
		"short export":     {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, export(1)[:8]...) }), "NBD_INFO_EXPORT of 6 bytes"},
		"negative size":    {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, export(math.MaxUint64)...) }), "export of 18446744073709551615 bytes"},
		"size overflows":   {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, export(math.MaxInt64)...) }), "export of 9223372036854775807 bytes"},
		"blocks short":     {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, 0, infoBlockSize, 1) }), "NBD_INFO_BLOCK_SIZE of 1 bytes"},
		"blocks zero":      {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, blocks(0, 4096, 1<<20)...) }), "block sizes"},
		"blocks odd":       {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, blocks(3, 4096, 1<<20)...) }), "block sizes"},
		"blocks backwards": {goReplies(func(p *peer, o uint32) { p.rep(o, repInfo, blocks(512, 4096, 1)...) }), "block sizes"},
		"endless": {goReplies(func(p *peer, o uint32) {
			for range maxOptReplies + 1 {
				p.rep(o, repInfo, 0xff, 0xff)
			}
		}), "more than"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), serve(t, test.script), Options{})
			wantProtocol(t, err)
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
		})
	}
}

// TestContextViolations is about the answers to NBD_OPT_SET_META_CONTEXT.
func TestContextViolations(t *testing.T) {
	meta := func(id uint32, name string) []byte { return append(be.AppendUint32(nil, id), name...) }
	for name, replies := range map[string][][]byte{
		"not asked for": {meta(1, "evil:context")},
		"same id twice": {meta(1, "a:1"), meta(1, "a:2")},
		"without name":  {meta(1, "")},
		"too short":     {{1}},
		"too long":      {meta(1, strings.Repeat("x", maxString+1))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), serve(t, func(p *peer) {
				p.greet()
				o, _, _ := p.opt()
				p.rep(o, repAck)
				o, _, _ = p.opt()
				for _, r := range replies {
					p.rep(o, repMetaContext, r...)
				}
				p.rep(o, repAck)
			}), Options{Contexts: []string{"a:1", "a:2"}})
			wantProtocol(t, err)
		})
	}
}

func TestRefusals(t *testing.T) {
	for typ, name := range repErrNames {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), serve(t, func(p *peer) {
				p.greet()
				for range 2 {
					o, _, _ := p.opt()
					p.rep(o, typ, []byte("\x1b[2Jno")...)
				}
			}), Options{Export: "x"})
			var refused *OptionError
			if !errors.As(err, &refused) || refused.Name() != name || refused.Option != optGo {
				t.Fatalf("error %v, want %s to NBD_OPT_GO", err, name)
			}
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("the server's text reaches the terminal unquoted: %q", err)
			}
		})
	}
	_, err := Open(t.Context(), serve(t, func(*peer) {}), Options{Export: strings.Repeat("x", maxString+1)})
	if err == nil {
		t.Error("an export name that is too long was accepted")
	}
}

func TestHangUpDuringHandshake(t *testing.T) {
	for name, script := range map[string]func(*peer){
		"at once":    func(*peer) {},
		"in flags":   func(p *peer) { p.put(uint64(magicInit), uint64(magicOption), "x") },
		"in options": func(p *peer) { p.greet(); p.opt() },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(t.Context(), serve(t, script), Options{}); err == nil {
				t.Fatal("no error")
			} else if errors.Is(err, io.EOF) {
				t.Fatalf("bare EOF, which callers take for success: %v", err)
			}
		})
	}
}

func TestHandshakeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Open(ctx, serve(t, func(p *peer) {
		p.greet()
		p.opt()
		cancel()
		p.take(1)
	}), Options{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want %v", err, context.Canceled)
	}
}

// TestConnectionsDisagree: with multi-conn, every connection has to be the
// same export.
func TestConnectionsDisagree(t *testing.T) {
	sizes := make(chan uint64, 2)
	sizes <- 1 << 20
	sizes <- 2 << 20
	_, err := Open(t.Context(), serve(t, func(p *peer) {
		if p.negotiate(fakeExport{size: <-sizes, flags: flagCanMultiConn}) {
			p.request()
		}
	}), Options{Connections: 2})
	wantProtocol(t, err)
}

// TestFallback: a server without structured replies is read all the same.
func TestFallback(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 64)
	c := connect(t, serve(t, func(p *peer) {
		if !p.negotiate(fakeExport{size: uint64(len(data)), simple: true}) {
			return
		}
		for r := p.request(); r != nil; r = p.request() {
			switch r.cmd {
			case cmdRead:
				p.put(uint32(magicSimple), uint32(0), r.cookie, data[r.offset:][:r.length])
			default:
				p.put(uint32(magicSimple), uint32(22), r.cookie)
			}
		}
	}), Options{Contexts: []string{BaseAllocation}, Connections: 3})
	info := c.Info()
	if info.Structured || len(info.Contexts) != 0 || info.Connections != 1 || info.Size != int64(len(data)) {
		t.Errorf("info %+v", info)
	}
	got := make([]byte, 100)
	if n, err := c.ReadAt(got, 50); n != 100 || err != nil || !bytes.Equal(got, data[50:150]) {
		t.Errorf("read: %d, %v", n, err)
	}
	if n, err := c.ReadAt(got, int64(len(data))-10); n != 10 || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	if n, err := c.ReadAt(got, 1<<40); n != 0 || err != io.EOF {
		t.Errorf("read beyond the end: %d, %v", n, err)
	}
	if _, err := c.ReadAt(got, -1); err == nil || err == io.EOF {
		t.Errorf("read before the start: %v", err)
	}
	if err := c.Walk(t.Context(), BaseAllocation, 0, 10, nil); !errors.Is(err, ErrNoContext) {
		t.Errorf("walk: %v", err)
	}
	if _, err := c.WriteAt(got, 0); err == nil || !strings.Contains(err.Error(), "NBD_EINVAL") {
		t.Errorf("write: %v, want NBD_EINVAL", err)
	}
}
