package nbd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const fakeSize = 1 << 20

// server answers every request by answer, after a decent handshake.
func server(t *testing.T, e fakeExport, answer func(*peer, *fakeRequest)) func(context.Context) (net.Conn, error) {
	if e.size == 0 {
		e.size = fakeSize
	}
	if e.contexts == nil {
		e.contexts = map[string]uint32{BaseAllocation: 7, "x:y": 8}
	}
	return serve(t, func(p *peer) {
		if !p.negotiate(e) {
			return
		}
		for r := p.request(); r != nil; r = p.request() {
			answer(p, r)
		}
	})
}

var bothContexts = Options{Contexts: []string{BaseAllocation, "x:y"}}

// TestReadViolations: no answer that is not exactly right passes for data.
func TestReadViolations(t *testing.T) {
	const off, n = 4096, 64
	half, all := make([]byte, n/2), make([]byte, n)
	for name, answer := range map[string]func(*peer, *fakeRequest){
		"bad magic":        func(p *peer, r *fakeRequest) { p.put(uint32(1), make([]byte, 16)) },
		"simple reply":     func(p *peer, r *fakeRequest) { p.put(uint32(magicSimple), uint32(0), r.cookie, all) },
		"unknown cookie":   func(p *peer, r *fakeRequest) { r.cookie++; p.chunk(chunkDone, chunkOffsetData, r, uint64(off), all) },
		"nothing":          func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkNone, r) },
		"empty not done":   func(p *peer, r *fakeRequest) { p.chunk(0, chunkNone, r) },
		"empty with data":  func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkNone, r, "x") },
		"half":             func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, uint64(off), half) },
		"before the range": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, uint64(off-1), all) },
		"after the range":  func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, uint64(off+1), all) },
		"offset overflows": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, uint64(math.MaxUint64-8), all) },
		"too much":         func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, uint64(off), all, "x") },
		"claims 4 GiB": func(p *peer, r *fakeRequest) {
			p.put(uint32(magicStructured), uint16(1), uint16(chunkOffsetData), r.cookie, uint32(math.MaxUint32), uint64(off))
		},
		"data without data": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, uint64(off)) },
		"data too short":    func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, "xyz") },
		"twice": func(p *peer, r *fakeRequest) {
			p.chunk(0, chunkOffsetData, r, uint64(off), half)
			p.chunk(chunkDone, chunkOffsetData, r, uint64(off), half)
		},
		"overlap": func(p *peer, r *fakeRequest) {
			p.chunk(0, chunkOffsetData, r, uint64(off), half, "x")
			p.chunk(chunkDone, chunkOffsetHole, r, uint64(off+n/2), uint32(n/2))
		},
		"hole of 4 GiB": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkOffsetHole, r, uint64(off), uint32(math.MaxUint32))
		},
		"hole of 0":      func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetHole, r, uint64(off), uint32(0)) },
		"hole too short": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetHole, r, uint64(off)) },
		"block status": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
		},
		"unknown chunk":  func(p *peer, r *fakeRequest) { p.chunk(chunkDone, 99, r) },
		"error of 0":     func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkErrorBit+1, r, uint32(0), uint16(0)) },
		"error cut":      func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkErrorBit+1, r, uint32(5)) },
		"error text cut": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkErrorBit+1, r, uint32(5), uint16(9), "x") },
		"error huge": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkErrorBit+1, r, uint32(5), uint16(0), make([]byte, maxErrorChunk))
		},
		"error offset": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkErrorOffset, r, uint32(5), uint16(0), uint64(1))
		},
		"error offset cut": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkErrorOffset, r, uint32(5), uint16(0), "x") },
		"too many pieces": func(p *peer, r *fakeRequest) {
			for i := range uint64(maxReadPieces + 1) {
				p.chunk(0, chunkOffsetData, r, r.offset+2*i, "x")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, server(t, fakeExport{}, answer), bothContexts)
			size := n
			if name == "too many pieces" {
				size = 4 * maxReadPieces
			}
			got, err := c.ReadAt(make([]byte, size), off)
			wantProtocol(t, err)
			if got != 0 {
				t.Errorf("%d bytes read", got)
			}
			// The stream means nothing any more.
			if _, err := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrProtocol) {
				t.Errorf("second read: %v", err)
			}
		})
	}
}

