//go:build e2e

package e2e

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
	"sync"
	"syscall"
	"testing"
	"time"

	"cairn/mount/filesys/fstest"
)

// The programs under test, built once by TestMain.
var cairnExe, cairndExe string

// started is when the tests began.
var started = time.Now()

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests mount images by the kernel: run them as root, see .ci/e2e")
		return 1
	}
	// Debian keeps file-system tools out of an ordinary PATH.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	bin := os.Getenv("CAIRN_E2E_BIN")
	if bin == "" {
		dir, err := os.MkdirTemp("", "cairn-e2e-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		out, err := exec.Command("go", "build", "-o", dir+"/", "cairn/client/cmd/cairn", "cairn/server/cmd/cairnd").CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		bin = dir
	}
	cairnExe, cairndExe = filepath.Join(bin, "cairn"), filepath.Join(bin, "cairnd")
	return m.Run()
}

// world is a private directory with a server and an agent that work in it.
type world struct {
	testing.TB
	dir, data, images string
	address           string // of the server
	server, agent     *process
}

// newWorld makes a world in which nothing runs yet. It is all gone when the
// test ends.
func newWorld(t testing.TB) *world {
	t.Helper()
	// Not t.TempDir: a unix socket's path must be short.
	dir, err := os.MkdirTemp("", "cairn-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, dir: dir, data: dir + "/data", images: dir + "/images", address: "unix:" + dir + "/s"}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("leftover: %v", err)
		}
	})
	w.must(os.Mkdir(w.images, 0o700))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// proved prints what a scene has shown.
func proved(t testing.TB, format string, args ...any) {
	fmt.Printf("%4.0f s  %s: %s\n", time.Since(started).Seconds(), t.Name(), fmt.Sprintf(format, args...))
}

// startServer starts cairnd and waits until it serves.
func (w *world) startServer(flags ...string) {
	w.Helper()
	flags = append([]string{"--data", w.data, "--socket", strings.TrimPrefix(w.address, "unix:")}, flags...)
	w.server = w.start("cairnd", "serving on", cairndExe, flags...)
}

// startAgent starts the agent of host h1 and waits until it is connected.
func (w *world) startAgent() {
	w.Helper()
	w.agent = w.start("agent", "is connected", cairnExe, "agent", "--host", "h1", "--images", w.images)
}

// process is a long-lived process of a world.
type process struct {
	*exec.Cmd
	t     testing.TB
	name  string
	said  *log // standard output and error
	ended chan struct{}
	err   error // valid once ended is closed
}

// start runs a program and waits until its output has ready in it.
func (w *world) start(name, ready, exe string, args ...string) *process {
	w.Helper()
	p := &process{Cmd: exec.Command(exe, args...), t: w, name: name, said: newLog(), ended: make(chan struct{})}
	p.Stdout, p.Stderr = p.said, p.said
	p.Env = append(os.Environ(), "CAIRN_SERVER="+w.address)
	// If this test is killed, nothing stays behind.
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	w.must(p.Start())
	go func() {
		p.err = p.Wait()
		close(p.ended)
	}()
	w.Cleanup(func() {
		p.stop()
		if w.Failed() {
			w.Logf("what %s said:\n%s", name, p.said)
		}
	})
	if !p.said.wait(ready, p.ended, time.Minute) {
		w.Fatalf("%s did not become ready; it said:\n%s", name, p.said)
	}
	return p
}

// stop asks the process to end, and waits for it.
func (p *process) stop() {
	_ = p.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s did not end by SIGTERM", p.name)
		p.kill()
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// exited waits for the process to end by itself and gives its exit status.
func (p *process) exited(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("%s still runs after %v", p.name, within)
		return -1
	}
}

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
}

// try runs a cairn command, whatever comes of it.
func (w *world) try(args ...string) result { return w.tryExe(cairnExe, args...) }

// tryServer runs cairnd, which must end by itself.
func (w *world) tryServer(args ...string) result { return w.tryExe(cairndExe, args...) }

func (w *world) tryExe(exe string, args ...string) result {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), "CAIRN_SERVER="+w.address)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// cairn runs a command that must succeed, and gives what it printed.
func (w *world) cairn(args ...string) string {
	w.Helper()
	r := w.try(args...)
	if r.status != 0 {
		w.Fatalf("cairn %s: status %d: %s", strings.Join(args, " "), r.status, r.stderr)
	}
	return r.stdout
}

// json runs a command and reads its output as JSON into v.
func (w *world) json(v any, args ...string) {
	w.Helper()
	out := w.cairn(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		w.Fatalf("cairn %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// refused runs a command that must fail with status, and whose message must
// have all the words.
func (w *world) refused(status int, words []string, args ...string) {
	w.Helper()
	r := w.try(args...)
	line := "cairn " + strings.Join(args, " ")
	if r.status != status {
		w.Errorf("%s: status %d, want %d: %s%s", line, r.status, status, r.stdout, r.stderr)
		return
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			w.Errorf("%s: does not say %q: %s", line, word, r.stderr)
		}
	}
	for _, bad := range []string{"rpc error", "panic", "goroutine", "<nil>", "%!"} {
		if strings.Contains(r.stderr, bad) {
			w.Errorf("%s: speaks of %q to a person: %s", line, bad, r.stderr)
		}
	}
}

// tool runs another program, which must succeed.
func (w *world) tool(name string, args ...string) string {
	w.Helper()
	return fstest.Run(w, name, args...)
}

// copyFile copies with holes, and without copying where the file system can.
func (w *world) copyFile(from, to string) {
	w.Helper()
	w.tool("cp", "--sparse=auto", "--reflink=auto", from, to)
}

// log is output that can be waited for.
type log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{} // closed and replaced at every write
}

func newLog() *log { return &log{wrote: make(chan struct{})} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.wrote)
	l.wrote = make(chan struct{})
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wait returns true once the output has s, and false if that does not happen
// before ended is closed or the time is over.
func (l *log) wait(s string, ended <-chan struct{}, within time.Duration) bool {
	limit := time.After(within)
	for {
		l.mu.Lock()
		found, wrote := strings.Contains(l.text.String(), s), l.wrote
		l.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-wrote:
		case <-ended:
			return strings.Contains(l.String(), s)
		case <-limit:
			return false
		}
	}
}
