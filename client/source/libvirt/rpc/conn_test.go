package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Replies come in any order, an error among them, and each finds its caller.
func TestInterleaved(t *testing.T) {
	c, d := connect(t)
	type result struct {
		dom Domain
		err error
	}
	look := func(name string) <-chan result {
		return later(func() result {
			dom, err := c.LookupByName(t.Context(), name)
			return result{dom, err}
		})
	}
	var callers [maxCalls]<-chan result
	var calls [maxCalls]header
	for i := range callers {
		callers[i] = look(strconv.Itoa(i))
		calls[i] = d.takeCall(procDomainLookupByName)
	}
	for i := len(calls) - 1; i > 0; i-- {
		d.reply(calls[i], args().domain(Domain{Name: strconv.Itoa(i)}))
	}
	d.refuse(calls[0], &Error{Code: ErrNoDomain, Text: "not here"})
	for i, r := range callers {
		got := <-r
		if i > 0 && (got.err != nil || got.dom.Name != strconv.Itoa(i)) {
			t.Errorf("caller %d got %+v", i, got)
		}
		if i == 0 {
			wantErr(t, got.err, ErrNoDomain)
			if s := got.err.Error(); s != `libvirt: look up domain "0": not here (libvirt error 42)` {
				t.Error(s)
			}
		}
	}
}

// A reply that does not hold what it should concerns its call alone.
func TestMalformedReply(t *testing.T) {
	c, d := connect(t)
	for _, payload := range []*encoder{args(), args().u32(1), args().u64(1).u32(2)} {
		err := ask(t.Context(), c)
		d.reply(d.takeCall(procConnectLibVersion), payload)
		wantErr(t, <-err, ErrProtocol)
	}
	err := ask(t.Context(), c)
	h := d.takeCall(procConnectLibVersion)
	h.status = statusError
	d.reply(h, args().u32(1))
	wantErr(t, <-err, ErrProtocol)
	if c.Err() != nil {
		t.Fatal(c.Err())
	}
}

// What breaks the protocol ends the connection, with every call on it.
func TestViolations(t *testing.T) {
	for name, message := range map[string]func(h header) []byte{
		"unknown serial":  func(h header) []byte { h.kind, h.serial = typeReply, h.serial+1; return args().finish(h) },
		"wrong procedure": func(h header) []byte { h.kind, h.procedure = typeReply, h.procedure+1; return args().finish(h) },
		"wrong program":   func(h header) []byte { h.kind, h.program = typeReply, qemuProgram; return args().finish(h) },
		"wrong version":   func(h header) []byte { h.kind, h.version = typeReply, 2; return args().finish(h) },
		"wrong status":    func(h header) []byte { h.kind, h.status = typeReply, 2; return args().finish(h) },
		"a call":          func(h header) []byte { return args().finish(h) },
		"a stream":        func(h header) []byte { h.kind = 3; return args().finish(h) },
		"too short":       func(header) []byte { return []byte{0, 0, 0, 27} },
		"too long":        func(header) []byte { return []byte{2, 0, 0, 5} },
		"bad event": func(header) []byte {
			return args().u32(1).finish(header{remoteProgram, 1, msgLifecycle, typeMessage, 0, 0})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, d := connect(t)
			err := ask(t.Context(), c)
			d.Write(message(d.takeCall(procConnectLibVersion)))
			e := <-err
			wantErr(t, e, ErrDisconnected)
			wantErr(t, e, ErrProtocol)
			<-c.Done()
		})
	}
}

// A daemon that ends in the middle of things fails all calls, now and later.
func TestDisconnect(t *testing.T) {
	for name, last := range map[string][]byte{"between messages": nil, "within a message": {0, 0, 0, 40, 1, 2}} {
		t.Run(name, func(t *testing.T) {
			c, d := connect(t)
			var errs [maxCalls + 1]<-chan error // one waits for its turn
			for i := range errs {
				errs[i] = ask(t.Context(), c)
			}
			for range maxCalls {
				d.takeCall(procConnectLibVersion)
			}
			d.Write(last)
			d.Close()
			for _, err := range errs {
				wantErr(t, <-err, ErrDisconnected)
			}
			<-c.Done()
			wantErr(t, c.Err(), ErrDisconnected)
			wantErr(t, <-ask(t.Context(), c), ErrDisconnected)
			_, err := c.Subscribe(t.Context())
			wantErr(t, err, ErrDisconnected)
		})
	}
}

