package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cairn/client/source"
	"cairn/client/source/guest"
	"cairn/client/source/qmp"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guest.GuardCommand {
		os.Exit(guest.GuardMain(os.Args[2:], OpenGuest))
	}
	if os.Getenv(childEnv) != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

const mib = 1 << 20

// image is a disk of a test's machine.
type image struct {
	id     string
	path   string
	format string
	want   []byte // what the guest sees
}

// vm is a real QEMU whose CPU stands still: no guest runs, and the test writes
// to its disks in the guest's stead. It has two monitors, one for the source and
// one for the test.
type vm struct {
	t      *testing.T
	dir    string // short, for its sockets
	name   string
	images []*image
	extra  []string // arguments
	agent  string   // socket of the guest's agent, or ""
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has
	mon    *qmp.Client   // nil while it does not run
}

// newVM makes a machine with disks of the given formats and 8 MiB each, called
// vda, vdb, …, and starts it.
func newVM(t *testing.T, name string, formats ...string) *vm {
	t.Helper()
	dir, err := os.MkdirTemp("", "q")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &vm{t: t, dir: dir, name: name}
	for n, f := range formats {
		v.images = append(v.images, v.newImage(letters(n), f))
	}
	v.start()
	t.Cleanup(v.stop)
	return v
}

func (v *vm) newImage(id, format string) *image {
	v.t.Helper()
	im := &image{id: id, path: filepath.Join(v.dir, v.name+"-"+id+"."+format), format: format, want: make([]byte, 8*mib)}
	tool(v.t, "qemu-utils", "qemu-img", "create", "-q", "-f", format, im.path, fmt.Sprint(len(im.want)))
	return im
}

func (v *vm) start() {
	v.t.Helper()
	args := []string{"-S", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "16",
		"-qmp", "unix:" + v.socket() + ",server=on,wait=off", "-qmp", "unix:" + v.socket() + "-test,server=on,wait=off"}
	device := "virtio-blk-pci"
	if len(v.images) > 20 { // there are no more slots
		device = "scsi-hd"
		args = append(args, "-device", "virtio-scsi-pci")
	}
	for _, im := range v.images {
		args = append(args, "-drive", fmt.Sprintf("if=none,cache=unsafe,id=drive-%s,format=%s,file=%s", im.id, im.format, im.path),
			"-device", fmt.Sprintf("%s,id=%s,drive=drive-%s", device, im.id, im.id))
	}
	v.cmd = exec.Command("qemu-system-x86_64", append(args, v.extra...)...)
	var out bytes.Buffer
	v.cmd.Stderr = &out
	if err := v.cmd.Start(); errors.Is(err, exec.ErrNotFound) {
		v.t.Fatal("qemu-system-x86_64 is needed for this test: install the package qemu-system-x86")
	} else if err != nil {
		v.t.Fatal(err)
	}
	v.exited = make(chan struct{})
	go func() {
		v.cmd.Wait()
		close(v.exited)
	}()
	ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
	defer cancel()
	for {
		var err error
		if v.mon, err = qmp.Dial(ctx, v.socket()+"-test"); err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond): // until its sockets are there
			continue
		case <-v.exited:
		case <-ctx.Done():
			v.cmd.Process.Kill()
			<-v.exited
		}
		v.t.Fatalf("QEMU does not come up: %v\n%s", err, &out)
	}
}

func (v *vm) socket() string { return filepath.Join(v.dir, v.name) }

// kill is a power cut for QEMU.
func (v *vm) kill() {
	v.cmd.Process.Kill()
	v.gone()
}

// quit ends QEMU in good order.
func (v *vm) quit() {
	v.do("quit", nil)
	v.gone()
}

func (v *vm) gone() {
	<-v.exited
	v.mon.Close()
	v.mon = nil
}

func (v *vm) stop() {
	if v.mon != nil {
		v.kill()
	}
}

func (v *vm) do(command string, a args) json.RawMessage {
	v.t.Helper()
	var out json.RawMessage
	if err := v.mon.Execute(v.t.Context(), command, a, &out); err != nil {
		v.t.Fatal(err)
	}
	return out
}

// write is the guest writing.
func (v *vm) write(disk int, off, length int64, pattern byte) {
	v.t.Helper()
	im := v.images[disk]
	v.do("human-monitor-command", args{"command-line": fmt.Sprintf(`qemu-io drive-%s "write -P %d %d %d"`, im.id, pattern, off, length)})
	copy(im.want[off:], bytes.Repeat([]byte{pattern}, int(length)))
}

// want is what a disk holds now.
func (v *vm) want(disk int) []byte { return slices.Clone(v.images[disk].want) }

