package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/client/source"
	"cairn/client/source/nbd"
	cairnv1 "cairn/proto/cairn/v1"
)

// restoreWorld has one point of two disks and a state file, and says what they
// were then; the machine has changed since.
func restoreWorld(t *testing.T) (w *world, was map[string][]byte) {
	f := twoDisks(t)
	f.files = []source.StateFile{{Name: "nvram", Path: "/var/nvram", Data: []byte("variables")}}
	w = newWorld(t, f)
	w.backedUp()
	was = cloneDisks(f.disks)
	f.write("vda", 0, []byte("changed since"))
	return w, was
}

func (w *world) restore(r *cairnv1.RestoreRequest) string {
	w.t.Helper()
	if r.Name == "" {
		r.Name = w.newest().GetName()
	}
	return must(w.c.Points.Restore(w.t.Context(), r))(w.t).GetJob().GetName()
}

func (w *world) restored(r *cairnv1.RestoreRequest) *cairnv1.Job {
	w.t.Helper()
	j := w.end(w.restore(r))
	if j.GetError() != nil || j.GetState() == cairnv1.JobState_JOB_STATE_CANCELLED {
		w.t.Fatalf("restore: %v, %v", j.GetState(), j.GetError())
	}
	return j
}

func newMachine(m *cairnv1.RestoreNewMachine) *cairnv1.RestoreRequest {
	return &cairnv1.RestoreRequest{Target: &cairnv1.RestoreRequest_NewMachine{NewMachine: m}}
}

func inPlace(m *cairnv1.RestoreInPlace) *cairnv1.RestoreRequest {
	return &cairnv1.RestoreRequest{Target: &cairnv1.RestoreRequest_InPlace{InPlace: m}}
}

func toDisks(d *cairnv1.RestoreDisks) *cairnv1.RestoreRequest {
	return &cairnv1.RestoreRequest{Target: &cairnv1.RestoreRequest_Disks{Disks: d}}
}

func titles(j *cairnv1.Job) (out []string) {
	for _, t := range j.GetTasks() {
		s := t.GetTitle()
		if t.GetState() != cairnv1.JobState_JOB_STATE_COMPLETED {
			s += " " + strings.TrimPrefix(t.GetState().String(), "JOB_STATE_")
		}
		out = append(out, s)
	}
	return out
}

