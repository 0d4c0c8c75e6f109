//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/client/source/guesttest"
)

// What happens to a transfer, made to happen in the middle of it: its connections
// to the snapshot are cut, libvirtd is killed, the server is gone, the machine is
// stopped, or removed.
func TestLiveDisturbed(t *testing.T) {
	l := newLive(t)
	g := l.newGate()
	dir := guesttest.Dir(t)
	const random = 96 << 20
	m := l.domain(guesttest.Spec{Name: "disturbed", Write: "vda", Hook: guesttest.HookOK, Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", random, guesttest.DiskOptions{Random: 1}),
	}})
	l.startAgent()
	l.protect(m.name)
	pulse := l.pulse(m)

	// The first backup has the most to transfer, so the server goes now.
	before, freezes := m.Synced("vda"), calls(m, "freeze")
	h := l.hold("UploadBlocks", false, 30)
	j := l.begun(m)
	l.reach(h)
	early := g.sent("UploadBlocks")
	l.server.kill()
	if !l.agent.said.wait("transfer broke", l.agent.ended, liveLimit) {
		t.Fatal("the agent does not notice that the server is gone")
	}
	l.startServer()
	h.release()
	l.sameSnapshot(m, l.end(j), before, freezes)
	if sent := g.sent("UploadBlocks"); sent >= random+early {
		t.Errorf("%d bytes were sent, %d of them before the server was gone: all was sent again", sent, early)
	}
	proved(t, "kill -9 of the server after %d of %d MiB: goes on from the same snapshot, %d MiB were sent in all",
		early>>20, random>>20, g.sent("UploadBlocks")>>20)

	change := func() { m.Must("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=24 conv=notrunc && sync /mnt/vda/big") }
	for _, disturb := range []struct {
		what string
		do   func()
	}{
		{"the connections to the snapshot are cut", func() {
			if cut := l.cutSnapshot(); cut == 0 {
				t.Error("there is no connection to cut")
			}
		}},
		{"libvirtd is killed and started again", l.restartLibvirt},
	} {
		change()
		before, freezes := m.Synced("vda"), calls(m, "freeze")
		h := l.hold("UploadBlocks", false, 2)
		j := l.begun(m)
		l.reach(h)
		disturb.do()
		h.release()
		j = l.end(j)
		l.sameSnapshot(m, j, before, freezes)
		l.incremental(j)
		proved(t, "%s in the middle of a transfer: it goes on from the same snapshot", disturb.what)
	}
	l.nextBackup(m, "vda")
	l.unharmed(m, pulse, "vda")

	// The machine is stopped: its snapshot is lost, what is on its disk is taken.
	change()
	h = l.hold("UploadBlocks", false, 2)
	j = l.begun(m)
	l.reach(h)
	m.dom.Destroy()
	h.release()
	if j = l.end(j); j.State != "JOB_STATE_COMPLETED_WITH_WARNINGS" || !l.warns(j, "SNAPSHOT_LOST") {
		t.Errorf("stopped in the middle: %v, %+v", j, j.Warnings)
	}
	l.consistent(j.RecoveryPoint, "CRASH_CONSISTENT")
	proved(t, "the machine is stopped in the middle of a transfer: the point is of its disks as they are now, with a warning")

	m.dom.Start()
	l.awaitGuest(m, guesttest.Spec{Write: "vda"})
	if j = l.backUpBadly(m.name); j.RecoveryPoint == "" {
		t.Fatal(j)
	}
	l.consistent(j.RecoveryPoint, m.class)
	l.checkDisk(j.RecoveryPoint, "vda", 0, m.Synced("vda")+1)
	l.nothingLeft(m, 1)
	l.nextBackup(m, "vda")

	// It is gone for good.
	change()
	h = l.hold("UploadBlocks", false, 2)
	j = l.begun(m)
	l.reach(h)
	m.dom.Destroy()
	m.dom.Virsh("undefine", m.name, "--checkpoints-metadata")
	h.release()
	l.failed(l.end(j), "MACHINE_GONE")
	for _, f := range l.stateFiles() {
		t.Errorf("left over: %s", f)
	}
	proved(t, "the machine is stopped and undefined in the middle of a transfer: the job says that it is gone")
}

