//go:build e2e

package libvirt

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

// childEnv has a process of this test begin a snapshot and die in a phase of it:
// state directory, machine, phase, since.
const childEnv = "CAIRN_TEST_CHILD"

// TestE2EChild is that process.
func TestE2EChild(t *testing.T) {
	args := strings.Split(os.Getenv(childEnv), "|")
	if len(args) != 4 {
		return // nobody's child
	}
	s, err := New(Options{State: args[0], Reserve: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.reached = func(phase string) {
		if phase == args[2] {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	snap, err := s.Snapshot(t.Context(), args[1], source.SnapshotOptions{Since: args[3]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.Disks()[0].ReadAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	s.reached("read")
	if err := snap.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Fatal("still alive", snap.Close())
}

// killed runs a child that dies in a phase.
func (l *lab) killed(phase, since string) {
	l.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestE2EChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{l.state, l.id, phase, since}, "|"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		l.Fatalf("child in phase %s: %v\n%s", phase, err, out)
	}
}

func TestE2EKilled(t *testing.T) {
	l := newLab(t, 16*mib, "qcow2", "raw")
	l.start()
	have := map[string][]byte{}
	l.write("sda", 1, 0, 100_000)
	l.write("sdb", 1, 0, 100_000)
	snap := l.snapshot(source.SnapshotOptions{})
	l.apply(snap, have)
	since := l.keep(snap)
	never := func(context.Context, string, string) (bool, error) {
		t.Error("asked for what is decided")
		return false, nil
	}
	for i, phase := range []string{"session", "frozen", "begun", "thawed", "open", "read"} {
		t.Log(phase)
		l.write("sda", byte(i+2), int64(i)*mib, 100_000)
		l.killed(phase, since)
		if err := l.src.CleanUp(t.Context(), func(context.Context, string, string) (bool, error) {
			return false, errors.New("server is away")
		}); err == nil || !strings.Contains(err.Error(), "server is away") {
			t.Errorf("error %v", err)
		}
		l.write("sda", byte(i+2), int64(i)*mib+4096, 100_000)
		asked := ""
		err := l.src.CleanUp(t.Context(), func(_ context.Context, machine, checkpoint string) (bool, error) {
			asked = machine + " " + checkpoint
			return false, nil
		})
		if err != nil || !strings.HasPrefix(asked, l.id+" cairn-") {
			t.Errorf("asked for %q, error %v", asked, err)
		}
		l.clean(since)
		snap := l.snapshot(source.SnapshotOptions{Since: since, Continues: true})
		l.expect(snap, "if", "")
		l.apply(snap, have)
		since = l.keep(snap)
	}
	t.Log("committed")
	l.killed("read", since)
	err := l.src.CleanUp(t.Context(), func(_ context.Context, _, checkpoint string) (bool, error) {
		since = checkpoint
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
	l.clean(since)
	for _, phase := range []string{"kept", "closing"} {
		t.Log(phase)
		old := since
		l.killed(phase, since)
		if err := l.src.CleanUp(t.Context(), never); err != nil {
			t.Error(err)
		}
		if got := l.checkpoints(); len(got) != 1 || got[0] == old {
			t.Errorf("checkpoints %v, the old one is %s", got, old)
		}
		since = l.checkpoints()[0]
		l.clean(since)
	}
	l.write("sda", 77, 3*mib, 100_000)
	snap = l.snapshot(source.SnapshotOptions{Since: since, Continues: true})
	l.expect(snap, "if", "")
	l.apply(snap, have)
	l.keep(snap)

	t.Log("the VM is off when it is cleaned up")
	l.killed("open", "")
	l.destroy()
	if err := l.src.CleanUp(t.Context(), func(context.Context, string, string) (bool, error) { return false, nil }); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(l.state, "libvirt", "s*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	l.start()
	snap = l.snapshot(source.SnapshotOptions{})
	l.clean2(snap)
}

// clean2 keeps a snapshot and makes sure that its checkpoint alone is there.
func (l *lab) clean2(snap source.Snapshot) {
	l.Helper()
	l.clean(l.keep(snap))
}

func TestE2EManyDisks(t *testing.T) {
	kinds := slices.Repeat([]string{"qcow2"}, 33)
	kinds[7] = "raw"
	l := newLab(t, 4*mib, kinds...)
	l.start()
	for i := range kinds {
		l.write(targetOf(i), byte(i+1), int64(i)*65536, 4096)
	}
	have := map[string][]byte{}
	begun, frozen := time.Now(), time.Time{}
	l.src.reached = func(phase string) {
		switch phase {
		case "frozen":
			frozen = time.Now()
		case "begun":
			t.Logf("a guest would have been frozen for %v", time.Since(frozen))
		}
	}
	snap := l.snapshot(source.SnapshotOptions{})
	t.Logf("snapshot of 33 disks after %v", time.Since(begun))
	l.apply(snap, have)
	since := l.keep(snap)
	l.write("sdag", 99, mib, 4096)
	snap = l.snapshot(source.SnapshotOptions{Since: since, Continues: true})
	l.expect(snap, "iiiiiiif"+strings.Repeat("i", 25), "")
	l.apply(snap, have)
	l.clean2(snap)
}

func TestE2EScratchFull(t *testing.T) {
	l := newLab(t, 64*mib, "qcow2")
	scratch := filepath.Join(l.dir, "scratch")
	if err := os.Mkdir(scratch, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", scratch, "tmpfs", 0, "size=32m,mode=711"); err != nil {
		t.Fatalf("mount: %v (run as root)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(scratch, 0); err != nil {
			t.Error(err)
		}
	})
	l.start()
	l.write("sda", 1, 0, 40*mib)
	l.src = l.source(Options{Scratch: scratch, Reserve: 64 * mib})
	if _, err := l.src.Snapshot(t.Context(), l.id, source.SnapshotOptions{}); !errors.Is(err, source.ErrSnapshotSpace) {
		t.Errorf("error %v", err)
	}
	l.clean()
	l.src = l.source(Options{Scratch: scratch, Reserve: 20 * mib})
	snap := l.snapshot(source.SnapshotOptions{})
	for at := int64(0); at < 40; at++ {
		l.write("sda", 2, at*mib, mib)
	}
	var err error
	for range 200 {
		if _, err = snap.Disks()[0].ReadAt(make([]byte, 4096), 0); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, source.ErrSnapshotSpace) {
		t.Errorf("error %v", err)
	}
	if err := snap.Check(t.Context()); !errors.Is(err, source.ErrSnapshotSpace) {
		t.Errorf("check: %v", err)
	}
	if state, reason, err := l.conn.DomainState(t.Context(), l.dom); err != nil || state != rpc.StateRunning {
		t.Errorf("state %v (%d), %v", state, reason, err)
	}
	l.end(snap)
	l.clean()
	if left, _ := os.ReadDir(scratch); len(left) > 0 {
		t.Errorf("left in the scratch directory: %v", left)
	}

	t.Log("what the reserve is for: with none, the guest's write fails")
	l.src = l.source(Options{Scratch: scratch, Reserve: 1})
	snap = l.snapshot(source.SnapshotOptions{})
	snap.(*snapshot).unwatch()
	for at := int64(0); at < 40; at++ {
		l.write("sda", 3, at*mib, mib) // QEMU's own log tells of the failure
	}
	log, err := os.ReadFile("/var/log/libvirt/qemu/" + l.dom.Name + ".log")
	if err != nil || !strings.Contains(string(log), "write failed: No space left on device") {
		t.Errorf("log %s, %v", log, err)
	}
	for target := range l.want { // the snapshot is as it was
		for at := range l.want[target] {
			if l.want[target][at] = 0; at < 40*mib {
				l.want[target][at] = 2
			}
		}
	}
	l.apply(snap, map[string][]byte{})
	l.end(snap)
	l.clean()
}
