//go:build e2e

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

// lab is a domain without a system in it: its disks are written by QEMU.
type lab struct {
	*testing.T
	dir   string
	state string
	conn  *rpc.Conn
	dom   rpc.Domain
	src   *Source
	id    string
	want  map[string][]byte // what the disks hold, by target
	kinds map[string]string
}

// labDisk is "qcow2", "raw" or "qcow2v2".
func newLab(t *testing.T, size int64, disks ...string) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cairn-src-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o711)
	l := &lab{T: t, dir: dir, state: filepath.Join(dir, "state"), want: map[string][]byte{}, kinds: map[string]string{}}
	if l.conn, err = rpc.Dial(t.Context(), DefaultURI); err != nil {
		t.Fatalf("%v: libvirtd is needed for this test: install the package libvirt-daemon-system and start libvirtd and virtlogd", err)
	}
	t.Cleanup(func() { l.conn.Close() })
	name := fmt.Sprintf("cairn-src-%d-%d", os.Getpid(), rand.IntN(1e6))
	l.id = idOf(name)
	var devices strings.Builder
	for i, kind := range disks {
		target := targetOf(i)
		format, args := strings.TrimSuffix(kind, "v2"), []string{"create", "-q", "-f"}
		if args = append(args, format); kind == "qcow2v2" {
			args = append(args, "-o", "compat=0.10")
		}
		l.run("qemu-img", append(args, l.path(target), fmt.Sprint(size))...)
		l.want[target], l.kinds[target] = make([]byte, size), format
		fmt.Fprintf(&devices, `<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='scsi'/><alias name='ua-%s'/></disk>`,
			format, l.path(target), target, target)
	}
	l.dom, err = l.conn.DefineXML(t.Context(), fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><controller type='scsi' index='0' model='virtio-scsi'/>
<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>%s</devices></domain>`, name, &devices), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		l.conn.Destroy(ctx, l.dom, 0)
		if err := l.conn.Undefine(ctx, l.dom, rpc.UndefineCheckpoints|rpc.UndefineNVRAM); err != nil {
			t.Error(err)
		}
	})
	l.src = l.source(Options{})
	return l
}

func targetOf(i int) string {
	if i >= 26 {
		return "sd" + string(rune('a'+i/26-1)) + string(rune('a'+i%26))
	}
	return "sd" + string(rune('a'+i))
}

func (l *lab) source(o Options) *Source {
	l.Helper()
	o.State = l.state
	o.Log = slog.New(slog.NewTextHandler(l.Output(), nil))
	if o.Reserve == 0 {
		o.Reserve = 1 << 20
	}
	s, err := New(o)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { s.Close() })
	return s
}

func (l *lab) path(target string) string { return filepath.Join(l.dir, target+".img") }

func (l *lab) run(name string, args ...string) string {
	l.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		l.Fatalf("%s is needed for this test: install qemu-utils and libvirt-clients", name)
	} else if err != nil {
		l.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (l *lab) start() {
	l.Helper()
	var err error
	begun := time.Now()
	if l.dom, err = l.conn.Start(l.Context(), l.dom, 0); err != nil {
		l.Fatal(err)
	}
	l.Logf("started in %v", time.Since(begun))
}

func (l *lab) destroy() {
	l.Helper()
	if err := l.conn.Destroy(l.Context(), l.dom, 0); err != nil {
		l.Fatal(err)
	}
}

// write has QEMU write to a disk as its guest would.
func (l *lab) write(target string, pattern byte, off, n int64) {
	l.Helper()
	if err := l.tryWrite(target, pattern, off, n); err != nil {
		l.Fatal(err)
	}
	copy(l.want[target][off:], bytes.Repeat([]byte{pattern}, int(n)))
}

func (l *lab) tryWrite(target string, pattern byte, off, n int64) error {
	// The answer is JSON with the monitor's text; qemu-io's own goes elsewhere.
	out, err := l.conn.MonitorCommand(l.Context(), l.dom, fmt.Sprintf(`qemu-io -d ua-%s "write -P %d %d %d"`, target, pattern, off, n), rpc.MonitorHMP)
	if err == nil && strings.TrimSpace(out) != "" {
		err = errors.New(out)
	}
	return err
}

func (l *lab) snapshot(o source.SnapshotOptions) source.Snapshot {
	l.Helper()
	snap, err := l.src.Snapshot(l.Context(), l.id, o)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { snap.Close() })
	return snap
}

// apply reads a snapshot over what earlier ones had and compares with the disks.
func (l *lab) apply(snap source.Snapshot, have map[string][]byte) (read int64) {
	l.Helper()
	for _, d := range snap.Disks() {
		target := d.Info().Target
		b := slices.Clone(have[target])
		if !d.Incremental() {
			b = make([]byte, d.Info().Size)
		}
		err := d.Extents(l.Context(), func(e source.Extent) error {
			if e.Zero {
				clear(b[e.Offset:][:e.Length])
				return nil
			}
			read += e.Length
			_, err := d.ReadAt(b[e.Offset:][:e.Length], e.Offset)
			if err == io.EOF {
				err = nil
			}
			return err
		})
		if err != nil {
			l.Fatal(err)
		}
		if !bytes.Equal(b, l.want[target]) {
			l.Errorf("disk %s differs", target)
		}
		have[target] = b
	}
	if err := snap.Check(l.Context()); err != nil {
		l.Error(err)
	}
	return read
}

func (l *lab) keep(snap source.Snapshot) string {
	l.Helper()
	if err := snap.Keep(l.Context()); err != nil {
		l.Fatal(err)
	}
	l.end(snap)
	return snap.Info().Checkpoint
}

func (l *lab) end(snap source.Snapshot) {
	l.Helper()
	if err := snap.Close(); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) checkpoints() (names []string) {
	l.Helper()
	list, err := l.conn.ListCheckpoints(l.Context(), l.dom, 0)
	if err != nil {
		l.Fatal(err)
	}
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}

// clean makes sure that nothing is left but the given checkpoints.
func (l *lab) clean(checkpoints ...string) {
	l.Helper()
	if got := l.checkpoints(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(checkpoints))) {
		l.Errorf("checkpoints %v, want %v", got, checkpoints)
	}
	if left, _ := filepath.Glob(filepath.Join(l.state, "libvirt", "s*")); len(left) > 0 {
		l.Errorf("sessions are left: %v", left)
	}
	if job, err := l.conn.JobStats(l.Context(), l.dom, false); err == nil && job.Type != rpc.JobNone {
		l.Errorf("job %+v is left", job)
	}
}

// modes are the disks of a snapshot: "i" for incremental, "f" for full.
func modes(snap source.Snapshot) (s string) {
	for _, d := range snap.Disks() {
		if d.Incremental() {
			s += "i"
		} else {
			s += "f"
		}
	}
	return s
}

// warned returns the text of the warnings of a kind.
func warned(snap source.Snapshot, kind source.WarningKind) (text string) {
	for _, w := range snap.Info().Warnings {
		if w.Kind == kind {
			text += w.Text + "\n"
		}
	}
	return text
}

func (l *lab) expect(snap source.Snapshot, wantModes, tracking string) {
	l.Helper()
	text := warned(snap, source.WarnTracking)
	if modes(snap) != wantModes || (tracking == "") != (text == "") || !strings.Contains(text, tracking) {
		l.Errorf("disks %s, want %s; tracking %q, want %q", modes(snap), wantModes, text, tracking)
	}
}

// bitmaps lists the bitmaps that QEMU has, of all disks.
func (l *lab) bitmaps() string {
	l.Helper()
	out, err := l.conn.MonitorCommand(l.Context(), l.dom, `{"execute":"query-named-block-nodes","arguments":{"flat":true}}`, 0)
	if err != nil {
		l.Fatal(err)
	}
	return out
}

const mib = 1 << 20

func TestE2ELive(t *testing.T) {
	l := newLab(t, 64*mib, "qcow2", "raw", "qcow2", "qcow2v2")
	l.start()
	have := map[string][]byte{}
	mark := byte(0)
	// change writes something to every disk.
	change := func() {
		mark++
		for i, target := range []string{"sda", "sdb", "sdc", "sdd"} {
			l.write(target, mark, int64(mark)*mib+int64(i)*4096, 70_000)
		}
	}
	since := ""
	again := func(wantModes, tracking string) string {
		l.Helper()
		begun := time.Now()
		change()
		snap := l.snapshot(source.SnapshotOptions{Since: since, Continues: true})
		change() // none of it may be seen, but by the next one
		l.expect(snap, wantModes, tracking)
		after := l.want
		l.want = map[string][]byte{}
		for k, b := range after {
			l.want[k] = slices.Clone(b)
		}
		for i, target := range []string{"sda", "sdb", "sdc", "sdd"} {
			clear(l.want[target][int64(mark)*mib+int64(i)*4096:][:70_000])
		}
		read := l.apply(snap, have)
		t.Logf("%s: %d bytes read, %v", wantModes, read, time.Since(begun))
		l.want = after
		since = l.keep(snap)
		return since
	}

	machines, err := l.src.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(machines, func(m source.Machine) bool { return m.ID == l.id })
	if i < 0 {
		t.Fatalf("machine %s is not among %+v", l.id, machines)
	}
	m := machines[i]
	if m.State != source.StateRunning || m.Agent != source.AgentNotConfigured || m.Problem != "" || m.HypervisorID != l.dom.UUID.String() ||
		len(m.Disks) != 4 || m.Disks[0].Size != 64*mib || m.Disks[1].Format != "raw" || m.Disks[2].Target != "sdc" {
		t.Errorf("machine %+v", m)
	}

	change()
	snap := l.snapshot(source.SnapshotOptions{})
	l.expect(snap, "ffff", "")
	if warned(snap, source.WarnAgent) == "" || snap.Info().Consistency != source.CrashConsistent {
		t.Errorf("info %+v", snap.Info())
	}
	if !bytes.Contains(snap.Info().Definition, []byte("<domain")) || snap.Info().DefinitionKind == "" {
		t.Errorf("definition %q", snap.Info().Definition)
	}
	l.apply(snap, have)
	since = l.keep(snap)
	l.clean(since)

	t.Log("incremental")
	again("ifif", "")
	l.clean(since)
	again("ifif", "")
	l.clean(since)

	t.Log("one that is not kept leaves the earlier checkpoint in force")
	change()
	l.end(l.snapshot(source.SnapshotOptions{Since: since}))
	l.clean(since)
	again("ifif", "")

	t.Log("checkpoints of others")
	foreign := "cairn-looks-like-ours"
	l.run("virsh", "checkpoint-create-as", l.dom.Name, foreign, "--diskspec", "sda,checkpoint=bitmap")
	again("ifif", "")
	l.clean(foreign, since)
	l.run("virsh", "checkpoint-create-as", l.dom.Name, "backup-of-bob", "--diskspec", "sda,checkpoint=bitmap", "--diskspec", "sdc,checkpoint=bitmap")
	again("ifif", "")
	l.clean(foreign, "backup-of-bob", since)
	l.run("virsh", "checkpoint-delete", l.dom.Name, foreign)
	l.run("virsh", "checkpoint-delete", l.dom.Name, "backup-of-bob")

	t.Log("resized")
	l.run("virsh", "blockresize", l.dom.Name, "sda", fmt.Sprint(80*mib)+"B")
	l.want["sda"] = append(l.want["sda"], make([]byte, 16*mib)...)
	again("ffif", "sda is read in full: it was resized from 67108864 to 83886080")
	again("ifif", "")

	t.Log("checkpoint deleted")
	l.run("virsh", "checkpoint-delete", l.dom.Name, since)
	again("ffff", since)
	l.clean(since)

	t.Log("the bitmap of one disk is missing")
	l.removeBitmap("sda", since)
	again("ffif", "sda is read in full")
	l.clean(since)
	if b := l.bitmaps(); strings.Count(b, `"name":"cairn-`) != 2 {
		t.Errorf("bitmaps left: %s", b)
	}

	t.Log("restart of the VM")
	l.destroy()
	l.start()
	again("ifif", "")
	l.clean(since)

	t.Log("a disk was excluded")
	snap = l.snapshot(source.SnapshotOptions{Since: since, Exclude: []string{"sda", "nope"}})
	l.expect(snap, "fif", "")
	if len(snap.Info().Machine.Disks) != 4 {
		t.Error("an excluded disk is missing from the machine")
	}
	l.apply(snap, have)
	since = l.keep(snap)
	delete(have, "sda")
	again("ffif", "sda is read in full: it is new, or was excluded")

	t.Log("paused")
	if err := l.conn.Suspend(t.Context(), l.dom); err != nil {
		t.Fatal(err)
	}
	snap = l.snapshot(source.SnapshotOptions{Since: since})
	l.expect(snap, "ifif", "")
	if !strings.Contains(warned(snap, source.WarnMachineState), "is paused") {
		t.Errorf("warnings %+v", snap.Info().Warnings)
	}
	l.apply(snap, have)
	since = l.keep(snap)
	if err := l.conn.Resume(t.Context(), l.dom); err != nil {
		t.Fatal(err)
	}

	t.Log("the consistency that is wanted cannot be reached")
	var low *source.ConsistencyError
	if _, err := l.src.Snapshot(t.Context(), l.id, source.SnapshotOptions{Minimum: source.FileSystemConsistent}); !errors.As(err, &low) {
		t.Errorf("error %v", err)
	}
	l.clean(since)

	t.Log("somebody else's backup")
	job := filepath.Join(l.dir, "job.xml")
	os.WriteFile(job, fmt.Appendf(nil, `<domainbackup mode='pull'><server transport='tcp' name='127.0.0.1' port='10823'/><disks><disk name='sda' backup='yes' type='file'><scratch file='%s/foreign.scratch'/></disk></disks></domainbackup>`, l.dir), 0o600)
	l.run("virsh", "backup-begin", l.dom.Name, job)
	if _, err := l.src.Snapshot(t.Context(), l.id, source.SnapshotOptions{Since: since}); !errors.Is(err, source.ErrMachineState) || !strings.Contains(err.Error(), "foreign.scratch") && !strings.Contains(err.Error(), "another program") {
		t.Errorf("error %v", err)
	}
	if text, err := l.conn.BackupXMLDesc(t.Context(), l.dom); err != nil || !strings.Contains(text, "foreign.scratch") {
		t.Errorf("the other backup is gone: %v", err)
	}
	l.run("virsh", "domjobabort", l.dom.Name)
	again("ifif", "")

	t.Log("a snapshot is open already")
	snap = l.snapshot(source.SnapshotOptions{Since: since})
	if _, err := l.src.Snapshot(t.Context(), l.id, source.SnapshotOptions{}); !errors.Is(err, source.ErrMachineState) || !strings.Contains(err.Error(), "cairn agent") {
		t.Errorf("error %v", err)
	}
	t.Log("the connection to libvirt breaks meanwhile")
	l.src.work.conn.Close()
	l.apply(snap, have)
	since = l.keep(snap)
	l.clean(since)

	t.Log("its job is ended by somebody")
	snap = l.snapshot(source.SnapshotOptions{Since: since})
	l.run("virsh", "domjobabort", l.dom.Name)
	// The export may still answer for a moment, but is not trusted.
	if err := snap.Check(t.Context()); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("check: %v", err)
	}
	l.end(snap)
	l.clean(since)

	t.Log("QEMU is killed: bitmaps are not saved")
	l.killQEMU()
	for target, format := range l.kinds { // what was not flushed is lost
		l.run("qemu-img", "convert", "-f", format, "-O", "raw", l.path(target), l.path("copy"))
		b, err := os.ReadFile(l.path("copy"))
		if err != nil {
			t.Fatal(err)
		}
		l.want[target] = b
	}
	l.start()
	again("ffff", "inconsistent")
	l.clean(since)

	t.Log("destroyed while it is read")
	snap = l.snapshot(source.SnapshotOptions{Since: since})
	l.destroy()
	if _, err := snap.Disks()[0].ReadAt(make([]byte, 4096), 0); !errors.Is(err, source.ErrSnapshotLost) || !strings.Contains(err.Error(), "destroyed") {
		t.Errorf("error %v", err)
	}
	l.end(snap)

	t.Log("off")
	stray := snap.Info().Checkpoint
	snap = l.snapshot(source.SnapshotOptions{Since: since, Continues: true})
	l.expect(snap, "ffff", "")
	if len(snap.Info().Warnings) > 0 || snap.Info().Checkpoint != "" || snap.Info().Machine.State != source.StateStopped {
		t.Errorf("info %+v", snap.Info())
	}
	l.apply(snap, have)
	l.keep(snap)
	t.Log("started while it is read")
	snap = l.snapshot(source.SnapshotOptions{})
	l.start()
	if err := snap.Check(t.Context()); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("check: %v", err)
	}
	l.end(snap)
	since = ""
	again("ffff", "the last recovery point has no checkpoint")
	l.clean(since)
	if strings.Contains(l.bitmaps(), stray) {
		t.Error("a bitmap is left")
	}
}

