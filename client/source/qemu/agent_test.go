package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/client/source"
)

// agent plays the agent of a Linux guest behind a socket of QEMU's, for the
// machine of the test has no guest.
type agent struct {
	mu     sync.Mutex
	frozen bool
	log    []string
	thawed chan struct{} // gets a token with each thaw
	silent bool
}

// newAgent gives a machine an agent and lets it run.
func newAgent(t *testing.T, v *vm) *agent {
	t.Helper()
	v.agent = filepath.Join(v.dir, "agent")
	a := &agent{thawed: make(chan struct{}, 100)}
	l, err := net.Listen("unix", v.agent)
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
			a.talk(nc) // one at a time
			nc.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	v.do("cont", nil)
	return a
}

func (a *agent) talk(nc net.Conn) {
	for lines := bufio.NewScanner(nc); lines.Scan(); {
		var c struct {
			Execute   string
			Arguments struct{ ID json.Number }
		}
		if json.Unmarshal([]byte(strings.TrimLeftFunc(lines.Text(), func(r rune) bool { return r != '{' })), &c) != nil {
			continue
		}
		if answer := a.answer(c.Execute, c.Arguments.ID.String()); answer != "" {
			fmt.Fprintf(nc, "%s\n", answer)
		}
	}
}

func (a *agent) answer(command, id string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.silent {
		return ""
	}
	a.log = append(a.log, command)
	switch command {
	case "guest-sync-delimited":
		return "\xff" + `{"return": ` + id + `}`
	case "guest-ping":
		return `{"return": {}}`
	case "guest-info":
		return `{"return": {"version": "7.2.22", "supported_commands": []}}`
	case "guest-get-osinfo":
		return `{"return": {"id": "debian", "pretty-name": "Debian GNU/Linux 12 (bookworm)"}}`
	case "guest-fsfreeze-status":
		return fmt.Sprintf(`{"return": %q}`, map[bool]string{true: "frozen", false: "thawed"}[a.frozen])
	case "guest-fsfreeze-freeze":
		a.frozen = true
		return `{"return": 1}`
	case "guest-fsfreeze-thaw":
		a.frozen = false
		a.thawed <- struct{}{}
		return `{"return": 1}`
	}
	return `{"error": {"class": "CommandNotFound", "desc": "The command ` + command + ` has not been found"}}`
}

func (a *agent) isFrozen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen
}

// A machine with an agent is known by it, and frozen for the transaction only.
func TestAgent(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	a := newAgent(t, v)
	b := newSource(t, v)
	m := b.machines()["web"]
	if m.State != source.StateRunning || m.Agent != source.AgentConnected || !strings.Contains(m.GuestOS, "Debian") {
		t.Errorf("%+v", m)
	}
	frozenAt := map[string]bool{}
	b.reached = func(phase string) { frozenAt[phase] = a.isFrozen() }
	snap := b.take(v, source.SnapshotOptions{Minimum: source.FileSystemConsistent})
	if got := fmt.Sprint(frozenAt); got != "map[prepared:false server:false session:false take:true taken:false]" {
		t.Errorf("frozen: %s", got)
	}
	info := snap.Info()
	if info.Consistency != source.FileSystemConsistent || info.FrozenFor <= 0 || len(info.Warnings) != 0 || info.Machine.Agent != source.AgentConnected {
		t.Errorf("%+v", info)
	}
	b.machines() // does not disturb
	b.clean(v, b.keep(snap), 1)
}

// The process dies while the guest is frozen, without a guard.
func TestKilledWhileFrozen(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	a := newAgent(t, v)
	b := newSource(t, v)
	crash(t, b, "", "take")
	if !a.isFrozen() {
		t.Fatal("the guest is not frozen: the test is of no use")
	}
	if err := b.CleanUp(t.Context(), func(context.Context, string, string) (bool, error) { return false, nil }); err != nil {
		t.Error(err)
	}
	if a.isFrozen() {
		t.Error("the guest is still frozen")
	}
	b.clean(v, "", 0)
}

// With a guard nobody has to come and clean up.
func TestGuard(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	a := newAgent(t, v)
	b := newSource(t, v)
	crashGuarded(t, b, "", "take", "guard")
	select {
	case <-a.thawed:
	case <-time.After(30 * time.Second):
		t.Error("nobody has thawed the guest")
	}
	if err := b.CleanUp(t.Context(), func(context.Context, string, string) (bool, error) { return false, nil }); err != nil {
		t.Error(err)
	}
	b.clean(v, "", 0)
	b.o.Guard = true
	snap := b.take(v, source.SnapshotOptions{Minimum: source.FileSystemConsistent})
	b.clean(v, b.keep(snap), 1)
}
