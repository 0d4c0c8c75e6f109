package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is an external program that never outlives this process.
//
// The kernel kills it when the thread that started it ends (Pdeathsig), so that
// thread is kept for as long as the child runs.
type child struct {
	cmd    *exec.Cmd
	stderr head
	done   chan struct{} // closed when the child has been reaped
	err    error         // how it ended; valid after done
}

// start runs a program of package qemu-utils. When ctx is done, it is killed.
func start(ctx context.Context, stdout io.Writer, name string, args ...string) (*child, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, name, args...), done: make(chan struct{})}
	c.cmd.Env = append(c.cmd.Environ(), "LC_ALL=C")
	c.cmd.Stdout, c.cmd.Stderr = stdout, &c.stderr
	// A process group of its own: an interrupt from the terminal is for this
	// process, which ends its children in good order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	c.cmd.WaitDelay = time.Second
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		close(c.done)
	}()
	if err := <-started; errors.Is(err, exec.ErrNotFound) {
		return nil, &problem{ErrToolMissing, fmt.Sprintf("%s is not installed: install the package qemu-utils", name)}
	} else if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// kill ends the child and returns when nothing is left of it.
func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.done
}

// words are what the child had to say, on one line.
func (c *child) words() string { return c.stderr.line() }

// run runs a program to its end, for no longer than limit. Its exit status, if
// not 0, is an *exec.ExitError, and words what it wrote on standard error.
func run(ctx context.Context, limit time.Duration, stdout io.Writer, name string, args ...string) (words string, err error) {
	timed, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s has not ended after %s", name, limit))
	defer cancel()
	c, err := start(timed, stdout, name, args...)
	if err != nil {
		return "", err
	}
	<-c.done
	if c.err != nil && timed.Err() != nil {
		return c.words(), context.Cause(timed)
	}
	return c.words(), c.err
}

// exitCode returns the exit status that an error of run holds, or -1.
func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// maxWords is how much of a program's messages is kept, and maxLines how much
// of that is told: the first ones say what is wrong. (qemu-img check has a line
// for every cluster of a truncated image.)
const (
	maxWords = 1 << 10
	maxLines = 2
)

// head is a writer that keeps the beginning of what is written to it.
type head struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b.Write(p[:min(len(p), maxWords-h.b.Len())])
	return len(p), nil
}

func (h *head) line() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := strings.FieldsFunc(strings.ToValidUTF8(h.b.String(), "?"), func(r rune) bool { return r == '\n' })
	if len(lines) > maxLines {
		lines = append(lines[:maxLines], "…")
	}
	return strings.Join(lines, "; ")
}
