package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// demo is the whole way on one small image. Server, agent and every command
// run as processes of their own, as they would really.
type demo struct {
	out       io.Writer
	image     string // the user's image, or ""
	megabytes int64
	keep      bool

	exe    string // this program
	dir    string // everything is in here
	server string // address
	procs  []*process
	steps  int
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.exe, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if d.dir, err = os.MkdirTemp("", "cairn-demo-"); err != nil {
		return err
	}
	d.server = "unix:" + filepath.Join(d.dir, "cairnd.sock")
	start := time.Now()
	defer func() {
		if cerr := d.cleanUp(); err == nil {
			err = cerr
		}
		if err == nil {
			fmt.Fprintf(d.out, "\nDone in %s: the deleted file came back, byte for byte.\n", time.Since(start).Round(100*time.Millisecond))
		}
	}()
	err = d.story(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (d *demo) story(ctx context.Context) error {
	img, err := d.makeImage(ctx)
	if err != nil {
		return err
	}
	if err := d.startAll(ctx, filepath.Dir(img.path)); err != nil {
		return err
	}

	d.step("Make a vault and a policy, and protect the machine")
	for _, args := range [][]string{
		{"vault", "create", "demo"},
		{"policy", "create", "nightly", "--vault", "demo"},
		{"protect", "web1", "--vault", "demo", "--policy", "nightly"},
	} {
		if _, err := d.cairn(ctx, args...); err != nil {
			return err
		}
	}

	d.step("Back it up")
	first, err := d.backUp(ctx)
	if err != nil {
		return err
	}

	d.step("Delete a file inside the machine: %s (%s)", img.victim, size(int64(len(img.content))))
	if err := img.deleteVictim(ctx, d); err != nil {
		return err
	}

	d.step("Back it up again: only what changed is sent")
	second, err := d.backUp(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  The first backup sent %s for %s of data; the second %s, which is %.2f%% of that.\n",
		size(first.sent), size(first.data), size(second.sent), 100*float64(second.sent)/float64(max(1, first.sent)))
	if _, err := d.cairn(ctx, "point", "list", "web1"); err != nil {
		return err
	}

	d.step("Bring the file back from the first point")
	got, err := d.bringBack(ctx, img, first.point)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, img.content) {
		return fmt.Errorf("%s came back with other bytes than it had", img.victim)
	}
	fmt.Fprintf(d.out, "  %s is back: %s, identical to what was deleted.\n", img.victim, size(int64(len(got))))
	if _, err := d.cairnQuiet(ctx, "ls", "web1@"+second.point+":"+img.inTree); err == nil {
		return fmt.Errorf("%s is still in the second point", img.victim)
	}
	fmt.Fprintf(d.out, "  The second point does not have it, as it should be.\n")
	return nil
}

func (d *demo) step(format string, args ...any) {
	d.steps++
	fmt.Fprintf(d.out, "\n%d. %s\n", d.steps, fmt.Sprintf(format, args...))
}

// backup is what one backup did.
type backup struct {
	point      string // id
	data, sent int64
}

func (d *demo) backUp(ctx context.Context) (backup, error) {
	if _, err := d.cairn(ctx, "backup", "web1", "--wait"); err != nil {
		return backup{}, err
	}
	out, err := d.cairnQuiet(ctx, "job", "list", "--item", "web1", "-o", "json")
	if err != nil {
		return backup{}, err
	}
	var jobs []struct {
		RecoveryPoint string
		Operation     string
		Stats         struct {
			AllocatedBytes int64 `json:",string"`
			SentBytes      int64 `json:",string"`
		}
	}
	if err := json.Unmarshal(out, &jobs); err != nil {
		return backup{}, fmt.Errorf("read the list of jobs: %w", err)
	}
	for _, j := range jobs { // newest first
		if j.Operation == "JOB_OPERATION_BACKUP" {
			return backup{point: short(j.RecoveryPoint), data: j.Stats.AllocatedBytes, sent: j.Stats.SentBytes}, nil
		}
	}
	return backup{}, errors.New("the backup's job is not in the list of jobs")
}

// bringBack reads the deleted file through a mount, or without FUSE if the
// machine does not let us mount.
func (d *demo) bringBack(ctx context.Context, img *demoImage, point string) ([]byte, error) {
	mnt := filepath.Join(d.dir, "mnt")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		return nil, err
	}
	dest := filepath.Join(d.dir, "restored")
	_, err := d.cairn(ctx, "mount", "web1@"+point, mnt, "--background")
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		fmt.Fprintf(d.out, "  This machine does not let us mount through FUSE; cairn cp needs none.\n")
		if _, err := d.cairn(ctx, "cp", "web1@"+point+":"+img.inTree, dest); err != nil {
			return nil, err
		}
		return os.ReadFile(dest)
	}
	defer d.unmount(mnt)
	fmt.Fprintf(d.out, "  $ cp %s %s\n", filepath.Join(mnt, img.inTree), dest)
	start := time.Now()
	b, err := os.ReadFile(filepath.Join(mnt, img.inTree))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(dest, b, 0o600); err != nil {
		return nil, err
	}
	d.took(start)
	return b, nil
}

