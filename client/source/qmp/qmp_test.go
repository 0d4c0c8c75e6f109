package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// peer is the server's end of one connection, with a script for a brain.
type peer struct {
	net.Conn
	br *bufio.Reader
}

func (p *peer) say(lines ...string) {
	for _, l := range lines {
		fmt.Fprintf(p, "%s\r\n", l) // as QEMU ends its lines
	}
}

type command struct {
	Execute   string
	Arguments json.RawMessage
	ID        json.RawMessage
}

// hear reads a command; nil means that the client has gone.
func (p *peer) hear() *command {
	line, err := p.br.ReadBytes('\n')
	var c command
	if err != nil || json.Unmarshal(line, &c) != nil {
		return nil
	}
	return &c
}

func (p *peer) answer(c *command, value string) {
	p.say(fmt.Sprintf(`{"return": %s, "id": %s}`, value, c.ID))
}

// welcome plays the beginning of a decent server.
func (p *peer) welcome() {
	p.say(greeting)
	if c := p.hear(); c != nil {
		p.answer(c, "{}")
	}
}

// serve runs script for every connection to the socket whose path it returns.
func serve(t *testing.T, script func(*peer)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				script(&peer{nc, bufio.NewReader(nc)})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCommands(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) {
		p.welcome()
		for cmd := p.hear(); cmd != nil; cmd = p.hear() {
			switch cmd.Execute {
			case "echo":
				p.answer(cmd, string(cmd.Arguments))
			default:
				p.say(fmt.Sprintf(`{"id": %s, "error": {"class": "CommandNotFound", "desc": "no %s here"}}`, cmd.ID, cmd.Execute))
			}
		}
	}))
	if v := c.Version(); v != (Version{7, 2, 22, "Debian"}) {
		t.Errorf("version %+v", v)
	}
	if pid, err := c.PeerPID(); err != nil || pid != os.Getpid() {
		t.Errorf("peer %d, %v; want %d", pid, err, os.Getpid())
	}
	var out struct{ N int }
	if err := c.Execute(t.Context(), "echo", map[string]int{"N": 7}, &out); err != nil || out.N != 7 {
		t.Errorf("echo: %+v, %v", out, err)
	}
	err := c.Execute(t.Context(), "frobnicate", nil, nil)
	if !IsClass(err, CommandNotFound) || err.Error() != "qmp frobnicate: no frobnicate here" {
		t.Errorf("unknown command: %v", err)
	}
	if err := c.Execute(t.Context(), "echo", map[string]string{"N": "x"}, &out); !errors.Is(err, ErrProtocol) {
		t.Errorf("answer of another type: %v", err)
	}
	if err := c.Execute(t.Context(), "echo", func() {}, nil); err == nil {
		t.Error("arguments that are no JSON were sent")
	}
}

// Many commands are in flight at once, and each gets its own answer even if
// they come in another order.
func TestPipelining(t *testing.T) {
	const n = 50
	c := dial(t, serve(t, func(p *peer) {
		p.welcome()
		var all []*command
		for len(all) < n {
			cmd := p.hear()
			if cmd == nil {
				return
			}
			all = append(all, cmd)
		}
		for i := range all {
			cmd := all[len(all)-1-i]
			p.say(`{"event": "NOISE", "timestamp": {"seconds": 1, "microseconds": 2}}`)
			p.answer(cmd, string(cmd.Arguments))
		}
		p.hear()
	}))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var out []int
			if err := c.Execute(t.Context(), "echo", []int{i}, &out); err != nil || len(out) != 1 || out[0] != i {
				t.Errorf("command %d: %v, %v", i, out, err)
			}
		})
	}
	wg.Wait()
}