// sameSnapshot checks a job to which something has happened, but not to its
// snapshot: the guest was frozen once.
func (l *live) sameSnapshot(m *vm, j job, before, freezes int) {
	l.Helper()
	if j.State != "JOB_STATE_COMPLETED" {
		l.Fatalf("%v, %+v", j, j.Warnings)
	}
	if n := calls(m, "freeze") - freezes; n != 1 {
		l.Errorf("the guest was frozen %d times for one job", n)
	}
	l.consistent(j.RecoveryPoint, m.class)
	l.checkDisk(j.RecoveryPoint, "vda", before, m.Synced("vda")+1)
	l.nothingLeft(m, 1)
}

// cutSnapshot cuts the agent's connections to sockets of its snapshots, as if
// they had broken, and tells how many there were.
func (l *live) cutSnapshot() (cut int) {
	l.Helper()
	pid := l.agent.Process.Pid
	pidfd, err := unix.PidfdOpen(pid, 0)
	l.must(err)
	defer unix.Close(pidfd)
	fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	l.must(err)
	for _, e := range fds {
		n, err := strconv.Atoi(e.Name())
		l.must(err)
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if errors.Is(err, unix.EBADF) {
			continue // closed meanwhile
		}
		l.must(err)
		if peer, err := unix.Getpeername(fd); err == nil {
			if peer, ok := peer.(*unix.SockaddrUnix); ok && strings.HasPrefix(peer.Name, l.state) && unix.Shutdown(fd, unix.SHUT_RDWR) == nil {
				cut++
			}
		}
		l.must(unix.Close(fd))
	}
	return cut
}

// restartLibvirt kills the libvirtd that .ci/e2e has started for the tests, and
// starts another, which lives on for the tests that come later.
func (l *live) restartLibvirt() {
	l.Helper()
	file := filepath.Join(os.Getenv("CAIRN_E2E_BIN"), "libvirtd.pid")
	text, err := os.ReadFile(file)
	if err != nil {
		l.Fatalf("which libvirtd is the tests' own: %v: run them by .ci/e2e", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	l.must(err)
	l.must(syscall.Kill(pid, syscall.SIGKILL))
	l.until("libvirtd is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	said, err := os.OpenFile(strings.TrimSuffix(file, ".pid")+".log", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	l.must(err)
	defer said.Close()
	cmd := exec.Command("libvirtd", "-p", file)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	l.must(cmd.Start())
	go cmd.Wait()
	l.until("libvirtd answers", func() bool { return exec.Command("virsh", "-c", "qemu:///system", "uri").Run() == nil })
}

// Too little room for what the guest overwrites: the backup ends, the guest does
// not notice.
func TestLiveScratchFull(t *testing.T) {
	l := newLive(t)
	l.newGate()
	// Before QEMU starts, which sees the mounts of that moment.
	small := filepath.Dir(l.state)
	l.must(unix.Mount("tmpfs", small, "tmpfs", 0, "size=556m,mode=755"))
	t.Cleanup(func() {
		// Whoever was in there has ended by now, the agent by a cleanup of its own.
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", small, err)
		}
	})
	m := l.domain(guesttest.Spec{Name: "full", Write: "vda", Hook: guesttest.HookOK, Drives: []guesttest.Drive{
		guesttest.Disk(t, guesttest.Dir(t)+"/a.qcow2", "qcow2", 256<<20, guesttest.DiskOptions{Random: 1}),
	}})
	l.startAgent()
	l.protect(m.name)
	pulse := l.pulse(m)
	l.steadyBackup(m, "vda")

	h := l.hold("CreateUpload", false, 0)
	j := l.begun(m)
	l.reach(h)
	began := time.Now()
	m.Must("dd if=/dev/zero of=/mnt/vda/fill bs=1M count=72 conv=fsync && rm /mnt/vda/fill && sync")
	took := time.Since(began)
	h.release()
	j = l.end(j)
	l.failed(j, "SNAPSHOT_SPACE")
	l.unharmed(m, pulse, "vda")
	l.nothingLeft(m, 1)
	proved(t, "a guest that overwrites more than there is room for: %v; it wrote on all the time (72 MiB in %v)", j, took.Round(time.Millisecond))
	l.nextBackup(m, "vda")
	l.nothingLeft(m, 1)
}