func (d *demo) unmount(mnt string) {
	fmt.Fprintf(d.out, "  $ umount %s\n", mnt)
	if unmountDir(mnt) != nil {
		return
	}
}

// unmountDir unmounts if dir is a mount point, and is nil also if it is none.
func unmountDir(dir string) error {
	if err := syscall.Unmount(dir, 0); err == nil || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	out, err := exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	return nil
}

// --- commands and processes ----------------------------------------------------

// cairn runs a command as a person would, and shows it and what it printed.
func (d *demo) cairn(ctx context.Context, args ...string) ([]byte, error) {
	fmt.Fprintf(d.out, "  $ cairn %s\n", strings.Join(args, " "))
	start := time.Now()
	out, err := d.cairnQuiet(ctx, args...)
	for line := range strings.Lines(string(out)) {
		fmt.Fprintf(d.out, "    %s", line)
	}
	d.took(start)
	return out, err
}

func (d *demo) took(start time.Time) {
	fmt.Fprintf(d.out, "    (%s)\n", time.Since(start).Round(time.Millisecond))
}

func (d *demo) cairnQuiet(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.exe, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "CAIRN_SERVER="+d.server)
	// A group of its own: Ctrl-C is for the demo, which ends things in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("cairn %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// process is a server or an agent.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error
	log  string
}

// start runs a long-lived process and waits for the line that says it is ready.
func (d *demo) start(ctx context.Context, name, shown, ready string, args ...string) error {
	fmt.Fprintf(d.out, "  $ %s &\n", shown)
	p := &process{name: name, done: make(chan struct{}), log: filepath.Join(d.dir, name+".log")}
	logFile, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer logFile.Close()
	p.cmd = exec.Command(d.exe, args...)
	p.cmd.Stderr = logFile
	p.cmd.Env = append(os.Environ(), "CAIRN_SERVER="+d.server)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	d.procs = append(d.procs, p)
	readyc := make(chan struct{})
	go func() {
		s := bufio.NewScanner(stdout)
		for told := false; s.Scan(); {
			if !told && strings.Contains(s.Text(), ready) {
				told = true
				close(readyc)
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	select {
	case <-readyc:
		return nil
	case <-p.done:
		log, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended: %w: %s", name, p.err, bytes.TrimSpace(log))
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s did not become ready in 30 s; see %s", name, p.log)
	}
}

func (d *demo) startAll(ctx context.Context, images string) error {
	d.step("Start a private server and an agent")
	data := filepath.Join(d.dir, "data")
	socket := strings.TrimPrefix(d.server, "unix:")
	err := d.start(ctx, "cairnd", fmt.Sprintf("cairnd --data %s --socket %s", data, socket), "serving on",
		"demo-server", "--data", data, "--socket", socket)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  $ export CAIRN_SERVER=%s\n", d.server)
	err = d.start(ctx, "agent", fmt.Sprintf("cairn agent --host demo --images %s", images), "is connected",
		"agent", "--host", "demo", "--images", images)
	if err != nil {
		return err
	}
	_, err = d.cairn(ctx, "machine", "list")
	return err
}

// cleanUp ends everything in order, and says what it could not remove.
func (d *demo) cleanUp() error {
	var errs []error
	if err := unmountDir(filepath.Join(d.dir, "mnt")); err != nil {
		errs = append(errs, err)
	}
	for i := len(d.procs) - 1; i >= 0; i-- { // the agent before the server
		p := d.procs[i]
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
		select {
		case <-p.done:
		case <-time.After(15 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
			errs = append(errs, fmt.Errorf("%s did not stop and was killed", p.name))
		}
	}
	if d.keep {
		fmt.Fprintf(d.out, "\nEverything is left in %s\n", d.dir)
		return errors.Join(errs...)
	}
	if len(errs) == 0 { // never remove through a mount that is still there
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