// TestReadPieces: data and holes in any order make one read.
func TestReadPieces(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd, srv := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
	want := make([]byte, fakeSize)
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	copy(want[5000:], make([]byte, 20_000))
	c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
		var cuts []uint64
		for at := r.offset; at < r.offset+uint64(r.length); at += 1 + srv.Uint64N(3000) {
			cuts = append(cuts, at)
		}
		ends := append(slices.Clone(cuts[1:]), r.offset+uint64(r.length))
		order := srv.Perm(len(cuts))
		for i, k := range order {
			flags := uint16(0)
			if i == len(order)-1 && srv.IntN(2) == 0 {
				flags = chunkDone
			}
			data := want[cuts[k]:ends[k]]
			if len(bytes.Trim(data, "\x00")) == 0 {
				p.chunk(flags, chunkOffsetHole, r, cuts[k], uint32(len(data)))
			} else {
				p.chunk(flags, chunkOffsetData, r, cuts[k], data)
			}
			if i == len(order)-1 && flags == 0 {
				p.chunk(chunkDone, chunkNone, r)
			}
		}
	}), Options{})
	for range 50 {
		off := rnd.IntN(fakeSize - 1)
		got := bytes.Repeat([]byte{0xaa}, 1+rnd.IntN(min(fakeSize-off, 100_000)))
		if n, err := c.ReadAt(got, int64(off)); err != nil || n != len(got) {
			t.Fatalf("read of %d at %d: %d, %v", len(got), off, n, err)
		}
		if !bytes.Equal(got, want[off:off+len(got)]) {
			t.Fatalf("read of %d at %d: wrong bytes", len(got), off)
		}
	}
}

// TestServerErrors: an error concerns its request only, and says what it is.
func TestServerErrors(t *testing.T) {
	codes := map[uint32]syscall.Errno{1: syscall.EPERM, 5: syscall.EIO, 12: syscall.ENOMEM, 22: syscall.EINVAL,
		28: syscall.ENOSPC, 75: syscall.EOVERFLOW, 95: syscall.ENOTSUP, 108: syscall.ESHUTDOWN, 9999: 0}
	var code atomic.Uint32
	c := connect(t, server(t, fakeExport{flags: flagSendFlush}, func(p *peer, r *fakeRequest) {
		switch {
		case r.cmd == cmdFlush:
			p.put(uint32(magicSimple), uint32(0), r.cookie)
		case r.cmd == cmdWrite:
			p.put(uint32(magicSimple), code.Load(), r.cookie)
		case r.offset == 0: // also after data, and of a type to come
			p.chunk(0, chunkOffsetData, r, r.offset, "ab")
			p.chunk(chunkDone, chunkErrorBit+77, r, code.Load(), uint16(3), "bad", "more")
		default:
			p.chunk(0, chunkErrorOffset, r, code.Load(), uint16(0), r.offset+1)
			p.chunk(chunkDone, chunkErrorBit+1, r, uint32(108), uint16(0)) // the first one counts
		}
	}), Options{})
	for n, errno := range codes {
		code.Store(n)
		_, e1 := c.ReadAt(make([]byte, 4), 0)
		_, e2 := c.ReadAt(make([]byte, 4), 8)
		_, e3 := c.WriteAt(make([]byte, 4), 8)
		for i, err := range []error{e1, e2, e3} {
			var e *Error
			if !errors.As(err, &e) || e.Code != n || errno != 0 && !errors.Is(err, errno) || !strings.Contains(err.Error(), e.Name()) {
				t.Errorf("error %d, kind %d: %v", n, i, err)
			}
		}
		if !strings.Contains(e1.Error(), `"bad"`) || !strings.Contains(e2.Error(), "offset 9") {
			t.Errorf("texts: %v; %v", e1, e2)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("the connection did not survive: %v", err)
		}
	}
}

