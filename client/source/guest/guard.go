package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// GuardCommand is the first argument with which this program is started again as
// a guard: main dispatches to GuardMain before it looks at anything else.
const GuardCommand = "guest-thaw-guard"

// What guards and those they watch tell each other, each on a pipe of its own.
const (
	guardReady = "ready\n" // the guard's standard output: it watches
	guardDone  = "done\n"  // the guard's standard input: the guest is thawed
)

// Exit statuses of a guard.
const (
	guardIdle   = 0 // it was told that all is done
	guardFailed = 1 // the guest could not be reached
	guardUsage  = 2
	guardThawed = 3 // it thawed the guest
)

// GuardOptions describes a guard.
type GuardOptions struct {
	// Args describe how to reach the guest: they are what GuardMain's open
	// gets in the guard's process. Other users of the host can read them.
	Args []string
	// Limit is the time after which the guard thaws the guest in any case.
	Limit time.Duration
	// Patience is how long the guard tries to thaw; 0 means two minutes: a guest
	// that is slow to freeze must not be given up before it has frozen.
	Patience time.Duration
}

// Guard is a process that outlives us and thaws a guest when we die.
// A nil *Guard does nothing.
type Guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// StartGuard starts a guard and returns when it watches.
func StartGuard(ctx context.Context, o GuardOptions) (*Guard, error) {
	if o.Patience <= 0 {
		o.Patience = 2 * time.Minute
	}
	args := append([]string{GuardCommand, o.Limit.String(), o.Patience.String()}, o.Args...)
	// The program as it runs, even if its file has been replaced since.
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stderr = os.Stderr
	// A session of its own: signals to our terminal or process group are not
	// meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start thaw guard: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start thaw guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start thaw guard: %w", err)
	}
	g := &Guard{cmd: cmd, pipe: pipe}
	timed, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("it is not ready after 10s"))
	defer cancel()
	stop := context.AfterFunc(timed, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if !stop() {
		err = context.Cause(timed)
	} else if err == nil && line != guardReady {
		err = fmt.Errorf("it said %q (does the program dispatch %s?)", line, GuardCommand)
	}
	if err != nil {
		cmd.Process.Kill()
		g.wait()
		return nil, fmt.Errorf("start thaw guard: %w", err)
	}
	return g, nil
}

// Done tells the guard that the guest is thawed and waits until it has ended. It
// tells whether the guard had thawed the guest before.
func (g *Guard) Done() (fired bool) {
	if g == nil {
		return false
	}
	io.WriteString(g.pipe, guardDone) // fails when it has ended
	g.pipe.Close()
	// It has nothing left to do but to end, or is in the middle of a thaw that
	// is not needed any more.
	kill := time.AfterFunc(5*time.Second, func() { g.cmd.Process.Kill() })
	defer kill.Stop()
	return g.wait() == guardThawed
}

// Abandon leaves the guest to the guard, as our death would. The guard is
// reaped when it ends.
func (g *Guard) Abandon() {
	if g == nil {
		return
	}
	g.pipe.Close()
	go g.wait()
}

func (g *Guard) wait() int {
	g.cmd.Wait()
	g.pipe.Close()
	return g.cmd.ProcessState.ExitCode()
}

// GuardMain is a guard's whole life; the program exits with what it returns.
// args are the command line after GuardCommand. open connects to the guest that
// GuardOptions.Args describe; it is called anew for each attempt, and the
// function that it returns closes the transport.
func GuardMain(args []string, open func(ctx context.Context, args []string) (t Transport, closeTransport func(), err error)) int {
	usage := func() int {
		fmt.Fprintf(os.Stderr, "%s is started by this program itself, to look after a frozen guest\n", GuardCommand)
		return guardUsage
	}
	if len(args) < 2 {
		return usage()
	}
	limit, err1 := time.ParseDuration(args[0])
	patience, err2 := time.ParseDuration(args[1])
	if err1 != nil || err2 != nil {
		return usage()
	}
	// Whoever ends everything politely does not mean the last one who can thaw;
	// a closed standard error must not end it either.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)

	word := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(os.Stdin)
		word <- string(b)
	}()
	timer := time.NewTimer(limit)
	if _, err := io.WriteString(os.Stdout, guardReady); err != nil {
		return guardFailed
	}
	why := fmt.Sprintf("the guest was frozen for more than %s", limit)
	select {
	case w := <-word:
		if w == guardDone {
			return guardIdle
		}
		why = "the process that froze the guest has ended"
	case <-timer.C:
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := rescue(ctx, args[2:], open); err != nil {
		fmt.Fprintf(os.Stderr, "thaw guard: %s, and it cannot be thawed: %v\n", why, err)
		return guardFailed
	}
	fmt.Fprintf(os.Stderr, "thaw guard: %s; it has been thawed\n", why)
	return guardThawed
}

// rescue thaws the guest, with a new transport after each failure.
func rescue(ctx context.Context, args []string, open func(context.Context, []string) (Transport, func(), error)) error {
	for {
		timed, cancel := context.WithTimeout(ctx, defaultTimeouts.thawTry)
		t, closeTransport, err := open(timed, args)
		if err == nil {
			err = NewClient(t).thawUntil(timed)
			closeTransport()
		}
		cancel()
		if err == nil || !errors.Is(err, ErrThawFailed) && errors.As(err, new(*CommandError)) {
			return nil // thawed, if not without complaint
		}
		if errors.Is(err, ErrGone) {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
