package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

const trackingReset = cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET

const (
	sizeA = 40*grain + 1000
	sizeB = 128 * grain
)

// twoDisks is a fake with a disk of data and one with a hole.
func twoDisks(t *testing.T) *fake {
	f := newFake()
	f.disks["vda"] = randomBytes(t, sizeA)
	f.disks["vdb"] = make([]byte, sizeB)
	copy(f.disks["vdb"][64*grain:], randomBytes(t, 100_000))
	return f
}

// TestIncremental: only what changed is read, and a few blocks more; the sizes
// told are those of the disks, not of the changes.
func TestIncremental(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	j, p := w.backedUp()
	if o := f.taken[0]; o.Since != "" || o.Continues {
		t.Errorf("first snapshot %+v", o)
	}
	if p.GetCheckpoint() != "cp1" || len(j.GetWarnings()) > 0 || j.GetStats().GetTrackedBytes() != 0 || j.GetStats().GetSampledBytes() != 0 {
		t.Errorf("first point: checkpoint %q, warnings %v, stats %v", p.GetCheckpoint(), j.GetWarnings(), j.GetStats())
	}
	allocated := j.GetStats().GetAllocatedBytes()
	f.write("vda", 20*grain+5, []byte("changed"))
	f.write("vdb", 64*grain, make([]byte, 2*grain)) // zeros now
	f.readAll.Store(0)
	j, p = w.backedUp()
	if o := f.taken[1]; o.Since != "cp1" || !o.Continues || o.Minimum != source.CrashConsistent {
		t.Errorf("second snapshot %+v", o)
	}
	st := j.GetStats()
	samples := int64(3 * grain) // no more than has changed
	if st.GetTrackedBytes() != 3*grain || st.GetSampledBytes() > samples || st.GetSampledBytes() < samples-grain || st.GetReadBytes() != f.readAll.Load() ||
		st.GetReadBytes() != grain+st.GetSampledBytes() || p.GetCheckpoint() != "cp2" || len(j.GetWarnings()) > 0 {
		t.Errorf("checkpoint %q, read %d, stats %v, warnings %v", p.GetCheckpoint(), f.readAll.Load(), st, j.GetWarnings())
	}
	if st.GetAllocatedBytes() != allocated-2*grain || st.GetDiskBytes() != sizeA+sizeB || st.GetChangedBlocks() != 3 || st.GetFrozen().AsDuration() == 0 {
		t.Errorf("stats %v after %d bytes allocated", st, allocated)
	}
	item := must(w.c.Items.GetProtectedItem(t.Context(), &cairnv1.GetProtectedItemRequest{Name: testItem}))(t).GetProtectedItem()
	if item.GetProtectedBytes() != st.GetAllocatedBytes() {
		t.Errorf("protected bytes %d, want %d", item.GetProtectedBytes(), st.GetAllocatedBytes())
	}
	// What the source says of its tracking is a warning of the job, and all is read.
	f.mu.Lock()
	f.points = nil
	f.mu.Unlock()
	if j, _ = w.backedUp(); len(warned(j, trackingReset)) != 1 || warned(j, trackingReset)[0].GetRemedy() == "" || j.GetStats().GetTrackedBytes() != 0 {
		t.Errorf("without checkpoints: %v, %v", j.GetWarnings(), j.GetStats())
	}
}

// TestTrackingLies: a change that the source does not tell of is found by the
// sample; the disk is read in full and the point is right.
func TestTrackingLies(t *testing.T) {
	f := twoDisks(t)
	f.disks["vda"] = f.disks["vda"][:sampleLeast*grain] // every block is in the sample
	w := newWorld(t, f)
	w.backedUp()
	f.write("vda", 2*grain, []byte("nobody knows"))
	const known = 2 * sampleLeast * grain // so much that nothing is cut from the sample
	f.write("vdb", 100*grain, bytes.Repeat([]byte{'e'}, known))
	f.lie["vda"] = 2 * grain
	j, _ := w.backedUp()
	ws := warned(j, trackingReset)
	if len(ws) != 1 || ws[0].GetMetadata()["disk"] != "vda" || ws[0].GetMetadata()["offset"] != fmt.Sprint(2*grain) || len(j.GetWarnings()) != 1 {
		t.Fatalf("warnings %v", j.GetWarnings())
	}
	if st := j.GetStats(); st.GetTrackedBytes() != known || st.GetReadBytes() < sampleLeast*grain+known+st.GetSampledBytes() {
		t.Errorf("stats %v", st)
	}
	delete(f.lie, "vda")
	if j, _ = w.backedUp(); len(j.GetWarnings()) > 0 || j.GetStats().GetTrackedBytes() != 0 || j.GetStats().GetSampledBytes() == 0 {
		t.Errorf("after that: %v, %v", j.GetWarnings(), j.GetStats())
	}
}

