package guesttest

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Spec says what machine a test wants. The zero value is an idle one without
// disks, with a guest agent.
type Spec struct {
	// Name is made unique by a prefix; empty is a number.
	Name   string
	Drives []Drive
	// Write names the disks on which the guest writes files, by their serial
	// numbers with commas between, or is "all".
	Write string
	// Pause is how long the writer rests between two files; 0 is 50 ms.
	Pause time.Duration
	Agent AgentMode
	Hook  Hook
	// Append is put behind the kernel's command line.
	Append string
	// Memory is in MiB; 0 is 256.
	Memory int

	// The rest is for domains of libvirt only.

	// NICs is the number of network cards, on QEMU's user network.
	NICs int
	// Firmware boots by UEFI (package ovmf), with a file of variables beside
	// the disks. It takes some seconds more.
	Firmware bool
	// TPM adds an emulated TPM (packages swtpm and swtpm-tools).
	TPM bool
}

// AgentMode says whether there is a guest agent.
type AgentMode int

const (
	AgentRuns    AgentMode = iota
	AgentOff               // the machine has the channel, but nobody answers
	AgentMissing           // the machine has no channel for it
)

// Hook says what the agent's freeze hook does.
type Hook string

const (
	NoHook    Hook = ""
	HookOK    Hook = "ok"
	HookFails Hook = "fail"
)

// commandLine is the kernel's. It does without what costs time under emulation:
// patching the kernel for one processor, defences against other guests, tests of
// ciphers. A guest that panics resets, and its machine is told to end then.
func (s Spec) commandLine() string {
	line := "console=ttyS0 quiet panic=-1 noreplace-smp mitigations=off cryptomgr.notests"
	if s.Write != "" {
		line += " cairn.write=" + s.Write
	}
	if s.Pause > 0 {
		line += fmt.Sprintf(" cairn.pause=%g", s.Pause.Seconds())
	}
	if s.Agent != AgentRuns {
		line += " cairn.agent=off"
	}
	if s.Hook != NoHook {
		line += " cairn.hook=" + string(s.Hook)
	}
	return strings.TrimSpace(line + " " + s.Append)
}

// shellLimit is how long a command in a guest may take.
const shellLimit = time.Minute

// Guest is what runs in a machine, whoever runs that. Its methods may be called
// by several goroutines.
type Guest struct {
	tb        testing.TB
	serialLog string
	// channel returns the path of the socket that leads to the guest's shell.
	channel func() (string, error)
	// ask has the guest agent execute one command (JSON), and returns its whole
	// answer.
	ask func(ctx context.Context, command string) (string, error)

	mu    sync.Mutex // one command at a time, guards the rest
	conn  net.Conn
	lines *bufio.Reader
	asked int
}

// Log returns all that the guest said on its serial console since it started.
func (g *Guest) Log() string {
	text, err := os.ReadFile(g.serialLog)
	if err != nil && !os.IsNotExist(err) {
		g.tb.Errorf("serial log: %v", err)
	}
	return strings.ReplaceAll(string(text), "\r", "")
}

// poll is how often what cannot be awaited is looked at.
const poll = 50 * time.Millisecond

// await calls done until it is true. When ctx or the test ends, the test fails.
func (g *Guest) await(ctx context.Context, what string, done func() bool) {
	g.tb.Helper()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.tb.Fatalf("waiting for %s: %v; the guest said:\n%s", what, ctx.Err(), tail(g.Log()))
		}
	}
}

func tail(text string) string {
	const most = 2 << 10
	return text[max(0, len(text)-most):]
}

// WaitLog waits until the guest has said text.
func (g *Guest) WaitLog(ctx context.Context, text string) {
	g.tb.Helper()
	g.await(ctx, strconv.Quote(text), func() bool { return strings.Contains(g.Log(), text) })
}

// WaitReady waits until the guest has booted: its disks are mounted, writers and
// shell run.
func (g *Guest) WaitReady(ctx context.Context) {
	g.tb.Helper()
	g.WaitLog(ctx, "cairn-guest: ready ")
}

// WaitAgent waits until the guest agent answers.
func (g *Guest) WaitAgent(ctx context.Context) {
	g.tb.Helper()
	g.await(ctx, "the guest agent", func() bool {
		_, err := g.ask(ctx, `{"execute":"guest-ping"}`)
		return err == nil
	})
}

// WaitSynced waits until the guest has told that file n of a disk is synced.
func (g *Guest) WaitSynced(ctx context.Context, disk string, n int) {
	g.tb.Helper()
	g.await(ctx, fmt.Sprintf("file %d on %s", n, disk), func() bool { return g.Synced(disk) >= n })
}

// Agent has the guest agent execute a command and returns the whole answer.
func (g *Guest) Agent(ctx context.Context, command string) (string, error) {
	return g.ask(ctx, command)
}

// Synced returns the number of the last file on a disk that the guest has told
// to be synced since it started, -1 if none.
func (g *Guest) Synced(disk string) int {
	last := -1
	said := regexp.MustCompile(`(?m)^cairn-guest: ` + regexp.QuoteMeta(disk) + ` synced (\d+)$`)
	for _, m := range said.FindAllStringSubmatch(g.Log(), -1) {
		last, _ = strconv.Atoi(m[1])
	}
	return last
}

// Shell runs a command in the guest, as root, and returns what it printed, on
// either stream, and its exit status. The command must not read its input, and
// what it leaves running must not keep its output open.
func (g *Guest) Shell(command string) (out string, code int) {
	g.tb.Helper()
	out, code, err := g.shell(g.tb.Context(), command)
	if err != nil {
		g.tb.Fatalf("run %q in the guest: %v; it said:\n%s", command, err, tail(g.Log()))
	}
	return out, code
}

// Must is Shell for a command that must succeed. It returns what that printed,
// without the white space around it.
func (g *Guest) Must(command string) string {
	g.tb.Helper()
	out, code := g.Shell(command)
	if code != 0 {
		g.tb.Fatalf("in the guest: %q ended with %d: %s", command, code, out)
	}
	return strings.TrimSpace(out)
}

func (g *Guest) shell(ctx context.Context, command string) (out string, code int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn == nil {
		path, err := g.channel()
		if err != nil {
			return "", 0, err
		}
		if g.conn, err = (&net.Dialer{}).DialContext(ctx, "unix", path); err != nil {
			g.conn = nil
			return "", 0, err
		}
		g.lines = bufio.NewReader(g.conn)
	}
	defer func() {
		if err != nil { // whatever is answered later is for nobody
			g.conn.Close()
			g.conn = nil
		}
	}()
	conn := g.conn
	conn.SetDeadline(time.Now().Add(shellLimit))
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()

	g.asked++
	id := fmt.Sprintf("%d.%d", os.Getpid(), g.asked)
	if _, err = fmt.Fprintf(conn, "%s %s\n", id, base64.StdEncoding.EncodeToString([]byte(command))); err != nil {
		return "", 0, err
	}
	for {
		line, err := g.lines.ReadString('\n')
		if err != nil {
			return "", 0, err
		}
		answer := strings.Split(strings.TrimRight(line, "\r\n"), " ")
		if len(answer) != 3 || answer[0] != id {
			continue // to a question whose asker is gone
		}
		if code, err = strconv.Atoi(answer[1]); err != nil {
			return "", 0, fmt.Errorf("answer %q: %w", line, err)
		}
		text, err := base64.StdEncoding.DecodeString(answer[2])
		return string(text), code, err
	}
}

// disconnect ends the connection to the guest's shell, if there is one.
func (g *Guest) disconnect() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		g.conn.Close()
		g.conn = nil
	}
}
