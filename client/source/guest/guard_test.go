package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// victimCommand makes the test binary freeze the agent of a socket, say so, and
// wait for its death.
const victimCommand = "freeze-and-wait"

func victim(path string) int {
	s, err := DialSocket(context.Background(), path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = NewClient(s).Freeze(context.Background(), FreezeOptions{Limit: time.Hour, Guard: &GuardOptions{Args: []string{path}}})
	fmt.Println("frozen", err)
	select {}
}

// startVictim starts a process that freezes the agent, and returns what it says.
// gone waits until nothing is left of it and its guard.
func startVictim(t *testing.T, path string) (kill func(), says *bufio.Reader, gone func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", victimCommand, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// The guard inherits this pipe: its end is the end of both.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	kill = func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with its process group
		cmd.Wait()
	}
	gone = func() {
		t.Helper()
		defer r.Close()
		r.SetReadDeadline(time.Now().Add(patience))
		words, err := io.ReadAll(r)
		if err != nil {
			t.Errorf("the guard is still there: %v", err)
		}
		t.Logf("%s", words)
	}
	return kill, bufio.NewReader(out), gone
}

// A process that is killed while it holds a freeze leaves no frozen guest, and
// no guard.
func TestKilledProcessLeavesNoFreeze(t *testing.T) {
	a := newFakeAgent(t)
	kill, says, gone := startVictim(t, a.path)
	line, _ := says.ReadString('\n')
	if line != "frozen <nil>\n" || !a.isFrozen() {
		t.Errorf("the victim said %q", line)
	}
	a.seen()
	kill()
	a.await("guest-fsfreeze-thaw")
	if a.isFrozen() {
		t.Error("still frozen")
	}
	gone()
}

// Nor does one that is killed while the guest is busy freezing.
func TestKilledBeforeTheFreezeIsDone(t *testing.T) {
	a := newFakeAgent(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	a.set("guest-fsfreeze-freeze", func() string {
		close(asked)
		<-goOn
		a.setFrozen(true)
		return "{\"return\": 3}\n"
	})
	kill, _, gone := startVictim(t, a.path)
	<-asked
	kill()
	close(goOn)
	a.await("guest-fsfreeze-thaw")
	if a.isFrozen() {
		t.Error("still frozen")
	}
	gone()
}

func startGuard(t *testing.T, o GuardOptions) *Guard {
	t.Helper()
	g, err := StartGuard(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGuardThatIsNotNeeded(t *testing.T) {
	a := newFakeAgent(t)
	g := startGuard(t, GuardOptions{Args: []string{a.path}, Limit: time.Hour})
	if g.Done() {
		t.Error("it acted")
	}
	if code := g.cmd.ProcessState.ExitCode(); code != guardIdle {
		t.Errorf("it ended with %d", code)
	}
	if seen := a.seen(); len(seen) > 0 {
		t.Errorf("it asked %q", seen)
	}
}

func TestGuardLimit(t *testing.T) {
	a := newFakeAgent(t)
	a.setFrozen(true)
	g := startGuard(t, GuardOptions{Args: []string{a.path}, Limit: time.Millisecond})
	a.await("guest-fsfreeze-thaw")
	if !g.Done() || a.isFrozen() {
		t.Error("it did not act")
	}
}

// A guard is not ended by those who end everything, and tries until it
// succeeds.
func TestGuardPersists(t *testing.T) {
	a := newFakeAgent(t)
	a.setFrozen(true)
	refused := 0
	a.set("guest-fsfreeze-thaw", func() string {
		if refused++; refused <= 2 {
			a.disconnect()
			return ""
		}
		a.setFrozen(false)
		return refusal("GenericError", "fsfreeze hook has failed with status 1")
	})
	g := startGuard(t, GuardOptions{Args: []string{a.path}, Limit: time.Hour})
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		g.cmd.Process.Signal(s)
	}
	g.pipe.Close()
	if code := g.wait(); code != guardThawed || a.isFrozen() {
		t.Errorf("it ended with %d", code)
	}
}

func TestGuardGivesUp(t *testing.T) {
	g := startGuard(t, GuardOptions{Args: []string{t.TempDir() + "/none"}, Limit: time.Hour, Patience: 50 * time.Millisecond})
	g.pipe.Close()
	if code := g.wait(); code != guardFailed {
		t.Errorf("it ended with %d", code)
	}
}

// Without a guard that watches there is no freeze.
func TestFreezeNeedsItsGuard(t *testing.T) {
	a := newFakeAgent(t)
	c := a.client(defaultTimeouts)
	_, err := c.Freeze(t.Context(), FreezeOptions{Guard: &GuardOptions{Args: []string{"not\x00an argument"}}})
	if !errors.Is(err, ErrFreezeFailed) {
		t.Errorf("got %v", err)
	}
	if slices.Contains(a.seen(), "guest-fsfreeze-freeze") {
		t.Error("frozen")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := StartGuard(ctx, GuardOptions{Limit: time.Hour}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestFreezeWithGuard(t *testing.T) {
	a := newFakeAgent(t)
	c := a.client(defaultTimeouts)
	f := freeze(t, c, FreezeOptions{Guard: &GuardOptions{Args: []string{a.path}}})
	if _, err := f.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.guard.cmd.ProcessState.ExitCode() != guardIdle {
		t.Errorf("guard: %s", f.guard.cmd.ProcessState)
	}
}

// What we cannot thaw is left to the guard.
func TestGuardGoesOnWhereWeGiveUp(t *testing.T) {
	a := newFakeAgent(t)
	limits := quick
	limits.thaw, limits.thawTry = 100*time.Millisecond, 30*time.Millisecond
	s, err := DialSocket(t.Context(), a.path)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(s)
	c.limits = limits
	f := freeze(t, c, FreezeOptions{Guard: &GuardOptions{Args: []string{a.path}}})
	a.set("guest-fsfreeze-thaw", func() string { return "" })
	if _, err := f.Thaw(t.Context()); !errors.Is(err, ErrThawFailed) {
		t.Fatalf("got %v", err)
	}
	s.Close()
	a.seen()
	a.set("guest-fsfreeze-thaw", nil)
	a.await("guest-fsfreeze-thaw")
	if a.isFrozen() {
		t.Error("still frozen")
	}
}

func TestGuardMainRefusesOthers(t *testing.T) {
	for _, args := range [][]string{nil, {"x", "y"}, {"1s"}} {
		if code := GuardMain(args, nil); code != guardUsage {
			t.Errorf("%q: status %d", args, code)
		}
	}
}