// TestMisfits: changes are not applied to a disk that the base has not, or has
// in another size.
func TestMisfits(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	w.backedUp()
	f.mu.Lock()
	f.disks["vda"] = append(f.disks["vda"], randomBytes(t, 50_000)...)
	f.disks["vdc"] = randomBytes(t, 100_000)
	f.points["cp1"]["vdc"] = make([]byte, 100_000) // a checkpoint it should not have
	f.mu.Unlock()
	j, _ := w.backedUp()
	if ws := warned(j, trackingReset); len(ws) != 1 || ws[0].GetMetadata()["disk"] != "vda" {
		t.Errorf("warnings %v", j.GetWarnings())
	}
}

// noBase is a data plane whose points have been deleted.
type noBase struct {
	cairnv1.BlockServiceClient
	asked []string // base points
}

func (n *noBase) CreateUpload(_ context.Context, r *cairnv1.CreateUploadRequest, _ ...grpc.CallOption) (*cairnv1.CreateUploadResponse, error) {
	n.asked = append(n.asked, r.GetBaseRecoveryPoint())
	if r.GetBaseRecoveryPoint() == "" {
		return &cairnv1.CreateUploadResponse{UploadToken: "token"}, nil
	}
	st, err := status.New(codes.NotFound, "no such point").WithDetails(&errdetails.ErrorInfo{Domain: "cairn", Reason: cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND.String()})
	return nil, errors.Join(err, st.Err())
}

// TestBaseGone: the point to build on is deleted between the snapshot and the
// upload, so what changed since is of no use.
func TestBaseGone(t *testing.T) {
	f := twoDisks(t)
	f.points["cp1"] = cloneDisks(f.disks)
	snap := must(f.Snapshot(t.Context(), "m", source.SnapshotOptions{Since: "cp1"}))(t)
	defer snap.Close()
	blocks := &noBase{}
	j := &job{a: &agent{c: &client.Client{Blocks: blocks}}, report: &cairnv1.ReportJobRequest{}}
	b := &backup{j: j, w: &cairnv1.BackupWork{}, base: &cairnv1.RecoveryPoint{Name: "p1"}, snap: snap, measured: true}
	if _, err := b.startUpload(t.Context()); err != nil || b.token != "token" || !slices.Equal(blocks.asked, []string{"p1", ""}) {
		t.Fatalf("%v, token %q, asked for %q", err, b.token, blocks.asked)
	}
	for _, d := range snap.Disks() {
		if d.Incremental() {
			t.Errorf("disk %s is believed", d.Info().Target)
		}
	}
	if b.base != nil || b.measured || len(j.report.Warnings) != 2 || j.report.Warnings[0].Reason != trackingReset {
		t.Errorf("base %v, measured %t, warnings %v", b.base, b.measured, j.report.Warnings)
	}
}

// TestSnapshotLost: a backup whose snapshot went away begins again, at most
// twice, and what the lost one warned of is forgotten.
func TestSnapshotLost(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	lost := 2
	f.read = func(n int, _ string, _ int64) error {
		if n <= lost {
			return fmt.Errorf("disk: %w", source.ErrSnapshotLost)
		}
		return nil
	}
	f.take = func(_ context.Context, n int) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.warnings = []source.Warning{{Kind: source.WarnSnapshot, Text: fmt.Sprintf("of snapshot %d", n)}}
		return nil
	}
	j, p := w.backedUp()
	if len(f.taken) != 3 || len(warned(j, cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_LOST)) != 1 || len(j.GetWarnings()) != 2 ||
		j.GetWarnings()[1].GetMessage() != "of snapshot 3" || p.GetCheckpoint() != "cp3" {
		t.Errorf("%d snapshots, warnings %v", len(f.taken), j.GetWarnings())
	}
	lost = 100
	if j = w.end(w.backup()); j.GetError().GetReason() != cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_LOST || len(f.taken) != 6 || len(w.points()) != 1 || f.open.Load() != 0 {
		t.Errorf("%d snapshots, %v", len(f.taken), j)
	}
}

// TestDisconnected: a broken connection to the snapshot is waited for; the same
// snapshot goes on.
func TestDisconnected(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	var mu sync.Mutex
	left := 3
	f.read = func(int, string, int64) error {
		mu.Lock()
		defer mu.Unlock()
		if left > 0 {
			left--
			return fmt.Errorf("nbd: %w", source.ErrDisconnected)
		}
		return nil
	}
	w.backedUp()
	left = 3 // in the sample, too
	f.write("vda", 0, []byte("changed"))
	if j, _ := w.backedUp(); len(f.taken) != 2 || len(j.GetWarnings()) > 0 {
		t.Errorf("%d snapshots, warnings %v", len(f.taken), j.GetWarnings())
	}
}

// TestServerRestarts: the transfer goes on from the same snapshot after the
// server was gone, and no point comes twice.
func TestServerRestarts(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.read = func(_ int, target string, off int64) error {
		if target == "vdb" {
			once.Do(func() { close(reached); <-goOn })
		}
		return nil
	}
	job := w.backup()
	<-reached
	w.stopServer()
	close(goOn)
	w.startServer()
	if j := w.end(job); j.GetError() != nil {
		t.Fatalf("job %v", j.GetError())
	}
	if ps := w.points(); len(ps) != 1 || len(f.taken) != 1 {
		t.Errorf("%d points of %d snapshots", len(ps), len(f.taken))
	}
	w.holds(w.newest(), f.disks)
}

