package rpc

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon is the other end of a connection; its test tells it what to say.
type daemon struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func newDaemon(t *testing.T, nc net.Conn) *daemon {
	return &daemon{nc, t, bufio.NewReader(nc)}
}

// connect returns both ends of a connection.
func connect(t *testing.T) (*Conn, *daemon) {
	ours, theirs := net.Pipe()
	c, d := newConn(ours), newDaemon(t, theirs)
	t.Cleanup(func() {
		theirs.Close()
		c.Close()
	})
	return c, d
}

// take reads a message.
func (d *daemon) take() (header, []byte) {
	h, payload, err := readMessage(d.r)
	if err != nil {
		d.t.Errorf("daemon reads: %v", err)
	}
	return h, payload
}

// takeCall reads a call, which must be one of p.
func (d *daemon) takeCall(p proc) header {
	h, _ := d.take()
	if h.kind != typeCall || h.status != statusOK || h.program != p.program || h.procedure != p.number {
		d.t.Errorf("daemon got %+v, want a call to %s", h, p.name)
	}
	return h
}

// reply answers a call.
func (d *daemon) reply(h header, e *encoder) {
	h.kind = typeReply
	d.Write(e.finish(h)) // the client may have gone: that is its test's affair
}

// refuse answers a call with an error.
func (d *daemon) refuse(h header, e *Error) {
	h.status = statusError
	d.reply(h, failure(e))
}

func failure(e *Error) *encoder {
	return args().i32(int(e.Code)).i32(e.Domain).opt(e.Text).i32(e.Level).u32(0).
		opt(e.Str1).opt(e.Str2).opt(e.Str3).i32(e.Int1).i32(e.Int2).u32(0)
}

// tell sends an event.
func (d *daemon) tell(procedure uint32, e *encoder) {
	d.Write(e.finish(header{remoteProgram, protocolVersion, procedure, typeMessage, 0, statusOK}))
}

// later runs f and returns what it returned.
func later[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// ask makes a call whose reply is a number.
func ask(ctx context.Context, c *Conn) <-chan error {
	return later(func() error {
		_, err := c.LibVersion(ctx)
		return err
	})
}

func wantErr(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}

// exchange is one of testdata/virsh.txt.
type exchange struct {
	call, answer []byte
}

func recorded(t testing.TB) map[string]exchange {
	t.Helper()
	text, err := os.ReadFile("testdata/virsh.txt")
	if err != nil {
		t.Fatal(err)
	}
	all, name := map[string]exchange{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		x := all[name]
		direction, rest, _ := strings.Cut(line, " ")
		switch direction {
		case "", "#":
			continue
		case ">":
			x.call, err = hex.DecodeString(rest)
		case "<":
			x.answer, err = hex.DecodeString(rest)
		default:
			name = line
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = x
	}
	return all
}

var (
	golden = Domain{"rpc-test-golden", UUID{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0}, 7}
	idle   = Domain{"rpc-test-idle", UUID{0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0}, -1}
)
