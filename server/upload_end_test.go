package server

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
)

// waitJob follows a job until it has ended.
func (w *world) waitJob(name string) *pb.Job {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	stream, err := w.jobs.WatchJobs(ctx, &pb.WatchJobsRequest{Parent: vault})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Job.GetName() == name && r.Job.EndTime != nil {
			return r.Job
		}
	}
}

func TestUploadLease(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20).fill(1, 0)
	up := w.createUpload(&pb.CreateUploadRequest{LeaseDuration: durationpb.New(time.Second)}, d)
	// An idle stream does not keep it.
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: up.UploadToken, Blocks: []*pb.Block{wireBlock(d.blocks[0])}}); err != nil {
		t.Fatal(err)
	}
	j := w.waitJob(up.Job)
	if j.State != pb.JobState_JOB_STATE_FAILED || j.Error.Reason != pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED {
		t.Errorf("job %v", j)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED)
	for what, err := range w.allCalls(up.UploadToken) {
		t.Run(what, func(t *testing.T) {
			wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED)
		})
	}
}

// allCalls gives what each call that names an upload answers.
func (w *world) allCalls(token string) map[string]error {
	errs := map[string]error{}
	_, errs["resume"] = w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, ResumeToken: token})
	_, errs["renew"] = w.blocks.RenewUpload(w.ctx, &pb.RenewUploadRequest{UploadToken: token})
	_, errs["find"] = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: token})
	_, errs["upload"] = w.sendBlocks(token, nil)
	_, errs["map"] = w.writeMap(token, newTestDisk("vda", 1), nil)
	_, errs["commit"] = w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: token})
	_, errs["abort"] = w.blocks.AbortUpload(w.ctx, &pb.AbortUploadRequest{UploadToken: token})
	return errs
}

func TestCancelAndAbort(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	_, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}}})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS)
	must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: up.Job}))
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job %v", j)
	}
	for what, err := range w.allCalls(up.UploadToken) {
		t.Run(what, func(t *testing.T) { wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_CANCELLED) })
	}
	up = w.createUpload(&pb.CreateUploadRequest{}, d)
	must[*pb.AbortUploadResponse](t)(w.blocks.AbortUpload(w.ctx, &pb.AbortUploadRequest{UploadToken: up.UploadToken}))
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job %v", j)
	}
	for _, token := range []string{up.UploadToken, "no-such-token"} {
		for what, err := range w.allCalls(token) {
			t.Run(what, func(t *testing.T) {
				wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
			})
		}
	}
	for what, err := range w.allCalls("") {
		t.Run("no token, "+what, func(t *testing.T) {
			switch what {
			case "resume": // then it is a new upload, without disks
				wantField(t, err, "disks")
			case "map":
				wantField(t, err, "header.upload_token")
			default:
				wantField(t, err, "upload_token")
			}
		})
	}
}

func TestCommitTwice(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20).fill(1, 3)
	up := w.createUpload(&pb.CreateUploadRequest{}, d, newTestDisk("vdb", 5))
	commit := func(roots ...[]byte) (*pb.CommitUploadResponse, error) {
		return w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken, RootDigests: roots, Warnings: []*pb.Warning{
			{Reason: pb.ErrorReason_ERROR_REASON_FREEZE_FAILED, Message: "it would not freeze"},
		}})
	}
	w.sendMissing(up.UploadToken, d, d.indexes())
	root := must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil)).RootDigest
	_, err := commit()
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID); info.Metadata["disks"] != "vdb" {
		t.Errorf("metadata %v", info.Metadata)
	}
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, newTestDisk("vdb", 5), nil))
	_, err = commit(root)
	wantField(t, err, "root_digests")
	for _, at := range []*timestamppb.Timestamp{timestamppb.New(time.Now().AddDate(0, 0, 2)), {}, {Nanos: -1}} {
		at.Seconds--
		_, err = w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken, SnapshotTime: at})
		wantField(t, err, "snapshot_time")
	}
	_, err = commit(root, root)
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID); info.Metadata["disk"] != "vdb" {
		t.Errorf("metadata %v", info.Metadata)
	}
	points := make(chan *pb.RecoveryPoint)
	for range 4 { // at once
		go func() {
			points <- must[*pb.CommitUploadResponse](t)(commit(root, block.Zero[:])).RecoveryPoint
		}()
	}
	first := <-points
	for range 3 {
		if p := <-points; !proto.Equal(p, first) {
			t.Errorf("commits gave\n%v and\n%v", first, p)
		}
	}
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS || len(j.Warnings) != 1 || len(first.Warnings) != 1 {
		t.Errorf("job %v, point %v", j, first)
	}
	l := must[*pb.ListRecoveryPointsResponse](t)(w.points.ListRecoveryPoints(w.ctx, &pb.ListRecoveryPointsRequest{Parent: item1}))
	if len(l.RecoveryPoints) != 1 || l.NextPageToken != "" {
		t.Errorf("points %v", l)
	}
	_, err = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: up.UploadToken})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
}

