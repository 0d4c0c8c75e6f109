package server

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// reclaim starts a reclaim and gives the job as it ends.
func (w *world) reclaim(dry bool) *pb.Job {
	w.t.Helper()
	j := must[*pb.ReclaimVaultResponse](w.t)(w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault, DryRun: dry})).Job
	if j.Operation != pb.JobOperation_JOB_OPERATION_RECLAIM || j.State != pb.JobState_JOB_STATE_IN_PROGRESS || j.DryRun != dry || j.Scheduled {
		w.t.Errorf("job %v", j)
	}
	return w.endOf(j.Name)
}

// endOf gives a job as it ends.
func (w *world) endOf(name string) *pb.Job {
	w.t.Helper()
	w.waitForEnd(name)
	return w.getJob(name)
}

// reclaims are the RECLAIM jobs of the vault, newest first.
func (w *world) reclaims() []*pb.Job {
	w.t.Helper()
	return must[*pb.ListJobsResponse](w.t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault, Filter: &pb.JobFilter{
		Operations: []pb.JobOperation{pb.JobOperation_JOB_OPERATION_RECLAIM},
	}})).Jobs
}

func (w *world) blockCount() int64 {
	w.t.Helper()
	return must[*pb.GetVaultUsageResponse](w.t)(w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault})).Usage.BlockCount
}

func TestReclaimVault(t *testing.T) {
	w := dataWorld(t, inMemory())
	a := newTestDisk("vda", 20<<20).fill(1, span(0, 300)...)
	b := a.clone().fill(2, span(100, 200)...)
	old := w.backUp("", day, []*testDisk{a}, nil)
	p := w.backUp("", day.Add(time.Hour), []*testDisk{b}, nil)
	if j := w.reclaim(false); j.State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.GarbageBlocks != 0 || !strings.Contains(j.Outcome, "every block is needed") {
		t.Errorf("nothing to do: %v", j)
	}
	before := w.blockCount()
	if err := w.deletePoint(old.Name); err != nil {
		t.Fatal(err)
	}

	dry := w.reclaim(true)
	if dry.State != pb.JobState_JOB_STATE_COMPLETED || len(dry.Tasks) != 1 || dry.Tasks[0].State != pb.JobState_JOB_STATE_COMPLETED ||
		dry.Stats.GarbageBlocks < 100 || dry.Stats.GarbageBytes == 0 || dry.Stats.ReclaimedBytes != 0 || !strings.Contains(dry.Outcome, "would come back") {
		t.Errorf("dry run: %v", dry)
	}
	if n := w.blockCount(); n != before {
		t.Errorf("%d blocks after a dry run, %d before", n, before)
	}
	j := w.reclaim(false)
	if j.State != pb.JobState_JOB_STATE_COMPLETED || len(j.Tasks) != 2 || j.Tasks[1].State != pb.JobState_JOB_STATE_COMPLETED ||
		j.Tasks[0].EndTime == nil || j.Stats.GarbageBlocks != dry.Stats.GarbageBlocks || j.Stats.GarbageBytes != dry.Stats.GarbageBytes ||
		j.Stats.ReclaimedBytes < j.Stats.GarbageBytes*9/10 || !strings.Contains(j.Outcome, "freed") {
		t.Errorf("reclaim: %v", j)
	}
	if n := w.blockCount(); n != before-j.Stats.GarbageBlocks {
		t.Errorf("%d blocks, %d before, %d were garbage", n, before, j.Stats.GarbageBlocks)
	}
	w.checkDisk(p, 0, b)
	v, release, err := w.s.vaults.use(VaultName{"default", "v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if last, ok, err := v.lastReclaim(); err != nil || !ok || last.Job != j.Name || last.GarbageBlocks != j.Stats.GarbageBlocks {
		t.Errorf("record of the last reclaim: %+v, %v, %v", last, ok, err)
	}
}

// TestReclaimWhileBackingUp: what an upload has found and sent stays.
func TestReclaimWhileBackingUp(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 20<<20).fill(1, span(0, 200)...)
	old := w.backUp("", day, []*testDisk{d}, nil)
	w.backUp("", day.Add(time.Hour), []*testDisk{newTestDisk("vda", 20<<20).fill(7, 1)}, nil)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	w.sendMissing(up.UploadToken, d, span(0, 100))
	if err := w.deletePoint(old.Name); err != nil {
		t.Fatal(err)
	}
	if j := w.reclaim(false); j.Stats.GarbageBlocks < 100 || j.Stats.GarbageBlocks > 110 {
		t.Errorf("reclaim: %v", j)
	}
	w.sendMissing(up.UploadToken, d, span(0, 200))
	m := must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
	if j := w.reclaim(false); j.Stats.GarbageBlocks != 0 {
		t.Errorf("reclaim: %v", j)
	}
	p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{
		UploadToken: up.UploadToken, SnapshotTime: timestamppb.New(day.Add(2 * time.Hour)), RootDigests: [][]byte{m.RootDigest},
		Consistency: pb.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT, MachineDefinition: []byte("<domain/>"), MachineDefinitionType: "application/xml",
	})).RecoveryPoint
	w.checkDisk(p, 0, d)
}

