package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/client/source/nbd"
)

var noContexts = nbd.Options{}

// holder makes the test binary a process that holds a snapshot open and says
// which processes it has started; see TestKilled.
const holder = "CAIRN_TEST_HOLDER"

func init() {
	dir := os.Getenv(holder)
	if dir == "" {
		return
	}
	s, err := NewImages(dir)
	if err == nil {
		_, err = s.Snapshot(context.Background(), "a", SnapshotOptions{})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		os.Stdout.Write(b)
	}
	fmt.Println()
	select {}
}

// qcow2Dir is a directory with a machine a that needs QEMU.
func qcow2Dir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	raw := filepath.Join(dir, ".a")
	writeFile(t, raw, newRand(t), 4<<20, span{0, 4 << 20})
	qemuImg(t, "convert", "-O", "qcow2", raw, filepath.Join(dir, "a.qcow2"))
	return dir
}

// TestKilled: when this process is killed, what it started goes with it.
func TestKilled(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holder+"="+qcow2Dir(t), "TMPDIR="+tmp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, err2 := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || err2 != nil {
		t.Fatalf("holder said %q: %v", line, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("in the temporary directory while the snapshot is open: %v", left)
	}
	cmd.Process.Kill()
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, err = poll(fd)
	}
	if n != 1 {
		t.Errorf("qemu-nbd goes on: %v", err)
	}
}

// poll waits for the process that fd stands for to end.
func poll(fd int) (int, error) {
	return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
}

// TestCancelled: a cancelled context ends reads and the server, Close leaves
// nothing.
func TestCancelled(t *testing.T) {
	s := images(t, qcow2Dir(t))
	ctx, cancel := context.WithCancel(t.Context())
	snap, err := s.Snapshot(ctx, "a", SnapshotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := snap.Disks()[0]
	if len(children(t)) != 1 {
		t.Errorf("children %v", children(t))
	}
	if _, err := d.ReadAt(make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := d.ReadAt(make([]byte, 100), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	if err := d.Extents(t.Context(), func(Extent) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("extents: %v", err)
	}
	if err := errors.Join(snap.Close(), snap.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

// TestClosedWhileReading: reads in flight fail, and nobody waits for ever.
func TestClosedWhileReading(t *testing.T) {
	dir := qcow2Dir(t)
	writeFile(t, filepath.Join(dir, "b.raw"), newRand(t), 4<<20, span{0, 4 << 20})
	s := images(t, dir)
	for _, id := range []string{"a", "b"} {
		snap := snapshot(t, s, id)
		d := snap.Disks()[0]
		started, failed := make(chan struct{}), make(chan error, 4)
		for range cap(failed) {
			go func() {
				buf := make([]byte, 1<<20)
				for {
					_, err := d.ReadAt(buf, 1<<20)
					if err != nil {
						failed <- err
						return
					}
					select {
					case started <- struct{}{}:
					default:
					}
				}
			}()
		}
		<-started
		snap.Close()
		for range cap(failed) {
			<-failed
		}
		if left := children(t); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
	}
}

// TestServerDies: the reader hears of it.
func TestServerDies(t *testing.T) {
	s := images(t, qcow2Dir(t))
	snap := snapshot(t, s, "a")
	d := snap.Disks()[0].(*qemuDisk)
	d.export.server.kill()
	if _, err := d.ReadAt(make([]byte, 100), 0); err == nil || !strings.Contains(err.Error(), "a.qcow2") {
		t.Errorf("read: %v", err)
	}
}

// TestRunLimit: a program that hangs is ended, and the error says so.
func TestRunLimit(t *testing.T) {
	_, err := run(t.Context(), time.Millisecond, nil, "sleep", "1000")
	if err == nil || !strings.Contains(err.Error(), "sleep has not ended after 1ms") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := run(ctx, time.Minute, nil, "sleep", "1000"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	words, err := run(t.Context(), time.Minute, nil, "sh", "-c", "echo one >&2; echo two >&2; exit 3")
	if words != "one; two" || exitCode(err) != 3 {
		t.Errorf("words %q, error %v", words, err)
	}
	words, err = run(t.Context(), time.Minute, nil, "sh", "-c", "seq 1000 >&2")
	if words != "1; 2; …" || err != nil {
		t.Errorf("words %q, error %v", words, err)
	}
	words, err = run(t.Context(), time.Minute, nil, "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x >&2")
	if len(words) != maxWords || err != nil {
		t.Errorf("%d bytes of words, error %v", len(words), err)
	}
}