// TestConsistencyTooLow: the job says what was reached, what was wanted, and why.
func TestConsistencyTooLow(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	f.take = func(context.Context, int) error {
		return fmt.Errorf("machine m: %w", &source.ConsistencyError{Reached: source.CrashConsistent, Wanted: source.FileSystemConsistent,
			Causes: []source.Warning{{Kind: source.WarnAgent, Text: "the agent does not answer"}}})
	}
	j := w.end(w.backup())
	p := j.GetError()
	if p.GetReason() != cairnv1.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW || !strings.Contains(p.GetMessage(), "the agent does not answer") ||
		p.GetMetadata()["reached"] != "CONSISTENCY_CLASS_CRASH_CONSISTENT" || p.GetMetadata()["wanted"] != "CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT" ||
		p.GetMetadata()["cause"] != "ERROR_REASON_GUEST_AGENT_UNAVAILABLE" || !strings.Contains(p.GetRemedy(), "qemu-guest-agent") {
		t.Errorf("problem %v", p)
	}
	// A source that takes the snapshot all the same is not believed.
	f.mu.Lock()
	f.take, f.state = nil, source.StateStopped
	f.mu.Unlock()
	must(w.c.Items.UpdateProtectedItem(t.Context(), &cairnv1.UpdateProtectedItemRequest{
		ProtectedItem: &cairnv1.ProtectedItem{Name: testItem, MinimumConsistency: cairnv1.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT},
		UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"minimum_consistency"}}}))(t)
	j = w.end(w.backup())
	if p := j.GetError(); p.GetReason() != cairnv1.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW || p.GetMetadata()["cause"] != "" || j.GetStats().GetReadBytes() != 0 ||
		f.taken[1].Minimum != source.FileSystemConsistent || f.open.Load() != 0 {
		t.Errorf("off: %v", j)
	}
}

// TestStateFiles: they are in the point, apart from the disks, and count as none.
func TestStateFiles(t *testing.T) {
	f := twoDisks(t)
	f.files = []source.StateFile{
		{Name: "nvram", Kind: source.StateNVRAM, Path: "/var/nvram", Data: randomBytes(t, 300_000)},
		{Name: "tpm-0", Kind: source.StateTPM, Path: "/var/tpm", Data: []byte("state")},
		{Name: "tpm-1", Kind: source.StateTPM, Path: "/var/lock"},
	}
	w := newWorld(t, f)
	var sizes []int64
	for range 2 {
		j, p := w.backedUp()
		sizes = append(sizes, j.GetStats().GetAllocatedBytes(), j.GetStats().GetDiskBytes())
		if len(p.GetStateFiles()) != 3 || string(p.GetMachineDefinition()) != "<domain/>" || p.GetDisks()[0].GetPath() != "/images/vda" {
			t.Fatalf("point %v", p)
		}
		got := must(readStateFiles(t.Context(), w.c.Reader(p.GetName()), p.GetStateFiles()))(t)
		for i, want := range f.files {
			if g := got[i]; g.Name != want.Name || g.Kind != want.Kind || g.Path != want.Path || string(g.Data) != string(want.Data) {
				t.Errorf("state file %s: kind %v, path %s, %d bytes", g.Name, g.Kind, g.Path, len(g.Data))
			}
		}
	}
	if sizes[0] != sizes[2] || sizes[1] != sizeA+sizeB || sizes[3] != sizes[1] {
		t.Errorf("sizes %v", sizes)
	}
}

// TestCancel: in every phase, at once, and nothing is left.
func TestCancel(t *testing.T) {
	f := twoDisks(t)
	w := newWorld(t, f)
	w.backedUp()
	for _, phase := range []string{"snapshot", "sample", "transfer"} {
		t.Run(phase, func(t *testing.T) {
			reached := make(chan struct{})
			var once sync.Once
			stuck := make(chan struct{}) // closed when the snapshot's context ends
			f.mu.Lock()
			f.take, f.read = nil, nil
			if phase == "transfer" {
				f.points = nil
			}
			f.take = func(ctx context.Context, _ int) error {
				context.AfterFunc(ctx, func() { close(stuck) })
				if phase == "snapshot" {
					close(reached)
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return nil
			}
			f.read = func(int, string, int64) error {
				once.Do(func() { close(reached) })
				<-stuck
				return errors.New("closed")
			}
			f.mu.Unlock()
			job := w.backup()
			<-reached
			must(w.c.Jobs.CancelJob(t.Context(), &cairnv1.CancelJobRequest{Name: job}))(t)
			if j := w.end(job); j.GetState() != cairnv1.JobState_JOB_STATE_CANCELLED {
				t.Errorf("job %v", j)
			}
			if len(w.points()) != 1 || f.open.Load() != 0 {
				t.Errorf("%d points, %d snapshots left", len(w.points()), f.open.Load())
			}
		})
	}
	f.mu.Lock()
	f.take, f.read = nil, nil
	f.mu.Unlock()
	w.backedUp()
}