// TestReclaimOnce: a second one is refused while one runs, one can be cancelled,
// and a request happens once.
func TestReclaimOnce(t *testing.T) {
	o := inMemory()
	w := dataWorld(t, o)
	d := newTestDisk("vda", 20<<20).fill(1, span(0, 50)...)
	w.backUp("", day, []*testDisk{d}, nil)
	v, release, err := w.s.vaults.use(VaultName{"default", "v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	v.reclaim.mu.Lock()
	v.reclaim.job = vault + "/jobs/other"
	v.reclaim.mu.Unlock()
	for _, dry := range []bool{true, false} {
		_, err = w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault, DryRun: dry})
		info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS)
		if info.Metadata["job"] != vault+"/jobs/other" {
			t.Errorf("metadata %v", info.Metadata)
		}
	}
	v.reclaim.mu.Lock()
	v.reclaim.job = ""
	v.reclaim.mu.Unlock()

	r := &pb.ReclaimVaultRequest{Name: vault, RequestId: "r-1"}
	first := must[*pb.ReclaimVaultResponse](t)(w.vaults.ReclaimVault(w.ctx, r)).Job
	w.endOf(first.Name)
	if again := must[*pb.ReclaimVaultResponse](t)(w.vaults.ReclaimVault(w.ctx, r)).Job; again.Name != first.Name {
		t.Errorf("the same request made %s and %s", first.Name, again.Name)
	}
	_, err = w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault, RequestId: "r-1", DryRun: true})
	wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED)
	if n := len(w.reclaims()); n != 1 {
		t.Errorf("%d jobs", n)
	}

	_, err = w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: sub + "/vaults/none"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	_, err = w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: "x"})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_NAME)
}