// removeBitmap takes a bitmap away behind libvirt's back.
func (l *lab) removeBitmap(target, name string) {
	l.Helper()
	script := fmt.Sprintf(`virsh qemu-monitor-command %s '{"execute":"query-named-block-nodes","arguments":{"flat":true}}' | jq -r '.return[]|select(.drv=="qcow2" and .file=="%s")|."node-name"'`, l.dom.Name, l.path(target))
	node := strings.TrimSpace(l.run("sh", "-c", script))
	out, err := l.conn.MonitorCommand(l.Context(), l.dom, fmt.Sprintf(`{"execute":"block-dirty-bitmap-remove","arguments":{"node":"%s","name":"%s"}}`, node, name), 0)
	if err != nil || strings.Contains(out, "error") {
		l.Fatal(out, err)
	}
}

// killQEMU ends QEMU without notice and waits until libvirt knows.
func (l *lab) killQEMU() {
	l.Helper()
	events, err := l.conn.Subscribe(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	pid := strings.TrimSpace(l.run("cat", "/run/libvirt/qemu/"+l.dom.Name+".pid"))
	l.run("kill", "-9", pid)
	for e := range events {
		if e.Kind == rpc.EventLifecycle && e.Domain.UUID == l.dom.UUID && e.What == rpc.LifecycleStopped {
			return
		}
	}
	l.Fatal("no event")
}
