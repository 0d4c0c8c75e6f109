// Package sandbox runs a private server and agent as processes of their own, in
// a temporary directory: what `cairn demo`, `cairn bench image` and end-to-end
// tests work on. Nothing is shared with a server that runs on the machine, and
// Close ends and removes everything.
//
// The processes are this very program, called with its hidden command for the
// server and its ordinary one for the agent, so that whoever has cairn has a
// sandbox. They are in process groups of their own: Ctrl-C reaches the caller
// alone, who then ends things in order. If the caller dies, they are told to end.
package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ServerCommand is the hidden command of cairn that runs a server with the
// flags of cairnd.
const ServerCommand = "sandbox-server"

const (
	readyFor = 30 * time.Second // a process must be ready
	endFor   = 20 * time.Second // a process must end
)

// Sandbox is a directory with processes that work in it.
type Sandbox struct {
	Dir    string // temporary; everything is in here
	Data   string // the server's data directory
	Images string // the agent's images
	Server string // address, for client.Dial and CAIRN_SERVER
	exe    string
	procs  []*process
}

type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // why, valid after done
	log  string        // file
}

// New makes a sandbox below parent ("" is the system's temporary directory),
// without processes yet.
func New(parent string) (*Sandbox, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "cairn-sandbox-")
	if err != nil {
		return nil, err
	}
	s := &Sandbox{Dir: dir, Data: filepath.Join(dir, "data"), Images: filepath.Join(dir, "images"), exe: exe,
		Server: "unix:" + filepath.Join(dir, "cairnd.sock")}
	if err := os.Mkdir(s.Images, 0o700); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// StartServer starts the server and waits until it serves.
func (s *Sandbox) StartServer(ctx context.Context) error {
	return s.start(ctx, "cairnd", "serving on", ServerCommand, "--data", s.Data, "--socket", strings.TrimPrefix(s.Server, "unix:"))
}

// StartAgent starts an agent for the images and waits until it is connected.
func (s *Sandbox) StartAgent(ctx context.Context, host string) error {
	return s.start(ctx, "agent", "is connected", "agent", "--host", host, "--images", s.Images)
}

// Mount mounts a point or an item at dir, as the process "mount", until End.
func (s *Sandbox) Mount(ctx context.Context, what, dir string) error {
	return s.start(ctx, "mount", "mounted at", "mount", what, dir)
}

// Cairn runs a command of this program against the server, and returns what it
// printed on standard output.
func (s *Sandbox) Cairn(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.exe, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = endFor
	cmd.Env = append(os.Environ(), "CAIRN_SERVER="+s.Server)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("cairn %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// start runs a long-lived process and waits for the line that says it is ready.
func (s *Sandbox) start(ctx context.Context, name, ready string, args ...string) error {
	p := &process{name: name, done: make(chan struct{}), log: filepath.Join(s.Dir, name+".log")}
	logFile, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer logFile.Close()
	p.cmd = exec.Command(s.exe, args...)
	p.cmd.Stderr = logFile
	p.cmd.Env = append(os.Environ(), "CAIRN_SERVER="+s.Server)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.procs = append(s.procs, p)
	readyc := make(chan struct{})
	go func() {
		told := false
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			if !told && strings.Contains(sc.Text(), ready) {
				told = true
				close(readyc)
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	limit := time.NewTimer(readyFor)
	defer limit.Stop()
	select {
	case <-readyc:
		return nil
	case <-p.done:
		log, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended: %w: %s", name, p.err, bytes.TrimSpace(log))
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit.C:
		return fmt.Errorf("%s did not become ready in %s; see %s", name, readyFor, p.log)
	}
}

// find gives the process with that name: "cairnd", "agent" or "mount".
func (s *Sandbox) find(name string) (*process, error) {
	for _, p := range s.procs {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no process %s", name)
}

// PeakMemory is the largest resident set so far, in bytes, of the process with
// that name.
func (s *Sandbox) PeakMemory(name string) (int64, error) {
	p, err := s.find(name)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("the kernel does not tell the memory of %s", name)
}

// ProcessorTime is what the process with that name has used so far, of the
// kernel's time as well. The kernel counts in hundredths of a second.
func (s *Sandbox) ProcessorTime(name string) (time.Duration, error) {
	p, err := s.find(name)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name in brackets may hold anything; times are the 14th and 15th fields.
	_, rest, _ := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil
}

// End ends one process.
func (s *Sandbox) End(name string) error {
	p, err := s.find(name)
	if err != nil {
		return err
	}
	s.procs = slices.DeleteFunc(s.procs, func(q *process) bool { return q == p })
	return p.end()
}

// Stop ends the processes, the last started first.
func (s *Sandbox) Stop() error {
	var errs []error
	for i := len(s.procs) - 1; i >= 0; i-- {
		errs = append(errs, s.procs[i].end())
	}
	s.procs = nil
	return errors.Join(errs...)
}

func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	limit := time.NewTimer(endFor)
	defer limit.Stop()
	select {
	case <-p.done:
		return nil
	case <-limit.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop and was killed", p.name)
	}
}

// Close ends the processes and removes the directory.
func (s *Sandbox) Close() error {
	return errors.Join(s.Stop(), os.RemoveAll(s.Dir))
}