// TestReclaimDue: the server reclaims by itself, a day after the last time, when
// points were deleted.
func TestReclaimDue(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	pass := func(d time.Duration) {
		w.clock.mu.Lock()
		defer w.clock.mu.Unlock()
		w.clock.now = w.clock.now.Add(d)
	}
	tend := func(d time.Duration, jobs int) {
		t.Helper()
		pass(d)
		w.s.do(w.ctx, w.s.chores[choreReclaim])
		js := w.reclaims()
		if len(js) != jobs {
			t.Fatalf("%d reclaims, want %d: %v", len(js), jobs, js)
		}
		for _, j := range js {
			w.endOf(j.Name)
		}
	}
	a := newTestDisk("vda", 20<<20).fill(1, span(0, 100)...)
	old := w.backUp("", w.clock.Now(), []*testDisk{a}, nil)
	pass(time.Hour)
	w.backUp("", w.clock.Now(), []*testDisk{newTestDisk("vda", 20<<20).fill(2, 1)}, nil)
	tend(22*time.Hour, 0)
	tend(time.Hour, 1)    // a server that was just opened does not know
	tend(48*time.Hour, 1) // nothing was deleted
	if err := w.deletePoint(old.Name); err != nil {
		t.Fatal(err)
	}
	tend(0, 2)
	j := w.reclaims()[0]
	if !j.Scheduled || j.State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.GarbageBlocks < 100 {
		t.Errorf("automatic reclaim %v", j)
	}
	tend(24*time.Hour, 2)

	// One that fails is tried again in an hour.
	old = w.backUp("", w.clock.Now(), []*testDisk{a}, nil)
	pass(time.Minute)
	w.backUp("", w.clock.Now(), []*testDisk{newTestDisk("vda", 20<<20).fill(2, 1)}, nil)
	if err := w.deletePoint(old.Name); err != nil {
		t.Fatal(err)
	}
	v, release, err := w.s.vaults.use(VaultName{"default", "v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := v.Store.Apply(w.ctx, blockstore.Mutation{Key: reclaimedRecord, Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	v.reclaim.mu.Lock()
	v.reclaim.tried = w.clock.Now()
	v.reclaim.mu.Unlock()
	tend(59*time.Minute, 2)
	tend(time.Minute, 3)
}

// TestItemBytes: what items take is told until points change.
func TestItemBytes(t *testing.T) {
	w := dataWorld(t, inMemory())
	v, release, err := w.s.vaults.use(VaultName{"default", "v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if got, err := w.s.itemBytes(w.ctx, v); err != nil || len(got) != 0 {
		t.Errorf("an empty vault: %v, %v", got, err)
	}
	d := newTestDisk("vda", 20<<20).fill(1, span(0, 100)...)
	w.backUp("", day, []*testDisk{d}, nil)
	got, err := w.s.itemBytes(w.ctx, v)
	st, serr := v.Store.Stats()
	if err != nil || serr != nil || len(got) != 1 || got["web1"] != (blockstore.GroupUsage{Points: 1, UniqueBytes: int64(st.StoredBytes)}) {
		t.Errorf("one item: %v, %v; stored %d", got, err, st.StoredBytes)
	}
	w.backUp("", day.Add(time.Hour), []*testDisk{d}, nil)
	if got, err := w.s.itemBytes(w.ctx, v); err != nil || got["web1"].Points != 2 {
		t.Errorf("two points: %v, %v", got, err)
	}
}

// TestReclaimFull: a vault that refuses to be written for lack of space can be
// reclaimed.
func TestReclaimFull(t *testing.T) {
	disk := &smallDisk{vfs.NewMem(), 1 << 30}
	w := dataWorld(t, Options{FS: disk, Dir: "data"})
	old := w.backUp("", day, []*testDisk{newTestDisk("vda", 20<<20).fill(1, span(0, 100)...)}, nil)
	keep := newTestDisk("vda", 20<<20).fill(2, 1)
	p := w.backUp("", day.Add(time.Hour), []*testDisk{keep}, nil)
	disk.free = minFree / 2
	if err := w.deletePoint(old.Name); err != nil {
		t.Fatal(err)
	}
	if j := w.reclaim(false); j.State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.GarbageBlocks < 100 || j.Stats.ReclaimedBytes < j.Stats.GarbageBytes*9/10 {
		t.Errorf("reclaim: %v", j)
	}
	w.checkDisk(p, 0, keep)
}

// TestReclaimCancelled: a reclaim ends where it is, and the next one goes on.
func TestReclaimCancelled(t *testing.T) {
	mem := vfs.NewMem()
	var armed atomic.Bool
	reached, goOn := make(chan struct{}), make(chan struct{})
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "/index/") && armed.CompareAndSwap(true, false) {
			close(reached)
			<-goOn
		}
		return nil
	}))
	w := dataWorld(t, Options{FS: fs, Dir: "data"})
	old := w.backUp("", day, []*testDisk{newTestDisk("vda", 20<<20).fill(1, span(0, 100)...)}, nil)
	w.backUp("", day.Add(time.Hour), []*testDisk{newTestDisk("vda", 20<<20).fill(2, 1)}, nil)
	if err := w.deletePoint(old.Name); err != nil {
		t.Fatal(err)
	}
	before := w.blockCount()
	armed.Store(true)
	j := must[*pb.ReclaimVaultResponse](t)(w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault})).Job
	<-reached
	_, err := w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault, DryRun: true})
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS); info.Metadata["job"] != j.Name {
		t.Errorf("metadata %v", info.Metadata)
	}
	w.cancelJob(j.Name)
	close(goOn)
	if j := w.endOf(j.Name); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("cancelled: %v", j)
	}
	if n := w.blockCount(); n != before {
		t.Errorf("%d blocks, %d before", n, before)
	}
	if j := w.reclaim(false); j.State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.GarbageBlocks < 100 {
		t.Errorf("the next one: %v", j)
	}
}

// An empty vault can be deleted while it is reclaimed: that ends with it.
func TestDeleteVaultThatIsReclaimed(t *testing.T) {
	w := newWorld(t, inMemory())
	w.createVault("v1", nil)
	ended := make(chan error, 1)
	must[*pb.Job](t)(w.s.jobs.Start(job.Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_RECLAIM}, func(r *job.Run) error {
		<-r.Context().Done()
		ended <- context.Cause(r.Context())
		return r.Context().Err()
	}))
	must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
	if err := <-ended; !errors.Is(err, job.ErrCancelled) {
		t.Errorf("the reclaim ended with %v", err)
	}
}
