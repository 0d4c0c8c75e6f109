package notify

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func script(t *testing.T, text string) *Command {
	t.Helper()
	c, err := NewCommand(writeFile(t, "#!/bin/sh\n"+text+"\n", 0o700))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fifo makes a named pipe, from which a test reads when a script has written.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandGetsEvent(t *testing.T) {
	w := newWorld(t)
	out := fifo(t)
	c := script(t, `{ echo "$CAIRN_EVENT|$CAIRN_EVENT_ID|$CAIRN_JOB|$CAIRN_OPERATION|$CAIRN_STATE|$CAIRN_ITEM"; cat; } > `+out)
	n := w.open(Options{}, c)
	w.job(n, "j1", inProgress, failed)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	line, body, _ := strings.Cut(string(b), "\n")
	if line != "job.ended|u-j1-2|subscriptions/s/vaults/v/jobs/j1|BACKUP|FAILED|subscriptions/s/vaults/v/protectedItems/i" {
		t.Errorf("environment %s", line)
	}
	var e Event
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.ID != "u-j1-2" || e.Version != 1 {
		t.Errorf("input %s, %v", body, err)
	}
}

func TestCommandThatFails(t *testing.T) {
	err := script(t, `echo "it says why" >&2; exit 3`).Deliver(t.Context(), Event{}, nil)
	if err == nil || errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "exit status 3: it says why") {
		t.Errorf("%v", err)
	}
	gone := script(t, "")
	os.Remove(gone.path)
	if err := gone.Deliver(t.Context(), Event{}, nil); !errors.Is(err, ErrAway) {
		t.Errorf("a command that is gone: %v", err)
	}
	// It neither reads its input nor waits for its children.
	if err := script(t, "sleep 1000 & exit 0").Deliver(t.Context(), Event{}, make([]byte, 1<<20)); err != nil {
		t.Errorf("%v", err)
	}
	for _, path := range []string{"", t.TempDir(), "/does/not/exist", writeFile(t, "", 0o600)} {
		if _, err := NewCommand(path); err == nil {
			t.Errorf("no error for %q", path)
		}
	}
}

// A command that does not end is killed, with all that it started.
func TestCommandIsKilledWithItsChildren(t *testing.T) {
	for _, how := range []string{"time", "stop"} {
		pids := fifo(t)
		c := script(t, "sleep 1000 & echo $$ $! > "+pids+"; wait")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if how == "time" {
			c.time = 200 * time.Millisecond
		}
		done := make(chan error, 1)
		go func() { done <- c.Deliver(ctx, Event{}, nil) }()
		b, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		if how == "stop" {
			cancel()
		}
		if err := <-done; err == nil || how == "time" && !strings.Contains(err.Error(), "more than 200ms") {
			t.Errorf("%s: %v", how, err)
		}
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			if !ended(pid) {
				t.Errorf("%s: process %d runs on", how, pid)
			}
		}
	}
}

// ended waits until a process that was killed is gone, or only waits for its
// parent.
func ended(pid int) bool {
	for range 2000 {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return true
		}
		if _, rest, _ := strings.Cut(string(b), ") "); strings.HasPrefix(rest, "Z") {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}
