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
	"sync"
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

func TestWalkViolations(t *testing.T) {
	const n = 4096
	for name, answer := range map[string]func(*peer, *fakeRequest){
		"nothing":      func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkNone, r) },
		"simple reply": func(p *peer, r *fakeRequest) { p.put(uint32(magicSimple), uint32(0), r.cookie) },
		"other context": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(8), uint32(n), uint32(0))
		},
		"unknown context": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(9), uint32(n), uint32(0))
		},
		"no extent": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkBlockStatus, r, uint32(7)) },
		"half an extent": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0), uint32(1))
		},
		"empty extent": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(0), uint32(0))
		},
		"too many": func(p *peer, r *fakeRequest) {
			p.put(uint32(magicStructured), uint16(1), uint16(chunkBlockStatus), r.cookie, uint32(maxStatusChunk+4), uint32(7))
		},
		"twice": func(p *peer, r *fakeRequest) {
			p.chunk(0, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
		},
		"data": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, r.offset, make([]byte, n)) },
		"then simple": func(p *peer, r *fakeRequest) {
			p.chunk(0, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
			p.put(uint32(magicSimple), uint32(5), r.cookie)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, server(t, fakeExport{}, answer), bothContexts)
			wantProtocol(t, c.Walk(t.Context(), BaseAllocation, 0, n, func(s Status) error {
				t.Errorf("extent %+v", s)
				return nil
			}))
		})
	}
}

// TestWalk: whatever pieces the server talks in, the extents are the same.
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd, srv := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
	const unit = 1 << 20
	flags := make([]uint32, 4096) // of each unit: 4 GiB, more than one request
	for i := range flags {
		if flags[i] = uint32(rnd.IntN(3)); i > 0 && rnd.IntN(8) > 0 {
			flags[i] = flags[i-1]
		}
	}
	blocks := be.AppendUint32(be.AppendUint32(be.AppendUint32(nil, 512), 4096), 32<<20)
	c := connect(t, server(t, fakeExport{size: unit * uint64(len(flags)), blocks: blocks}, func(p *peer, r *fakeRequest) {
		if r.offset%512 != 0 || r.length%512 != 0 || r.length == 0 {
			t.Errorf("unaligned request: %d bytes at %d", r.length, r.offset)
		}
		args := []any{uint32(7)}
		for at, end := r.offset, r.offset+uint64(r.length); at < end; {
			n := unit - at%unit
			if srv.IntN(3) == 0 {
				n = min(512*(1+srv.Uint64N(n/512)), n)
			}
			if at+n > end && srv.IntN(2) == 0 {
				n = end - at // or beyond what was asked for
			}
			args = append(args, uint32(n), flags[at/unit])
			if at += n; srv.IntN(100) == 0 {
				break // less than was asked for
			}
		}
		p.chunk(0, chunkBlockStatus, r, uint32(8), r.length, uint32(0))
		p.chunk(chunkDone, chunkBlockStatus, r, args...)
	}), bothContexts)
	for i := range 20 {
		off, length := int64(0), c.Info().Size
		if i > 0 {
			off = rnd.Int64N(length)
			length = 1 + rnd.Int64N(length-off)
		}
		var want []Status
		for at := off; at < off+length; {
			n := min(unit-at%unit, off+length-at)
			if k := len(want) - 1; k >= 0 && want[k].Flags == flags[at/unit] {
				want[k].Length += n
			} else {
				want = append(want, Status{at, n, flags[at/unit]})
			}
			at += n
		}
		var got []Status
		err := c.Walk(t.Context(), BaseAllocation, off, length, func(s Status) error {
			got = append(got, s)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("walk of %d at %d: %v\n got %v\nwant %v", length, off, err, got, want)
		}
	}
	stop := errors.New("stop")
	if err := c.Walk(t.Context(), BaseAllocation, 0, unit, func(Status) error { return stop }); err != stop {
		t.Errorf("error of the callback: %v", err)
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, c.Info().Size + 1}, {math.MaxInt64, math.MaxInt64}} {
		if err := c.Walk(t.Context(), BaseAllocation, r[0], r[1], nil); err == nil {
			t.Errorf("walk of %d at %d was accepted", r[1], r[0])
		}
	}
}

// TestPipelined: replies in the opposite order reach those who asked.
func TestPipelined(t *testing.T) {
	const readers = 16
	var waiting []*fakeRequest
	c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
		if waiting = append(waiting, r); len(waiting) < readers {
			return // nothing until all are there: so they must be in flight together
		}
		for _, r := range slices.Backward(waiting) {
			p.chunk(chunkDone, chunkOffsetData, r, r.offset, bytes.Repeat([]byte{byte(r.offset)}, int(r.length)))
		}
	}), Options{})
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			got := make([]byte, 100+i)
			if _, err := c.ReadAt(got, int64(i)); err != nil || len(bytes.Trim(got, string(rune(i)))) != 0 {
				t.Errorf("reader %d: %v, %v", i, err, got)
			}
		})
	}
	wg.Wait()
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

// TestCancel: whatever the server does not do, a cancelled call returns, its
// buffer is left alone, and others go on where that is possible.
func TestCancel(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
			if r.offset == 0 {
				cancel()
				<-release
			}
			p.chunk(chunkDone, chunkOffsetData, r, r.offset, bytes.Repeat([]byte{1}, int(r.length)))
		}), Options{})
		buf := make([]byte, 1000)
		if _, err := c.Read(ctx, buf, 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		close(release) // now the reply comes, too late
		if _, err := c.ReadAt(make([]byte, 10), 5); err != nil {
			t.Errorf("the next read: %v", err)
		}
		if len(bytes.Trim(buf, "\x00")) != 0 {
			t.Error("the buffer was written to after the read had returned")
		}
	})
	t.Run("in the middle of data", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
			p.put(uint32(magicStructured), uint16(chunkDone), uint16(chunkOffsetData), r.cookie, uint32(8+r.length), r.offset, "half of it")
			cancel()
			p.take(1) // for ever
		}), Options{})
		if _, err := c.Read(ctx, make([]byte, 1000), 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("sending", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := connect(t, serve(t, func(p *peer) {
			p.negotiate(fakeExport{size: 1 << 30})
			p.take(28)
			cancel() // and never read the rest
			<-t.Context().Done()
		}), Options{})
		if _, err := c.Write(ctx, make([]byte, 32<<20), 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("before", func(t *testing.T) {
		c := connect(t, server(t, fakeExport{}, func(*peer, *fakeRequest) { t.Error("a request") }), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Read(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	})
}

// TestHangUp: requests in flight when the connection ends fail, and so do
// those that come later; Close stays quiet.
func TestHangUp(t *testing.T) {
	c := connect(t, serve(t, func(p *peer) {
		p.negotiate(fakeExport{size: fakeSize})
		p.request()
	}), Options{})
	for range 2 {
		if _, err := c.ReadAt(make([]byte, 10), 0); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("error %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestClose(t *testing.T) {
	started := make(chan struct{})
	c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) { close(started) }), Options{})
	failed := make(chan error)
	go func() {
		_, err := c.ReadAt(make([]byte, 10), 0)
		failed <- err
	}()
	<-started
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := c.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("after: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
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
