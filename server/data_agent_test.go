package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

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