func TestClose(t *testing.T) {
	c, d := connect(t)
	err := ask(t.Context(), c)
	d.takeCall(procConnectLibVersion)
	closed := later(c.Close)
	d.reply(d.takeCall(procConnectClose), args())
	wantErr(t, <-err, ErrDisconnected)
	if err := errors.Join(<-closed, c.Close()); err != nil {
		t.Error(err)
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		t.Errorf("daemon reads: %v", err)
	}
}

// A caller who gives up gets its own reason; the late reply is dropped, and
// the connection goes on. Until then the call keeps its place.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := connect(t)
		reason := errors.New("the user pressed ^C")
		ctx, cancel := context.WithCancelCause(t.Context())
		var given, calls = [maxCalls]<-chan error{}, [maxCalls]header{}
		for i := range given {
			given[i] = ask(ctx, c)
			calls[i] = d.takeCall(procConnectLibVersion)
		}
		waiting := ask(ctx, c) // has no place yet
		synctest.Wait()
		cancel(reason)
		for _, err := range given {
			wantErr(t, <-err, reason)
		}
		wantErr(t, <-waiting, reason)
		wantErr(t, <-ask(ctx, c), reason)

		next := ask(t.Context(), c)
		synctest.Wait()
		select {
		case err := <-next:
			t.Fatalf("a fifth call: %v", err)
		default:
		}
		d.reply(calls[2], args().u64(1))
		d.reply(d.takeCall(procConnectLibVersion), args().u64(2))
		if err := <-next; err != nil {
			t.Error(err)
		}
		for _, i := range []int{0, 1, 3} {
			d.reply(calls[i], args().u64(1))
		}
		again := ask(t.Context(), c)
		d.reply(d.takeCall(procConnectLibVersion), args().u64(3))
		if err := <-again; err != nil {
			t.Error(err)
		}
	})
}

// A call that nobody reads yet can be given up too, and was not made then.
func TestCancelBeforeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := connect(t)
		stuck := ask(t.Context(), c) // being written: the daemon does not read
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		var errs [maxCalls]<-chan error
		for i := range errs {
			errs[i] = ask(ctx, c)
		}
		synctest.Wait()
		cancel()
		for _, err := range errs {
			wantErr(t, <-err, context.Canceled)
		}
		d.reply(d.takeCall(procConnectLibVersion), args().u64(1))
		if err := <-stuck; err != nil {
			t.Error(err)
		}
		if len(c.pending) != 0 || len(c.slots) != 0 {
			t.Errorf("%d calls pending, %d places taken", len(c.pending), len(c.slots))
		}
	})
}

func keepaliveMessage(procedure uint32) []byte {
	return args().finish(header{keepaliveProgram, protocolVersion, procedure, typeMessage, 0, statusOK})
}

func TestPingIsAnswered(t *testing.T) {
	_, d := connect(t)
	d.Write(keepaliveMessage(keepalivePing))
	if h, payload := d.take(); h != (header{keepaliveProgram, 1, keepalivePong, typeMessage, 0, statusOK}) || len(payload) != 0 {
		t.Errorf("got %+v %x", h, payload)
	}
	// Messages that are not known are passed over.
	d.Write(keepaliveMessage(99))
	d.tell(9999, args())
	d.Write(keepaliveMessage(keepalivePing))
	if h, _ := d.take(); h.procedure != keepalivePong {
		t.Errorf("got %+v", h)
	}
}

// A silent daemon is pinged; as long as it answers, all is well, and when it
// does not, the connection is lost in half a minute.
func TestDeadDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := connect(t)
		pending := ask(t.Context(), c)
		d.takeCall(procConnectLibVersion)
		for range 20 {
			if h, _ := d.take(); h.program != keepaliveProgram || h.procedure != keepalivePing {
				t.Fatalf("got %+v, want a ping", h)
			}
			d.Write(keepaliveMessage(keepalivePong))
		}
		start := time.Now()
		var pings int
		for {
			h, _, err := readMessage(d.r)
			if err != nil {
				break
			}
			if h.procedure == keepalivePing {
				pings++
			}
		}
		if err := <-pending; !errors.Is(err, ErrDisconnected) || !strings.Contains(err.Error(), "has not answered") {
			t.Error(err)
		}
		if silence := time.Since(start); pings != keepaliveCount || silence > (keepaliveCount+2)*keepaliveInterval {
			t.Errorf("lost after %d pings and %v", pings, silence)
		}
	})
}

// A daemon that does not read is given up as well.
func TestStuckDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := newConn(ours)
		defer c.Close()
		wantErr(t, <-ask(t.Context(), c), ErrDisconnected)
	})
}