func sameDisks(t *testing.T, got, want map[string][]byte) {
	t.Helper()
	for target, b := range want {
		if !bytes.Equal(got[target], b) {
			t.Errorf("disk %s is not what it was", target)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d disks, want %d", len(got), len(want))
	}
}

func TestRestoreNewMachine(t *testing.T) {
	w, was := restoreWorld(t)
	f := w.f
	j := w.restored(newMachine(&cairnv1.RestoreNewMachine{Title: "copy", Directory: "/new", Start: true}))
	m := f.machines["copy"]
	if m == nil || !m.running || len(m.files) != 1 || string(m.files[0].Data) != "variables" || m.files[0].Path != "/var/nvram" {
		t.Fatalf("machine %+v", m)
	}
	sameDisks(t, m.disks, was)
	sp := f.specs[0]
	if sp.New.Directory != "/new" || string(sp.Definition) != "<domain/>" || sp.DefinitionKind != "text/xml" || sp.ID == "" || sp.MachineID != "" ||
		sp.Disks[0].Path != "/images/vda" || sp.Disks[0].Format != "qcow2" || sp.Disks[0].Size != sizeA || sp.Disks[1].Data >= sizeB || sp.Disks[1].Data == 0 {
		t.Errorf("spec %+v", sp)
	}
	data := sp.Disks[0].Data + sp.Disks[1].Data
	if st := j.GetStats(); st.GetDiskBytes() != sizeA+sizeB || st.GetAllocatedBytes() != data || st.GetReadBytes() < data-grain || st.GetReadBytes() > data {
		t.Errorf("stats %v of %d bytes", st, data)
	}
	if got := titles(j); !slices.Equal(got, []string{taskRestore, taskStart}) || j.GetOutcome() != "machine copy is defined and started" {
		t.Errorf("tasks %q, outcome %q", got, j.GetOutcome())
	}
	// The name is taken now.
	if j = w.end(w.restore(newMachine(&cairnv1.RestoreNewMachine{Title: "copy"}))); j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_RESTORE_TARGET_EXISTS {
		t.Errorf("again: %v", j)
	}
	// Whatever fails, nothing stays.
	for _, step := range []string{"prepare", "disk vdb", "write vdb", "commit"} {
		f.mu.Lock()
		f.aborted = 0
		f.fail = failAt(step, fmt.Errorf("there: %w", source.ErrNoSpace))
		f.mu.Unlock()
		j = w.end(w.restore(newMachine(&cairnv1.RestoreNewMachine{Title: "other"})))
		want := 1
		if step == "prepare" {
			want = 0
		}
		if j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL || f.machines["other"] != nil || f.aborted != want {
			t.Errorf("%s fails: %v, aborted %d times", step, j.GetError(), f.aborted)
		}
	}
}

func failAt(step string, err error) func(string) error {
	return func(s string) error {
		if s == step {
			return err
		}
		return nil
	}
}

// TestRestoreCancelled: at once, and everything is undone.
func TestRestoreCancelled(t *testing.T) {
	w, _ := restoreWorld(t)
	f := w.f
	for _, r := range []struct {
		step string
		req  *cairnv1.RestoreRequest
	}{
		{"write vda", newMachine(&cairnv1.RestoreNewMachine{Title: "copy"})},
		{"settle", newMachine(&cairnv1.RestoreNewMachine{Title: "copy", Instant: true})},
		{"write vda", inPlace(&cairnv1.RestoreInPlace{StopMachine: true})},
	} {
		reached, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		f.mu.Lock()
		f.aborted, f.started = 0, 0
		f.fail = func(s string) error {
			if s == r.step && s != "settle" {
				once.Do(func() { close(reached) })
				<-goOn
				return errors.New("closed")
			}
			return nil
		}
		// What fails of its own accord just before the cancellation arrives keeps
		// the machine; so this fails because of it.
		f.settling = func(ctx context.Context) error {
			once.Do(func() { close(reached) })
			<-ctx.Done()
			return ctx.Err()
		}
		f.mu.Unlock()
		before := cloneDisks(f.disks)
		job := w.restore(r.req)
		<-reached
		must(w.c.Jobs.CancelJob(t.Context(), &cairnv1.CancelJobRequest{Name: job}))(t)
		close(goOn)
		if j := w.end(job); j.GetState() != cairnv1.JobState_JOB_STATE_CANCELLED || f.aborted != 1 || f.machines["copy"] != nil {
			t.Errorf("%s: %v, aborted %d times, machines %v", r.step, j, f.aborted, f.machines)
		}
		sameDisks(t, f.disks, before)
		if f.state != source.StateRunning {
			t.Errorf("%s: the machine is %v", r.step, f.state)
		}
	}
	// The point is not held any more: with a newer one it can go.
	f.mu.Lock()
	f.fail = nil
	f.mu.Unlock()
	old := w.newest().GetName()
	w.backedUp()
	must(w.c.Points.DeleteRecoveryPoint(t.Context(), &cairnv1.DeleteRecoveryPointRequest{Name: old}))(t)
}

// TestRestoreInstant: the machine runs when a few blocks have been read.
func TestRestoreInstant(t *testing.T) {
	w, was := restoreWorld(t)
	f := w.f
	reached, goOn := make(chan struct{}), make(chan struct{})
	f.fail = func(s string) error {
		if s == "settle" {
			close(reached)
			<-goOn
		}
		return nil
	}
	job := w.restore(newMachine(&cairnv1.RestoreNewMachine{Title: "copy", Instant: true}))
	<-reached
	running := w.until(job, func(j *cairnv1.Job) bool {
		return len(j.GetTasks()) == 2 && j.GetTasks()[0].GetTitle() == taskStart && j.GetTasks()[0].GetEndTime() != nil && strings.Contains(j.GetOutcome(), "runs")
	})
	f.mu.Lock()
	if m := f.machines["copy"]; m == nil || !m.running || len(m.disks) != 0 {
		t.Errorf("machine %+v", m)
	}
	f.mu.Unlock()
	if running.GetStats().GetReadBytes() > 2*512 || running.GetEndTime() != nil {
		t.Errorf("it runs after %v", running)
	}
	close(goOn)
	j := w.end(job)
	if j.GetState() != cairnv1.JobState_JOB_STATE_COMPLETED || !strings.Contains(j.GetOutcome(), "in place") || j.GetStats().GetReadBytes() < sizeA+sizeB {
		t.Errorf("job %v", j)
	}
	sameDisks(t, f.machines["copy"].disks, was)
	// A machine that cannot get its data is kept: a retry goes on with it.
	f.fail = failAt("settle", errors.New("no"))
	job = w.restore(newMachine(&cairnv1.RestoreNewMachine{Title: "other", Instant: true}))
	kept := func(j *cairnv1.Job, reason cairnv1.ErrorReason) *fakeMachine {
		f.mu.Lock()
		defer f.mu.Unlock()
		m := f.machines["other"]
		if j.GetError().GetReason() != reason || m == nil || !m.waiting || f.aborted != 0 || !strings.Contains(j.GetOutcome(), "other is kept") {
			t.Fatalf("job %v, machine %+v, aborted %d times", j, m, f.aborted)
		}
		return m
	}
	m := kept(w.end(job), cairnv1.ErrorReason_ERROR_REASON_TRANSFER_FAILED)
	f.fail = nil
	// So it is when the agent is stopped.
	reached = make(chan struct{})
	f.settling = func(ctx context.Context) error {
		close(reached)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	job = must(w.c.Jobs.RetryJob(t.Context(), &cairnv1.RetryJobRequest{Name: job}))(t).GetJob().GetName()
	<-reached
	w.stopAgent()
	kept(w.end(job), cairnv1.ErrorReason_ERROR_REASON_INTERRUPTED)
	f.settling = nil
	w.startAgent()
	retry := must(w.c.Jobs.RetryJob(t.Context(), &cairnv1.RetryJobRequest{Name: job}))(t).GetJob().GetName()
	if j := w.end(retry); j.GetState() != cairnv1.JobState_JOB_STATE_COMPLETED || f.machines["other"] != m {
		t.Errorf("retry: %v", j)
	}
	sameDisks(t, m.disks, was)
}

// TestRestoreInPlace: refused while it runs, unless it may be stopped; then there
// is a safety point, the point's disks, and the machine runs again.
func TestRestoreInPlace(t *testing.T) {
	w, was := restoreWorld(t)
	f := w.f
	point := w.newest().GetName()
	now := cloneDisks(f.disks)
	if j := w.end(w.restore(inPlace(&cairnv1.RestoreInPlace{}))); j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE || f.stopped != 0 || len(w.points()) != 1 {
		t.Errorf("while it runs: %v", j)
	}
	for _, step := range []string{"prepare", "disk vda", "write vdb", "commit"} {
		f.mu.Lock()
		f.stopped, f.started = 0, 0
		f.fail = failAt(step, errors.New("no"))
		f.mu.Unlock()
		j := w.end(w.restore(&cairnv1.RestoreRequest{Name: point, Target: inPlace(&cairnv1.RestoreInPlace{StopMachine: true}).Target}))
		if j.GetError() == nil || f.stopped != 1 || f.started != 1 || f.state != source.StateRunning || !strings.Contains(j.GetOutcome(), "old disks") {
			t.Errorf("%s fails: %v, stopped %d, started %d times, %v", step, j, f.stopped, f.started, f.state)
		}
		sameDisks(t, f.disks, now)
	}
	f.mu.Lock()
	f.fail = nil
	f.mu.Unlock()
	before := len(w.points())
	j := w.restored(&cairnv1.RestoreRequest{Name: point, Target: inPlace(&cairnv1.RestoreInPlace{StopMachine: true}).Target})
	if got := titles(j); !slices.Equal(got, []string{taskStop, taskSafety, taskRestore, taskStart}) || f.state != source.StateRunning || len(w.points()) != before+1 {
		t.Errorf("tasks %q, %v, %d points", got, f.state, len(w.points()))
	}
	sameDisks(t, f.disks, was)
	safety := w.newest()
	w.holds(safety, now)
	if safety.GetJob() != j.GetName() || safety.GetConsistency() != cairnv1.ConsistencyClass_CONSISTENCY_CLASS_CRASH_CONSISTENT {
		t.Errorf("safety point %v", safety)
	}
	if j.GetStats().GetFrozen() != nil || j.GetStats().GetNewBytes() != 0 {
		t.Errorf("stats %v", j.GetStats())
	}
	// A machine that is off stays off; one that is gone is made anew.
	f.mu.Lock()
	f.state = source.StateStopped
	f.mu.Unlock()
	if j := w.restored(&cairnv1.RestoreRequest{Name: point, Target: inPlace(nil).Target}); f.state != source.StateStopped || !slices.Equal(titles(j), []string{taskSafety, taskRestore}) {
		t.Errorf("off: %v, %q", f.state, titles(j))
	}
	f.mu.Lock()
	f.gone, f.disks = true, map[string][]byte{}
	f.mu.Unlock()
	n := len(w.points())
	j = w.restored(&cairnv1.RestoreRequest{Name: point, Target: inPlace(&cairnv1.RestoreInPlace{Start: true}).Target})
	if f.gone || f.state != source.StateRunning || len(w.points()) != n || len(warned(j, cairnv1.ErrorReason_ERROR_REASON_MACHINE_GONE)) != 1 || !slices.Equal(titles(j), []string{taskRestore, taskStart}) {
		t.Errorf("gone: %v, %q, %v", f.state, titles(j), j)
	}
	sameDisks(t, f.disks, was)
}

// TestRestoreDisks: to files of both formats and to volumes; a restore that fails
// leaves no file.
func TestRestoreDisks(t *testing.T) {
	w, was := restoreWorld(t)
	dir := filepath.Join(t.TempDir(), "new")
	j := w.restored(toDisks(&cairnv1.RestoreDisks{Directory: dir}))
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", st.Mode(), err)
	}
	for target, want := range was {
		if got, err := os.ReadFile(filepath.Join(dir, target+".raw")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("disk %s: %v", target, err)
		}
	}
	if !strings.Contains(j.GetOutcome(), dir+"/vda.raw") || !slices.Equal(titles(j), []string{taskRestore}) {
		t.Errorf("outcome %q, tasks %q", j.GetOutcome(), titles(j))
	}
	w.restored(toDisks(&cairnv1.RestoreDisks{Directory: dir, Format: "qcow2", Targets: []string{"vdb"}}))
	raw := filepath.Join(dir, "raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", dir+"/vdb.qcow2", raw).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (package qemu-utils): %v\n%s", err, out)
	}
	if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, was["vdb"]) {
		t.Errorf("qcow2: %v", err)
	}
	if _, err := os.Stat(dir + "/vda.qcow2"); err == nil {
		t.Error("a disk that was not asked for was restored")
	}

	// A volume, larger than the disk; the other disk goes to a file.
	volume := filepath.Join(t.TempDir(), "volume")
	old := bytes.Repeat([]byte{7}, sizeA+5000)
	if err := os.WriteFile(volume, old, 0o640); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "more")
	w.restored(toDisks(&cairnv1.RestoreDisks{Directory: other, Volumes: map[string]string{"vda": volume}}))
	if got, err := os.ReadFile(volume); err != nil || !bytes.Equal(got[:sizeA], was["vda"]) || !bytes.Equal(got[sizeA:], old[sizeA:]) {
		t.Errorf("the volume is not what the disk was: %v", err)
	}
	if _, err := os.Stat(other + "/vda.raw"); err == nil {
		t.Error("the disk of a volume was written to a file, too")
	}
	if j := w.end(w.restore(toDisks(&cairnv1.RestoreDisks{Volumes: map[string]string{"vdb": volume}, Targets: []string{"vdb"}}))); j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL {
		t.Errorf("a volume that is too small: %v", j)
	}

	// vdb.raw is there: vda.raw, which is complete by then, goes again.
	third := t.TempDir()
	if err := os.WriteFile(third+"/vdb.raw", []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if j := w.end(w.restore(toDisks(&cairnv1.RestoreDisks{Directory: third}))); j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_RESTORE_TARGET_EXISTS {
		t.Errorf("over a file: %v", j)
	}
	if left, _ := os.ReadDir(third); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestRestoreSurvivesServerRestart: reads wait for the server.
func TestRestoreSurvivesServerRestart(t *testing.T) {
	w, was := restoreWorld(t)
	f := w.f
	reached, goOn := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	f.fail = func(s string) error {
		if s == "disk vdb" && !first.Swap(true) {
			close(reached)
			<-goOn
		}
		return nil
	}
	job := w.restore(newMachine(&cairnv1.RestoreNewMachine{Title: "copy"}))
	<-reached
	w.stopServer()
	close(goOn)
	w.startServer()
	if j := w.end(job); j.GetError() != nil {
		t.Fatalf("job %v", j.GetError())
	}
	sameDisks(t, f.machines["copy"].disks, was)
}

// TestRestoreUnsupported: a source that defines no machines still writes disks.
func TestRestoreUnsupported(t *testing.T) {
	w, _ := restoreWorld(t)
	w.stopAgent()
	w.src = struct{ source.Source }{w.f}
	w.startAgent()
	for _, r := range []*cairnv1.RestoreRequest{newMachine(&cairnv1.RestoreNewMachine{Title: "copy"}), inPlace(&cairnv1.RestoreInPlace{StopMachine: true})} {
		if j := w.end(w.restore(r)); j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED || j.GetError().GetRemedy() == "" || len(w.points()) != 1 {
			t.Errorf("%v", j)
		}
	}
	w.restored(toDisks(&cairnv1.RestoreDisks{Directory: t.TempDir()}))
}

// TestStopFails: a machine that could not be stopped runs on.
func TestStopFails(t *testing.T) {
	w, _ := restoreWorld(t)
	w.f.fail = failAt("stop", source.ErrHypervisor)
	j := w.end(w.restore(inPlace(&cairnv1.RestoreInPlace{StopMachine: true})))
	if j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_HYPERVISOR_UNREACHABLE || w.f.state != source.StateRunning || len(w.points()) != 1 || len(w.f.specs) != 0 {
		t.Errorf("%v", j)
	}
}

// countingReader counts what is fetched from the vault.
type countingReader struct {
	diskmap.BlockReader
	blocks atomic.Int64
}

func (r *countingReader) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	r.blocks.Add(int64(len(ds)))
	return r.BlockReader.ReadBlocks(ctx, ds)
}

