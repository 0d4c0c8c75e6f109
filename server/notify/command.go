package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// commandTime is how long a command may run.
	commandTime = time.Minute
	// pipeTime is how long its pipes stay open behind it, for processes that it
	// left.
	pipeTime = time.Second
	// maxOutput is how much of its output gets into the log, in bytes.
	maxOutput = 2048
)

// Command is a program that is run for every event.
type Command struct {
	path string
	time time.Duration
}

// NewCommand makes a hook of a program, given by its path.
func NewCommand(path string) (*Command, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("hook %q: %w", path, err)
	}
	info, err := os.Stat(abs)
	switch {
	case err != nil:
		return nil, fmt.Errorf("hook %q: %w", path, err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return nil, fmt.Errorf("hook %q: must be the path of a program, without arguments: no shell sees it", path)
	}
	return &Command{abs, commandTime}, nil
}

// ID is made of the path.
func (c *Command) ID() string { return hookID("command", c.path) }

// String is the path.
func (c *Command) String() string { return c.path }

// Deliver runs the program.
func (c *Command) Deliver(ctx context.Context, e Event, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.time)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path)
	cmd.Env = append(os.Environ(), environment(e)...)
	cmd.Stdin = bytes.NewReader(body)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = kill, pipeTime
	if err := cmd.Start(); err != nil {
		return away(err)
	}
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // it succeeded, and left others that hold its output
		_ = kill()
		err = nil
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("killed, as it ran for more than %v%s", c.time, out.text())
	}
	return fmt.Errorf("%w%s", err, out.text())
}

// environment gives the variables of an event.
func environment(e Event) []string {
	var j struct{ Name, Operation, State, ProtectedItem string }
	_ = json.Unmarshal(e.Job, &j) // a test has none
	return []string{
		"CAIRN_EVENT=" + e.Type, "CAIRN_EVENT_ID=" + e.ID, "CAIRN_JOB=" + j.Name,
		"CAIRN_OPERATION=" + strings.TrimPrefix(j.Operation, "JOB_OPERATION_"),
		"CAIRN_STATE=" + strings.TrimPrefix(j.State, "JOB_STATE_"), "CAIRN_ITEM=" + j.ProtectedItem,
	}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - maxOutput; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	if s := strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?")); s != "" {
		return ": " + s
	}
	return ""
}