// describe writes the machine's descriptor.
func (v *vm) describe(dir string) {
	v.t.Helper()
	b, _ := json.Marshal(descriptor{Name: v.name, QMP: v.socket(), Agent: v.agent})
	if err := os.WriteFile(filepath.Join(dir, v.name+".json"), b, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// ours lists what of us is in QEMU, but bitmaps; each of those is listed once
// for all disks, with how many there are.
func (v *vm) ours() (things []string, bitmaps map[string]int) {
	v.t.Helper()
	var list []struct {
		ID       string        `json:"id"`
		NodeName string        `json:"node-name"`
		Bitmaps  []dirtyBitmap `json:"dirty-bitmaps"`
	}
	bitmaps = map[string]int{}
	for _, q := range []string{"query-block-exports", "query-jobs", "query-named-block-nodes"} {
		list = nil
		if err := json.Unmarshal(v.do(q, nil), &list); err != nil {
			v.t.Fatal(err)
		}
		for _, x := range list {
			if strings.HasPrefix(x.ID+x.NodeName, "cairn-") {
				things = append(things, x.ID+x.NodeName)
			}
			if q != "query-named-block-nodes" {
				continue
			}
			for _, b := range x.Bitmaps {
				bitmaps[b.Name]++
			}
		}
	}
	return things, bitmaps
}

// testbed is a source of a test's machines.
type testbed struct {
	*Source
	t   *testing.T
	dir string
}

func newSource(t *testing.T, vms ...*vm) *testbed {
	t.Helper()
	dir, err := os.MkdirTemp("", "qs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	machines := filepath.Join(dir, "m")
	if err := os.Mkdir(machines, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, v := range vms {
		v.describe(machines)
	}
	s, err := New(Options{Dir: machines, State: filepath.Join(dir, "s"), Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	return &testbed{s, t, machines}
}

// take takes a snapshot that is closed when the test ends.
func (b *testbed) take(v *vm, o source.SnapshotOptions) source.Snapshot {
	b.t.Helper()
	snap, err := b.Snapshot(b.t.Context(), v.name, o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { snap.Close() })
	return snap
}

// keep ends a snapshot as a backup that succeeded, and returns its checkpoint.
func (b *testbed) keep(snap source.Snapshot) string {
	b.t.Helper()
	if err := snap.Check(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if err := snap.Keep(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.drop(snap)
	return snap.Info().Checkpoint
}

func (b *testbed) drop(snap source.Snapshot) {
	b.t.Helper()
	if err := snap.Close(); err != nil {
		b.t.Fatal(err)
	}
}

// clean fails if anything of us is left but the bitmaps of one checkpoint on n
// disks.
func (b *testbed) clean(v *vm, checkpoint string, n int) {
	b.t.Helper()
	things, bitmaps := v.ours()
	if len(things) > 0 {
		b.t.Errorf("left in QEMU: %v", things)
	}
	got := 0
	for name, m := range bitmaps {
		if checkpoint == "" || !strings.HasPrefix(name, checkpoint+"-") {
			b.t.Errorf("left in QEMU: %d bitmaps %s", m, name)
		}
		got += m
	}
	if got != n {
		b.t.Errorf("%d bitmaps of checkpoint %s, want %d", got, checkpoint, n)
	}
	b.files()
	// There is no query for it.
	socket := filepath.Join(v.dir, "nbd")
	v.do("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": socket}}})
	v.do("nbd-server-stop", nil)
}

// files fails if there is anything in the state directory.
func (b *testbed) files() {
	b.t.Helper()
	left, _ := filepath.Glob(filepath.Join(b.state, "*"))
	if len(left) > 0 {
		b.t.Errorf("left on disk: %v", left)
	}
}

// apply reads a disk as a backup does that builds on base.
func apply(t *testing.T, d source.SnapshotDisk, base []byte) (now []byte, read int64) {
	t.Helper()
	now = make([]byte, d.Info().Size)
	if d.Incremental() {
		copy(now, base)
	}
	err := d.Extents(t.Context(), func(e source.Extent) error {
		part := now[e.Offset : e.Offset+e.Length]
		if e.Zero {
			clear(part)
			return nil
		}
		read += e.Length
		if _, err := d.ReadAt(part, e.Offset); err != nil && err != io.EOF {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return now, read
}

// same compares without printing megabytes.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
		}
	}
}

// tool runs a program of the package named pkg, which has to succeed.
func tool(t *testing.T, pkg, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is needed for this test: install the package %s", name, pkg)
	} else if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// warned fails unless there is a warning of that kind with these words in it.
func warned(t *testing.T, snap source.Snapshot, kind source.WarningKind, words ...string) {
	t.Helper()
	for _, w := range snap.Info().Warnings {
		ok := w.Kind == kind
		for _, word := range words {
			ok = ok && strings.Contains(w.Text, word)
		}
		if ok {
			return
		}
	}
	t.Errorf("no warning %d with %q among %+v", kind, words, snap.Info().Warnings)
}