// TestMinBlock: reads of any alignment go out as the server wants them.
func TestMinBlock(t *testing.T) {
	want := make([]byte, fakeSize)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	blocks := be.AppendUint32(be.AppendUint32(be.AppendUint32(nil, 512), 4096), 8192)
	c := connect(t, server(t, fakeExport{blocks: blocks}, func(p *peer, r *fakeRequest) {
		if r.offset%512 != 0 || r.length%512 != 0 || r.length > 8192 {
			t.Errorf("request of %d bytes at %d", r.length, r.offset)
		}
		p.chunk(chunkDone, chunkOffsetData, r, r.offset, want[r.offset:][:r.length])
	}), Options{})
	for _, at := range []struct{ off, n int }{{0, 512}, {1, 1}, {511, 2}, {100, 20_000}, {512, 30_000}, {fakeSize - 3, 3}, {fakeSize - 700, 10}} {
		got := make([]byte, at.n)
		if n, err := c.ReadAt(got, int64(at.off)); n != at.n || err != nil || !bytes.Equal(got, want[at.off:at.off+at.n]) {
			t.Errorf("read of %d at %d: %d, %v", at.n, at.off, n, err)
		}
	}
	if n, err := c.ReadAt(make([]byte, 10), fakeSize-3); n != 3 || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
}

// FuzzReply feeds anything to the reader of replies, with a read, a block
// status and a flush pending: no panic, no bytes beyond the buffers, and what
// completes without an error is whole.
func FuzzReply(f *testing.F) {
	var p sink
	read, status := &fakeRequest{cookie: 1, offset: 4096, length: 64}, &fakeRequest{cookie: 2}
	add := func(fn func(*peer)) {
		p.Reset()
		fn(&peer{Conn: &p})
		f.Add(bytes.Clone(p.Bytes()), true)
		f.Add(bytes.Clone(p.Bytes()), false)
	}
	add(func(p *peer) { p.chunk(1, chunkOffsetData, read, uint64(4096), make([]byte, 64)) })
	add(func(p *peer) {
		p.chunk(0, chunkOffsetHole, read, uint64(4128), uint32(32))
		p.chunk(0, chunkOffsetData, read, uint64(4096), make([]byte, 32))
		p.chunk(1, chunkNone, read)
	})
	add(func(p *peer) {
		p.chunk(1, chunkBlockStatus, status, uint32(7), uint32(64), uint32(3), uint32(9), uint32(0))
	})
	add(func(p *peer) { p.chunk(1, chunkErrorOffset, read, uint32(5), uint16(2), "no", uint64(4100)) })
	add(func(p *peer) { p.put(uint32(magicSimple), uint32(0), uint64(3)) })
	add(func(p *peer) { p.put(uint32(magicSimple), uint32(0), uint64(1), make([]byte, 64)) })
	f.Fuzz(func(t *testing.T, data []byte, structured bool) {
		whole := bytes.Repeat([]byte{0xaa}, 96)
		pending := map[uint64]*request{
			1: {cmd: cmdRead, offset: 4096, length: 64, buf: whole[16:80:80]},
			2: {cmd: cmdBlockStatus, length: 1 << 30},
			3: {cmd: cmdFlush},
		}
		c := &conn{pending: map[uint64]*request{}}
		for k, r := range pending {
			r.done = make(chan struct{})
			c.pending[k] = r
		}
		rr := replyReader{br: bufio.NewReaderSize(bytes.NewReader(data), 16), structured: structured,
			contexts: map[uint32]string{7: BaseAllocation}, conn: c}
		for rr.next() == nil {
		}
		if !bytes.Equal(whole[:16], whole[80:]) || whole[0] != 0xaa {
			t.Fatal("bytes beyond the buffer")
		}
		for k, r := range pending {
			select {
			case <-r.done:
				if k == 1 && structured && r.err == nil && !r.pieces.whole(64) {
					t.Fatal("incomplete read passes")
				}
			default:
			}
		}
	})
}

// sink is a net.Conn that keeps what is written.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) { return s.Buffer.Write(p) }
func (s *sink) Read(p []byte) (int, error)  { return s.Buffer.Read(p) }
