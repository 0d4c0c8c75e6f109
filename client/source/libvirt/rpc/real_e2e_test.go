//go:build e2e

package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests in this file talk to the libvirtd of this machine, and run small
// domains without an operating system in it, named rpc-test-*. Needed are the
// packages libvirt-daemon-system, libvirt-clients, qemu-system-x86 and
// qemu-utils, and root.

func dialReal(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), "qemu:///system")
	if err != nil {
		t.Fatalf("%v\ninstall libvirt-daemon-system and start it: libvirtd -d; virtlogd -d", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func run(t *testing.T, name string, arg ...string) {
	t.Helper()
	if out, err := exec.Command(name, arg...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v (packages libvirt-clients, qemu-utils)\n%s", name, arg, err, out)
	}
}

// define defines a domain with a qcow2 disk of 64 MiB, whose backing file has
// data; it is gone when the test ends.
func define(t *testing.T, c *Conn) (dom Domain, dir string) {
	t.Helper()
	// Not t.TempDir: QEMU runs as another user and makes its socket here.
	dir, err := os.MkdirTemp("/tmp", "rpc-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	base, disk := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "64M")
	run(t, "qemu-io", "-c", "write -P 7 0 16M", base)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disk)
	name := filepath.Base(dir)
	dom, err = c.DefineXML(t.Context(), fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='%s'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>`, name, disk), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if s, _, _ := c.DomainState(ctx, dom); s != StateShutoff {
			if err := c.Destroy(ctx, dom, 0); err != nil {
				t.Error(err)
			}
		}
		if err := c.Undefine(ctx, dom, UndefineCheckpoints|UndefineManagedSave|UndefineNVRAM); err != nil {
			t.Error(err)
		}
	})
	return dom, dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
	t.Log("as expected:", err)
}

func wantState(t *testing.T, c *Conn, dom Domain, state State, reason int) {
	t.Helper()
	s, r, err := c.DomainState(t.Context(), dom)
	check(t, err)
	if s != state || r != reason {
		t.Fatalf("state %v, reason %d, want %v, %d", s, r, state, reason)
	}
}

// await returns the next event of the domain for which ok is true.
func await(t *testing.T, events <-chan Event, dom Domain, ok func(Event) bool) Event {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatal("subscription ended")
			}
			t.Logf("event %+v", e)
			if e.Domain.UUID == dom.UUID && ok(e) {
				return e
			}
		case <-limit:
			t.Fatal("no such event")
		}
	}
}

func lifecycle(what int) func(Event) bool {
	return func(e Event) bool { return e.Kind == EventLifecycle && e.What == what }
}

func TestRealHost(t *testing.T) {
	ctx, c := t.Context(), dialReal(t)
	lib, err := c.LibVersion(ctx)
	check(t, err)
	hyp, err := c.HypervisorVersion(ctx)
	check(t, err)
	t.Log("libvirt", lib, "QEMU", hyp)
	if lib < 7_000_000 || hyp < 5_000_000 {
		t.Errorf("libvirt %v, QEMU %v: too old to be true", lib, hyp)
	}
	xml, err := c.Capabilities(ctx)
	check(t, err)
	if !strings.Contains(xml, "<capabilities>") {
		t.Errorf("capabilities: %.100s", xml)
	}

	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "v.img"), make([]byte, 4096), 0o600))
	pool := fmt.Sprintf("rpc-test-%d", os.Getpid())
	run(t, "virsh", "-c", "qemu:///system", "pool-create-as", pool, "dir", "--target", dir)
	defer run(t, "virsh", "-c", "qemu:///system", "pool-destroy", pool)
	path, err := c.VolumePath(ctx, pool, "v.img")
	check(t, err)
	if path != filepath.Join(dir, "v.img") {
		t.Errorf("path of volume is %q", path)
	}
	_, err = c.VolumePath(ctx, pool, "w.img")
	want(t, err, ErrNoStorageVolume)
	_, err = c.VolumePath(ctx, "rpc-test-none", "v.img")
	want(t, err, ErrNoStoragePool)
}

func TestRealDomain(t *testing.T) {
	ctx, c := t.Context(), dialReal(t)
	_, err := c.LookupByName(ctx, "rpc-test-none")
	want(t, err, ErrNoDomain)
	events, err := c.Subscribe(ctx)
	check(t, err)
	dom, _ := define(t, c)
	await(t, events, dom, lifecycle(LifecycleDefined))

	list, err := c.ListDomains(ctx, ListInactive)
	check(t, err)
	found := false
	for _, d := range list {
		found = found || d == dom
	}
	if !found {
		t.Errorf("%v is not in the list %v", dom, list)
	}
	byName, err := c.LookupByName(ctx, dom.Name)
	check(t, err)
	byUUID, err := c.LookupByUUID(ctx, dom.UUID)
	check(t, err)
	if byName != dom || byUUID != dom || dom.ID != -1 {
		t.Errorf("defined %v, by name %v, by UUID %v", dom, byName, byUUID)
	}
	xml, err := c.XMLDesc(ctx, dom, XMLInactive|XMLSecure)
	check(t, err)
	if !strings.Contains(xml, "<uuid>"+dom.UUID.String()+"</uuid>") {
		t.Errorf("XML: %s", xml)
	}
	wantState(t, c, dom, StateShutoff, 0)
	i, err := c.BlockInfo(ctx, dom, "vda")
	check(t, err)
	if i.Capacity != 64<<20 {
		t.Errorf("%+v", i)
	}
	_, err = c.BlockInfo(ctx, dom, "vdb")
	want(t, err, ErrInvalidArg)
	want(t, c.Destroy(ctx, dom, 0), ErrOperationInvalid)
	want(t, c.Shutdown(ctx, dom, 0), ErrOperationInvalid)
	_, err = c.AgentCommand(ctx, dom, `{"execute":"guest-ping"}`, 1)
	want(t, err, ErrOperationInvalid)

	run, err := c.Start(ctx, dom, StartPaused)
	check(t, err)
	if run.ID <= 0 {
		t.Errorf("started as %v", run)
	}
	await(t, events, dom, lifecycle(LifecycleStarted))
	wantState(t, c, dom, StatePaused, PausedUser)
	check(t, c.Resume(ctx, dom))
	await(t, events, dom, lifecycle(LifecycleResumed))
	wantState(t, c, dom, StateRunning, 5)
	check(t, c.Suspend(ctx, dom))
	await(t, events, dom, lifecycle(LifecycleSuspended))
	check(t, c.Resume(ctx, dom))
	_, err = c.Start(ctx, dom, 0)
	want(t, err, ErrOperationInvalid)
	_, err = c.AgentCommand(ctx, dom, `{"execute":"guest-ping"}`, 1)
	want(t, err, ErrAgentUnresponsive)
	answer, err := c.MonitorCommand(ctx, dom, `{"execute":"query-name"}`, 0)
	check(t, err)
	if !strings.Contains(answer, dom.Name) {
		t.Errorf("query-name: %s", answer)
	}
	answer, err = c.MonitorCommand(ctx, dom, "info name", MonitorHMP)
	check(t, err)
	if strings.TrimSpace(answer) != dom.Name {
		t.Errorf("info name: %q", answer)
	}
	check(t, c.Shutdown(ctx, dom, ShutdownACPI))
	has, err := c.HasManagedSave(ctx, dom)
	check(t, err)
	if has {
		t.Error("has a saved state")
	}
	check(t, c.Destroy(ctx, dom, DestroyGraceful))
	await(t, events, dom, lifecycle(LifecycleStopped))
	wantState(t, c, dom, StateShutoff, 2)
}

func TestRealBackup(t *testing.T) {
	ctx, c := t.Context(), dialReal(t)
	dom, dir := define(t, c)
	_, err := c.Start(ctx, dom, 0)
	check(t, err)
	events, err := c.Subscribe(ctx)
	check(t, err)

	sock := filepath.Join(dir, "nbd.sock")
	backupXML := func(incremental string) string {
		return fmt.Sprintf(`<domainbackup mode='pull'>%s<server transport='unix' socket='%s'/>
<disks><disk name='vda' backup='yes' type='file'><scratch file='%s/scratch.qcow2'/></disk></disks></domainbackup>`,
			incremental, sock, dir)
	}
	checkpointXML := func(name string) string {
		return fmt.Sprintf(`<domaincheckpoint><name>%s</name></domaincheckpoint>`, name)
	}
	_, err = c.BackupXMLDesc(ctx, dom)
	want(t, err, ErrNoBackup)
	want(t, c.AbortJob(ctx, dom), ErrOperationInvalid)
	check(t, c.BackupBegin(ctx, dom, backupXML(""), checkpointXML("one"), 0))
	xml, err := c.BackupXMLDesc(ctx, dom)
	check(t, err)
	if !strings.Contains(xml, sock) {
		t.Errorf("backup XML: %s", xml)
	}
	nc, err := net.Dial("unix", sock)
	check(t, err)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(nc, magic); err != nil || string(magic) != "NBDMAGIC" {
		t.Errorf("NBD server says %q, %v", magic, err)
	}
	nc.Close()
	stats, err := c.JobStats(ctx, dom, false)
	check(t, err)
	t.Logf("job %+v", stats)
	if stats.Type != JobUnbounded && stats.Type != JobBounded || stats.Params.Int64(JobOperation) != JobOperationBackup {
		t.Errorf("job %+v", stats)
	}
	check(t, c.AbortJob(ctx, dom))
	e := await(t, events, dom, func(e Event) bool { return e.Kind == EventJobCompleted })
	if e.Params.Int64(JobOperation) != JobOperationBackup {
		t.Errorf("event %+v", e)
	}
	stats, err = c.JobStats(ctx, dom, true)
	check(t, err)
	t.Logf("job %+v", stats)
	if stats.Type < JobCompleted {
		t.Errorf("completed job %+v", stats)
	}

	check(t, c.BackupBegin(ctx, dom, backupXML("<incremental>one</incremental>"), checkpointXML("two"), 0))
	check(t, c.AbortJob(ctx, dom))
	await(t, events, dom, func(e Event) bool { return e.Kind == EventJobCompleted })
	want(t, c.BackupBegin(ctx, dom, backupXML("<incremental>none</incremental>"), "", 0), ErrNoCheckpoint)

	list, err := c.ListCheckpoints(ctx, dom, CheckpointListTopological)
	check(t, err)
	if len(list) != 2 || list[0].Name != "one" || list[1].Name != "two" {
		t.Fatalf("checkpoints %v", list)
	}
	xml, err = c.CheckpointXMLDesc(ctx, list[0], CheckpointXMLNoDomain|CheckpointXMLSize)
	check(t, err)
	if !strings.Contains(xml, "size='") {
		t.Errorf("checkpoint XML: %s", xml)
	}
	_, err = c.LookupCheckpoint(ctx, dom, "none")
	want(t, err, ErrNoCheckpoint)
	two, err := c.LookupCheckpoint(ctx, dom, "two")
	check(t, err)
	redefine, err := c.CheckpointXMLDesc(ctx, two, CheckpointXMLSecure)
	check(t, err)
	check(t, c.DeleteCheckpoint(ctx, two, CheckpointMetadataOnly))
	again, err := c.CreateCheckpoint(ctx, dom, redefine, CheckpointRedefine|CheckpointRedefineValidate)
	check(t, err)
	if again.Name != "two" {
		t.Errorf("redefined %v", again)
	}
	check(t, c.Destroy(ctx, dom, 0))
	want(t, c.Undefine(ctx, dom, 0), ErrOperationInvalid)
	want(t, c.DeleteCheckpoint(ctx, two, 0), ErrOperationUnsupported)
	_, err = c.Start(ctx, dom, 0)
	check(t, err)
	check(t, c.DeleteCheckpoint(ctx, list[0], CheckpointChildren))
	list, err = c.ListCheckpoints(ctx, dom, 0)
	check(t, err)
	if len(list) != 0 {
		t.Errorf("checkpoints left: %v", list)
	}
	// A scratch file is in the way.
	check(t, os.WriteFile(filepath.Join(dir, "scratch.qcow2"), nil, 0o600))
	want(t, c.BackupBegin(ctx, dom, backupXML(""), "", 0), ErrInvalidArg)
}

func TestRealBlockPull(t *testing.T) {
	ctx, c := t.Context(), dialReal(t)
	dom, _ := define(t, c)
	_, err := c.Start(ctx, dom, 0)
	check(t, err)
	events, err := c.Subscribe(ctx)
	check(t, err)
	_, found, err := c.BlockJob(ctx, dom, "vda")
	check(t, err)
	if found {
		t.Error("a job before there is one")
	}
	check(t, c.BlockRebase(ctx, dom, "vda", "", 1<<20, 0)) // 16 s
	job, found, err := c.BlockJob(ctx, dom, "vda")
	check(t, err)
	if !found || job.Type != BlockJobPull || job.Bandwidth != 1<<20 {
		t.Errorf("job %+v, found %v", job, found)
	}
	check(t, c.BlockJobAbort(ctx, dom, "vda", 0))
	await(t, events, dom, func(e Event) bool {
		return e.Kind == EventBlockJob && e.Device == "vda" && e.What == int(BlockJobPull) && e.Detail == BlockJobCanceled
	})
	check(t, c.BlockPull(ctx, dom, "vda", 0))
	await(t, events, dom, func(e Event) bool { return e.Kind == EventBlockJob && e.Detail == BlockJobCompleted })
	xml, err := c.XMLDesc(ctx, dom, 0)
	check(t, err)
	if strings.Contains(xml, "base.qcow2") {
		t.Error("the backing file is still there")
	}
}

// More calls at once than the daemon takes from one client.
func TestRealCallsInParallel(t *testing.T) {
	ctx, c := t.Context(), dialReal(t)
	errs := make(chan error)
	for range 50 {
		go func() {
			_, err := c.ListDomains(ctx, 0)
			errs <- err
		}()
	}
	for range 50 {
		check(t, <-errs)
	}
}