func TestEvents(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) {
		p.welcome()
		cmd := p.hear()
		p.say(`{"event": "STOP", "timestamp": {"seconds": 10, "microseconds": 500000}}`,
			`{"event": "BLOCK_RESIZE", "data": {"size": 5}, "timestamp": {"seconds": 11, "microseconds": 0}}`)
		p.answer(cmd, "{}")
	}))
	all, some := c.Listen(), c.Listen("BLOCK_RESIZE")
	defer all.Close()
	defer some.Close()
	if err := c.Execute(t.Context(), "go", nil, nil); err != nil {
		t.Fatal(err)
	}
	<-c.Done() // what came before the end can still be had
	e, err := some.Next(t.Context())
	if err != nil || e.Name != "BLOCK_RESIZE" || string(e.Data) != `{"size": 5}` {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := some.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	e, err = all.Next(t.Context())
	if err != nil || e.Name != "STOP" || !e.Time.Equal(time.Unix(10, 5e8)) {
		t.Errorf("%+v, %v", e, err)
	}
	late := c.Listen()
	defer late.Close()
	if _, err := late.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("listener of a closed client: %v", err)
	}
}

func TestNextObeysContext(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) { p.welcome(); p.hear() }))
	l := c.Listen()
	defer l.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := l.Next(ctx); err == nil || err.Error() != "enough" {
		t.Errorf("%v", err)
	}
}

// A caller that gives up does not disturb the others, nor does the late answer.
func TestCancel(t *testing.T) {
	gone := make(chan struct{})
	c := dial(t, serve(t, func(p *peer) {
		p.welcome()
		slow := p.hear()
		<-gone
		next := p.hear()
		p.answer(slow, `"late"`)
		p.answer(next, `"in time"`)
		p.hear()
	}))
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("enough"))
	defer cancel()
	if err := c.Execute(ctx, "slow", nil, nil); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("cancelled: %v", err)
	}
	close(gone)
	var out string
	if err := c.Execute(t.Context(), "next", nil, &out); err != nil || out != "in time" {
		t.Errorf("next: %q, %v", out, err)
	}
}

func TestDisconnect(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) {
		p.welcome()
		p.hear() // and goodbye
	}))
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("in flight: %v", err)
	}
	<-c.Done()
	if err := c.Execute(t.Context(), "more", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := Dial(t.Context(), filepath.Join(dir, "s")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dead socket: %v", err)
	}
}

// A monitor that another program uses takes the connection and is silent.
func TestBusy(t *testing.T) {
	path := serve(t, func(p *peer) { p.hear() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestViolations(t *testing.T) {
	for name, script := range map[string]func(*peer){
		"no greeting":     func(p *peer) { p.say(`{"return": {}}`) },
		"not JSON":        func(p *peer) { p.say(`SSH-2.0`) },
		"reply to nobody": func(p *peer) { p.say(greeting, `{"return": {}, "id": 99}`); p.hear() },
		"reply without":   func(p *peer) { p.say(greeting, `{"return": {}}`); p.hear() },
		"empty message":   func(p *peer) { p.say(greeting, `{}`); p.hear() },
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := Dial(t.Context(), serve(t, script)); !errors.Is(err, ErrProtocol) {
				if err == nil {
					c.Close()
				}
				t.Errorf("%v", err)
			}
		})
	}
}

// Whatever a server sends, nothing hangs or panics.
func FuzzServer(f *testing.F) {
	f.Add([]byte(greeting + "\n" + `{"return": {}, "id": 1}` + "\n" + `{"event": "X"}` + "\n" + `{"return": [1], "id": 2}` + "\n"))
	f.Add([]byte(greeting + "\n" + `{"error": {"class": "GenericError", "desc": "no"}, "id": 1}`))
	f.Add([]byte("{}\n\n[]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			server.Write(b)
			server.Close()
		})
		wg.Go(func() {
			for buf := make([]byte, 512); ; {
				if _, err := server.Read(buf); err != nil {
					return
				}
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := negotiate(ctx, client)
		if err == nil {
			l := c.Listen()
			c.Execute(ctx, "x", nil, nil)
			l.Next(ctx)
			l.Close()
			c.Close()
		}
		client.Close()
		wg.Wait()
		if ctx.Err() != nil {
			t.Error("it hung")
		}
	})
}
