package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is also the guard, and the process that is killed while it
// holds a freeze.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case GuardCommand:
			os.Exit(GuardMain(os.Args[2:], openForGuard))
		case victimCommand:
			os.Exit(victim(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

func openForGuard(ctx context.Context, args []string) (Transport, func(), error) {
	s, err := DialSocket(ctx, args[0])
	if err != nil {
		return nil, nil, err
	}
	return s, func() { s.Close() }, nil
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// fakeAgent is a guest's agent behind QEMU's socket: one connection at a time,
// commands carried out in the order in which they came, replies given to
// whoever is connected then. A connection's end does not end a command.
type fakeAgent struct {
	t      *testing.T
	path   string
	queue  chan []byte
	events chan string // the name of each command, when it has been carried out

	mu       sync.Mutex
	conn     net.Conn
	listener net.Listener
	frozen   bool
	greeting string // what is written to each new connection
	// on replaces how a command is carried out: it returns the raw reply, ""
	// for none. It runs without mu.
	on map[string]func() string
}

func newFakeAgent(t *testing.T) *fakeAgent {
	t.Helper()
	a := &fakeAgent{
		t:      t,
		path:   filepath.Join(t.TempDir(), "agent"),
		queue:  make(chan []byte, 1000),
		events: make(chan string, 1000),
		on:     map[string]func() string{},
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for line := range a.queue {
			a.work(line)
		}
	})
	a.listen(&wg)
	t.Cleanup(func() {
		a.disconnect()
		a.listener.Close()
		wg.Wait()
	})
	return a
}

func (a *fakeAgent) listen(wg *sync.WaitGroup) {
	l, err := net.Listen("unix", a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	a.listener = l
	wg.Go(func() {
		defer close(a.queue)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			a.conn = c
			io.WriteString(c, a.greeting)
			a.mu.Unlock()
			a.receive(c)
			a.mu.Lock()
			a.conn = nil
			a.mu.Unlock()
			c.Close()
		}
	})
}

// receive splits what comes as qemu-ga does: a mark discards what was before it.
func (a *fakeAgent) receive(c net.Conn) {
	var pending []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		pending = append(pending, buf[:n]...)
		for {
			i := bytes.IndexByte(pending, '\n')
			if i < 0 {
				break
			}
			line := pending[:i]
			line = line[bytes.LastIndexByte(line, syncMark)+1:]
			a.queue <- slices.Clone(line)
			pending = pending[i+1:]
		}
		if err != nil {
			return
		}
	}
}

// disconnect cuts the present connection.
func (a *fakeAgent) disconnect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		a.conn.Close()
	}
}

func (a *fakeAgent) set(command string, f func() string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.on[command] = f
}

func (a *fakeAgent) isFrozen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen
}

func (a *fakeAgent) setFrozen(v bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frozen = v
}

var allowedFrozen = []string{"guest-sync-delimited", "guest-ping", "guest-info", "guest-fsfreeze-status", "guest-fsfreeze-thaw"}

func (a *fakeAgent) work(line []byte) {
	var r struct {
		Execute   string
		Arguments struct{ ID int64 }
	}
	if err := json.Unmarshal(line, &r); err != nil {
		a.reply(refusal("GenericError", "JSON parse error"))
		return
	}
	a.mu.Lock()
	f := a.on[r.Execute]
	if a.frozen && !slices.Contains(allowedFrozen, r.Execute) {
		f = func() string { return disabledFrozen(r.Execute) }
	}
	a.mu.Unlock()
	var out string
	switch {
	case f != nil:
		out = f()
	case r.Execute == "guest-sync-delimited":
		out = fmt.Sprintf("\xff{\"return\": %d}\n", r.Arguments.ID)
	case r.Execute == "guest-ping":
		out = "{\"return\": {}}\n"
	case r.Execute == "guest-fsfreeze-status":
		out = "{\"return\": \"thawed\"}\n"
		if a.isFrozen() {
			out = "{\"return\": \"frozen\"}\n"
		}
	case r.Execute == "guest-fsfreeze-freeze":
		a.setFrozen(true)
		out = "{\"return\": 3}\n"
	case r.Execute == "guest-fsfreeze-thaw":
		a.setFrozen(false)
		out = "{\"return\": 3}\n"
	default:
		out = refusal("CommandNotFound", "The command "+r.Execute+" has not been found")
	}
	a.events <- r.Execute // first: whoever has the reply finds the event
	a.reply(out)
}

func (a *fakeAgent) reply(s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		io.WriteString(a.conn, s)
	}
}

func refusal(class, desc string) string {
	b, _ := json.Marshal(map[string]any{"error": map[string]string{"class": class, "desc": desc}})
	return string(b) + "\n"
}

func disabledFrozen(command string) string {
	return refusal("CommandNotFound", "Command "+command+" has been disabled: the agent is in frozen state")
}

// await returns when a command has been carried out.
func (a *fakeAgent) await(command string) {
	a.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-a.events:
			if e == command {
				return
			}
		case <-timeout:
			a.t.Fatalf("%s has not come", command)
		}
	}
}

// seen returns the commands carried out since it, or await, was last called.
func (a *fakeAgent) seen() (list []string) {
	for {
		select {
		case e := <-a.events:
			list = append(list, e)
		default:
			return list
		}
	}
}

// quick are timeouts for agents that never answer.
var quick = timeouts{
	command: 300 * time.Millisecond,
	slow:    time.Second,
	thawTry: 300 * time.Millisecond,
	thaw:    3 * time.Second,
	poll:    time.Millisecond,
}

// client connects to the agent.
func (a *fakeAgent) client(limits timeouts) *Client {
	a.t.Helper()
	s, err := DialSocket(a.t.Context(), a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { s.Close() })
	c := NewClient(s)
	c.limits = limits
	return c
}
