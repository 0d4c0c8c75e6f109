package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"cairn/blockstore"
	"cairn/server/job"
)

// A server in a process of its own, for tests that kill it: the test's binary,
// which runs as a server when it finds killedServerEnv. It listens at a unix
// socket, and is told by its standard input, a line at a time, what time it is and
// when to do what is due; it answers each line with one.
//
//	open T      opens the data directory at the time T, in nanoseconds → "done"
//	time T      sets the clock                                          → "done"
//	tend        does all that is due                                    → "done"
//
// It ends when its input does.
const killedServerEnv = "CAIRN_TEST_SERVER_DIR"

const (
	killedLease = 10 * time.Minute // of virtual time, as all that follow
	killedKeep  = 10 * 365 * 24 * time.Hour
)

func killedSocket(dir string) string { return dir + ".s" }

func killedServer(dir string, in io.Reader, out io.Writer) error {
	clock := newClock(time.Unix(0, 0))
	res := blockstore.NewResources(blockstore.ResourceOptions{})
	var s *Server
	for lines := bufio.NewScanner(in); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		if arg != "" {
			ns, err := strconv.ParseInt(arg, 10, 64)
			if err != nil {
				return err
			}
			clock.Set(time.Unix(0, ns))
		}
		switch word {
		case "open":
			var err error
			s, err = Open(Options{
				Dir: dir, Now: clock.Now, Unattended: true, Resources: res,
				Jobs:   job.Options{Lease: killedLease, Grace: killedLease, Keep: killedKeep},
				Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
			})
			if err != nil {
				return err
			}
			if err := os.Remove(killedSocket(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			lis, err := net.Listen("unix", killedSocket(dir))
			if err != nil {
				return err
			}
			g, _ := s.NewGRPC()
			go g.Serve(lis)
		case "tend":
			s.Tend(context.Background())
		}
		if _, err := fmt.Fprintln(out, "done"); err != nil {
			return err
		}
	}
	return nil
}

// process is the parent's end of it.
type process struct {
	cmd *exec.Cmd
	log *lockedBuffer
	in  io.WriteCloser
	out *bufio.Reader

	mu sync.Mutex // held while a line waits for its answer
}

// startProcess starts a server that has not opened its directory yet.
func startProcess(dir string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(exe), log: new(lockedBuffer)}
	p.cmd.Env = append(os.Environ(), killedServerEnv+"="+dir)
	p.cmd.Stderr = p.log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// tell sends a line and waits for the answer: nil, or that the process is dead.
func (p *process) tell(word string, at ...time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range at {
		word += " " + strconv.FormatInt(t.UnixNano(), 10)
	}
	if _, err := fmt.Fprintln(p.in, word); err != nil {
		return err
	}
	answer, err := p.out.ReadString('\n')
	if err == nil && answer != "done\n" {
		err = fmt.Errorf("%q answered with %q", word, answer)
	}
	return err
}

// kill kills the process with a signal that it cannot notice, and tells what it
// logged. An error means that it died before of itself.
func (p *process) kill() (log string, err error) {
	err = p.cmd.Process.Kill()
	p.mu.Lock() // what reads its answers has seen the end
	defer p.mu.Unlock()
	wait := p.cmd.Wait()
	if err == nil && p.cmd.ProcessState.Exited() {
		err = fmt.Errorf("it had ended already: %v", wait)
	}
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.log.b.String(), err
}