// TestBackingOverNBD: a disk in the vault is what QEMU reads over NBD; a little
// of it takes a few blocks, its holes take none, and reads end with the job.
func TestBackingOverNBD(t *testing.T) {
	w, was := restoreWorld(t)
	p := w.newest()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	exports := map[string]nbd.Export{}
	r := &countingReader{BlockReader: w.c.Reader(p.GetName())}
	var given atomic.Int64
	for _, d := range p.GetDisks() {
		im := diskmap.NewImage(r, must(client.Map(d))(t), diskmap.ImageOptions{})
		defer im.Close()
		exports[d.GetTarget()] = nbd.Export{Data: backing{im, ctx, &given}}
	}
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	serveCtx, stop := context.WithCancel(t.Context())
	go func() { served <- nbd.NewServer(exports).Serve(serveCtx, l) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	c, err := nbd.Dial(t.Context(), "unix", dir+"/s", nbd.Options{Export: "vda", Contexts: []string{nbd.BaseAllocation}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, 512)
	if _, err := c.ReadAt(got, 3*grain); err != nil || !bytes.Equal(got, was["vda"][3*grain:][:512]) || given.Load() != 512 || r.blocks.Load() > 1+2 {
		t.Errorf("%v; %d bytes given, %d blocks and pages read", err, given.Load(), r.blocks.Load())
	}
	r.blocks.Store(0)
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///vdb?socket="+dir+"/s", raw).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (package qemu-utils): %v\n%s", err, out)
	}
	if b, err := os.ReadFile(raw); err != nil || !bytes.Equal(b, was["vdb"]) || r.blocks.Load() > 30 {
		t.Errorf("%v; %d blocks and pages read", err, r.blocks.Load())
	}
	cancel()
	if _, err := c.ReadAt(got, 30*grain); err == nil {
		t.Error("a read went on after the job")
	}
}