// TestDrain: an open upload may finish while the server stops, another is
// abandoned, new ones are refused.
func TestDrainUploads(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", blockSize).fill(1, 0)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	w.sendMissing(up.UploadToken, d, d.indexes())
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() { w.s.DrainUploads(ctx); close(done) }()
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
	p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	<-done
	_, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}}})
	wantError(t, err, codes.Unavailable, pb.ErrorReason_ERROR_REASON_INTERRUPTED)
	jobs := must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault})).Jobs
	if e := jobs[0].Error; e.GetReason() != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job of the refused upload: %v", jobs[0])
	}
	cancel()
	w.restart()
	w.checkBytes(p, d)

	up = w.createUpload(&pb.CreateUploadRequest{}, d)
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: up.UploadToken}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // the stream is open
		t.Fatal(err)
	}
	w.s.DrainUploads(ctx)
	for err == nil {
		_, err = stream.Recv()
	}
	wantError(t, err, codes.Unavailable, pb.ErrorReason_ERROR_REASON_INTERRUPTED)
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_FAILED || j.Error.Reason != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job %v", j)
	}
}

// tightFS says how much space is free.
type tightFS struct {
	vfs.FS
	free *atomic.Uint64
}

func (fs tightFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: fs.free.Load(), TotalBytes: 1 << 40}, nil
}

// TestUploadToFullDisk: an upload to a full disk fails and goes on when there is space.
func TestUploadToFullDisk(t *testing.T) {
	fs := tightFS{vfs.NewMem(), new(atomic.Uint64)}
	fs.free.Store(1 << 40)
	w := dataWorld(t, Options{FS: fs, Dir: "data"})
	d := newTestDisk("vda", 1<<20).fill(1, span(0, 16)...)
	p := w.backUp("", day, []*testDisk{d}, nil)
	d2 := d.clone().fill(2, 3)
	up := w.createUpload(&pb.CreateUploadRequest{}, d2)
	fs.free.Store(100 << 20) // enough for the catalog
	_, err := w.sendBlocks(up.UploadToken, []*pb.Block{wireBlock(d2.blocks[3])})
	wantError(t, err, codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_STORE_FULL)
	w.checkBytes(p, d)
	fs.free.Store(1 << 40)
	w.sendMissing(up.UploadToken, d2, d2.indexes())
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d2, nil))
	p2 := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	w.checkBytes(p2, d2)
}

// TestUploadForJob is an agent's upload: of a job that it holds.
func TestUploadForJob(t *testing.T) {
	w := dataWorld(t, inMemory())
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	claim, err := w.hosts.ClaimJobs(ctx, &pb.ClaimJobsRequest{Host: host1})
	if err != nil {
		t.Fatal(err)
	}
	assigned := func() *pb.JobAssignment {
		for {
			r, err := claim.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if a := r.GetAssignment(); a != nil {
				return a
			}
		}
	}
	until := time.Now().AddDate(0, 0, 90).UTC().Truncate(time.Second)
	must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1, RetainUntil: timestamppb.New(until)}))
	a := assigned()
	d := newTestDisk("vda", 2*blockSize).fill(1, 1)
	create := func(token string) (*pb.CreateUploadResponse, error) {
		return w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{
			Parent: item1, Job: a.Job.Name, LeaseToken: token, Disks: []*pb.UploadDisk{{Target: "vda", Size: d.size}},
		})
	}
	_, err = create("wrong")
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST)
	first := must[*pb.CreateUploadResponse](t)(create(a.LeaseToken))
	up := must[*pb.CreateUploadResponse](t)(create(a.LeaseToken))
	if up.Job != a.Job.Name || first.UploadToken == up.UploadToken {
		t.Errorf("uploads %v and %v", first, up)
	}
	_, err = w.blocks.RenewUpload(w.ctx, &pb.RenewUploadRequest{UploadToken: first.UploadToken})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
	w.sendMissing(up.UploadToken, d, d.indexes())
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
	p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	if p.Job != a.Job.Name || p.ExpireTime.AsTime() != until || p.RetentionRule != pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL ||
		p.Consistency != pb.ConsistencyClass_CONSISTENCY_CLASS_CRASH_CONSISTENT {
		t.Errorf("point %v", p)
	}
	must[*pb.ReportJobResponse](t)(w.hosts.ReportJob(w.ctx, &pb.ReportJobRequest{
		Job: a.Job.Name, LeaseToken: a.LeaseToken, State: pb.JobState_JOB_STATE_COMPLETED,
	}))
	if j := w.waitJob(a.Job.Name); j.State != pb.JobState_JOB_STATE_COMPLETED || j.RecoveryPoint != p.Name {
		t.Errorf("job %v", j)
	}

	// Once the agent has reported the end of its job, the upload is gone.
	must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1}))
	a = assigned()
	if b := a.GetBackup(); b.BaseRecoveryPoint != p.Name || b.BlockSize != blockSize {
		t.Errorf("work %v", b)
	}
	up = must[*pb.CreateUploadResponse](t)(create(a.LeaseToken))
	must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: a.Job.Name}))
	must[*pb.ReportJobResponse](t)(w.hosts.ReportJob(w.ctx, &pb.ReportJobRequest{
		Job: a.Job.Name, LeaseToken: a.LeaseToken, State: pb.JobState_JOB_STATE_CANCELLED,
	}))
	w.waitJob(a.Job.Name)
	for what, err := range w.allCalls(up.UploadToken) {
		t.Run(what, func(t *testing.T) { wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_CANCELLED) })
	}
}
