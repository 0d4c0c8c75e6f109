package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// agent is a ClaimJobs stream of host rack1.
type agent struct {
	w      *world
	stream grpc.ServerStreamingClient[pb.ClaimJobsResponse]
	cancel context.CancelFunc
}

func (w *world) claim(instance string) *agent {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	w.t.Cleanup(cancel)
	st, err := w.hosts.ClaimJobs(ctx, &pb.ClaimJobsRequest{Host: host1, MaxConcurrent: 2, InstanceId: instance})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil { // a keep-alive, at once
		w.t.Fatal(err)
	}
	return &agent{w, st, cancel}
}

// next gives the next event that is no keep-alive.
func (a *agent) next() (*pb.ClaimJobsResponse, error) {
	for {
		e, err := a.stream.Recv()
		if err != nil || e.GetKeepAlive() == nil {
			return e, err
		}
	}
}

func (a *agent) assignment() *pb.JobAssignment {
	a.w.t.Helper()
	e, err := a.next()
	if err != nil || e.GetAssignment() == nil {
		a.w.t.Fatalf("got %v, %v, want an assignment", e, err)
	}
	return e.GetAssignment()
}

// backUp starts a backup of web1.
func (w *world) backUpNow() *pb.Job {
	w.t.Helper()
	return must[*pb.BackUpResponse](w.t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})).Job
}

func (w *world) getJob(name string) *pb.Job {
	w.t.Helper()
	return must[*pb.GetJobResponse](w.t)(w.jobs.GetJob(w.ctx, &pb.GetJobRequest{Name: name})).Job
}

// upload begins the upload of an assignment: one disk of zeros.
func (w *world) upload(as *pb.JobAssignment) string {
	w.t.Helper()
	up := must[*pb.CreateUploadResponse](w.t)(w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{
		Parent: item1, Job: as.Job.Name, LeaseToken: as.LeaseToken, Disks: []*pb.UploadDisk{{Target: "vda", Size: 1 << 20}},
	}))
	return up.UploadToken
}

// commit ends an upload with a point.
func (w *world) commit(token string) (*pb.RecoveryPoint, error) {
	w.t.Helper()
	st, err := w.blocks.WriteDiskMap(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := st.Send(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: token, Disk: "vda"}}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := st.CloseAndRecv(); err != nil {
		return nil, err
	}
	r, err := w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: token})
	return r.GetRecoveryPoint(), err
}

func (w *world) reportJob(as *pb.JobAssignment, state pb.JobState, more ...func(*pb.ReportJobRequest)) (*pb.ReportJobResponse, error) {
	r := &pb.ReportJobRequest{Job: as.Job.Name, LeaseToken: as.LeaseToken, State: state}
	for _, f := range more {
		f(r)
	}
	return w.hosts.ReportJob(w.ctx, r)
}

const completed = pb.JobState_JOB_STATE_COMPLETED

func TestBackupByAgent(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	a := w.claim("one")
	j := w.backUpNow()
	as := a.assignment()
	if b := as.GetBackup(); as.Job.Name != j.Name || b.GetProtectedItem() != item1 || b.Machine != web1 || b.BlockSize != 65536 || b.BaseRecoveryPoint != "" || as.LeaseToken == "" {
		t.Errorf("assignment %v", as)
	}
	if h := must[*pb.GetHostResponse](t)(w.hosts.GetHost(w.ctx, &pb.GetHostRequest{Name: host1})).Host; h.State != pb.HostState_HOST_STATE_CONNECTED {
		t.Errorf("host %v", h)
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, inProgress, func(r *pb.ReportJobRequest) {
		r.Tasks = []*pb.JobTask{{Title: "Take Snapshot", State: completed}, {Title: "Transfer data to vault", State: inProgress, TotalBytes: 10, DoneBytes: 5}}
	}))
	if j := w.getJob(j.Name); j.State != inProgress || j.Tasks[1].DoneBytes != 5 || j.StartTime == nil {
		t.Errorf("job %v", j)
	}
	_, err := w.reportJob(as, completed)
	wantField(t, err, "state") // there is no point yet
	point := must[*pb.RecoveryPoint](t)(w.commit(w.upload(as)))
	must[*pb.ReportJobResponse](t)(w.reportJob(as, completed, func(r *pb.ReportJobRequest) {
		r.Stats = &pb.JobStats{AllocatedBytes: 47, DiskBytes: 1 << 20}
	}))
	done := w.getJob(j.Name)
	if done.State != completed || done.RecoveryPoint != point.Name || done.EndTime == nil || len(done.Actions) != 0 || done.Stats.AllocatedBytes != 47 {
		t.Errorf("job %v", done)
	}
	it := w.item(item1)
	if it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_PROTECTED || it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_HEALTHY ||
		it.LastBackupStatusText != "Healthy" || it.Health != pb.HealthStatus_HEALTH_STATUS_PASSED || it.HealthDetail != "" ||
		it.LatestRecoveryPoint != point.Name || it.RecoveryPointCount != 1 || it.LastBackupJob != j.Name || it.LastBackupTime == nil || it.ProtectedBytes != 0 {
		t.Errorf("item %v", it)
	}

	// The next one builds on it, and fails.
	w.backUpNow()
	as = a.assignment()
	if as.GetBackup().BaseRecoveryPoint != point.Name {
		t.Errorf("assignment %v", as)
	}
	_, err = w.reportJob(as, pb.JobState_JOB_STATE_FAILED)
	wantField(t, err, "error.reason")
	must[*pb.ReportJobResponse](t)(w.reportJob(as, pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
		r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, Message: "web1.raw is truncated"}
	}))
	if j := w.getJob(as.Job.Name); j.State != pb.JobState_JOB_STATE_FAILED || j.Error.Remedy == "" || len(j.Actions) != 1 {
		t.Errorf("job %v", j)
	}
	it = w.item(item1)
	if it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_PROTECTED || it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_UNHEALTHY ||
		it.LastBackupStatusText != "Unhealthy: web1.raw is truncated" || it.Health != pb.HealthStatus_HEALTH_STATUS_ACTION_REQUIRED ||
		!strings.Contains(it.HealthDetail, "IMAGE_UNREADABLE") || !strings.Contains(it.HealthDetail, "qemu-img check") || it.LatestRecoveryPoint != point.Name {
		t.Errorf("item %v", it)
	}

	// And a retry of that succeeds with a warning.
	must[*pb.RetryJobResponse](t)(w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: as.Job.Name}))
	as = a.assignment()
	must[*pb.RecoveryPoint](t)(w.commit(w.upload(as)))
	must[*pb.ReportJobResponse](t)(w.reportJob(as, completed, func(r *pb.ReportJobRequest) {
		r.Warnings = []*pb.Warning{{Reason: pb.ErrorReason_ERROR_REASON_GUEST_AGENT_UNAVAILABLE, Message: "no guest agent"}}
	}))
	if j := w.getJob(as.Job.Name); j.State != pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS {
		t.Errorf("job %v", j)
	}
	if it := w.item(item1); it.Health != pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED || it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_HEALTHY || it.RecoveryPointCount != 2 {
		t.Errorf("item %v", it)
	}
}

// A call that is repeated has the answer that it had, also when the date that it
// gives has passed meanwhile.
func TestBackUpRepeatedLate(t *testing.T) {
	opts, c := inMemory(), newClock(day)
	opts.Now = c.Now
	w := dataWorld(t, opts)
	r := &pb.BackUpRequest{Name: item1, RequestId: "one", RetainUntil: timestamppb.New(day.Add(time.Hour))}
	first := must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, r))
	c.Set(day.Add(2 * time.Hour))
	if again := must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, r)); !proto.Equal(again, first) {
		t.Errorf("answered %v, then %v", first, again)
	}
	r.RequestId = "two"
	_, err := w.items.BackUp(w.ctx, r)
	wantField(t, err, "retain_until")
}

// A cancelled backup ends its upload at once, and leaves no point.
func TestCancelBackup(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	a := w.claim("")
	w.backUpNow()
	as := a.assignment()
	token := w.upload(as)
	c := must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: as.Job.Name})).Job
	if c.State != pb.JobState_JOB_STATE_CANCELLING {
		t.Errorf("job %v", c)
	}
	if e, err := a.next(); err != nil || e.GetCancellation().GetJob() != as.Job.Name {
		t.Errorf("event %v, %v", e, err)
	}
	_, err := w.commit(token)
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_CANCELLED)
	if r := must[*pb.ReportJobResponse](t)(w.reportJob(as, inProgress)); !r.CancelRequested {
		t.Error("report does not say that the job is to stop")
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, pb.JobState_JOB_STATE_CANCELLED))
	if j := w.getJob(as.Job.Name); j.State != pb.JobState_JOB_STATE_CANCELLED || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_CANCELLED {
		t.Errorf("job %v", j)
	}
	if it := w.item(item1); it.RecoveryPointCount != 0 || it.LastBackupStatusText != initialBackupPending {
		t.Errorf("item %v", it)
	}
}

// An agent goes on after a restart of the server; what it committed without
// being able to say so is complete; what is lost is INTERRUPTED.
func TestBackupOverRestart(t *testing.T) {
	w := newWorld(t, Options{Dir: t.TempDir(), Jobs: job.Options{Grace: 500 * time.Millisecond, Lease: 500 * time.Millisecond}})
	w.setUp()
	w.protect()
	a := w.claim("one")
	w.backUpNow()
	as := a.assignment()
	token := w.upload(as)
	w.restart()
	_, err := w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: token})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
	point := must[*pb.RecoveryPoint](t)(w.commit(w.upload(as)))
	w.restart()
	w.waitForEnd(as.Job.Name)
	if j := w.getJob(as.Job.Name); j.State != completed || j.RecoveryPoint != point.Name {
		t.Errorf("job %v", j)
	}
	if it := w.item(item1); it.LastBackupStatusText != "Healthy" || it.LastBackupJob != as.Job.Name {
		t.Errorf("item %v", it)
	}
	a = w.claim("one")
	w.backUpNow()
	as = a.assignment()
	w.upload(as)
	w.restart()
	w.waitForEnd(as.Job.Name)
	if j := w.getJob(as.Job.Name); j.State != pb.JobState_JOB_STATE_FAILED || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job %v", j)
	}
	_, err = w.reportJob(as, inProgress)
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST)
}

// waitForEnd watches a job to its end.
func (w *world) waitForEnd(name string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	st, err := w.jobs.WatchJobs(ctx, &pb.WatchJobsRequest{Parent: vault})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		e, err := st.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		if e.Job.GetName() == name && job.Ended(e.Job.State) {
			return
		}
	}
}

func TestClaimRefusals(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	claim := func(r *pb.ClaimJobsRequest) error {
		st, err := w.hosts.ClaimJobs(w.ctx, r)
		if err == nil {
			_, err = st.Recv()
		}
		return err
	}
	wantField(t, claim(&pb.ClaimJobsRequest{}), "host")
	wantField(t, claim(&pb.ClaimJobsRequest{Host: host1, MaxConcurrent: -1}), "max_concurrent")
	wantField(t, claim(&pb.ClaimJobsRequest{Host: host1, InstanceId: strings.Repeat("x", 65)}), "instance_id")
	wantError(t, claim(&pb.ClaimJobsRequest{Host: host1 + "x"}), codes.NotFound, pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND)
	a, b := w.claim(""), w.claim("")
	_, err := a.next()
	_, r, _ := reasonOf(t, err)
	_ = b
	if r != pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST {
		t.Errorf("older claim ended with %v", err)
	}
	_, err = w.hosts.ReportJob(w.ctx, &pb.ReportJobRequest{Job: vault + "/jobs/none", LeaseToken: "x"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_JOB_NOT_FOUND)
	w.protect()
	w.backUpNow()
	as := b.assignment()
	as.LeaseToken = "forged"
	_, err = w.reportJob(as, inProgress)
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST)
	_, err = w.reportJob(as, pb.JobState_JOB_STATE_QUEUED)
	wantField(t, err, "state")
}

func TestListAndWatchJobs(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	var names []string
	for range 5 {
		j := w.backUpNow()
		names = append([]string{j.Name}, names...)
		must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: j.Name}))
	}
	backups := &pb.JobFilter{Operations: []pb.JobOperation{pb.JobOperation_JOB_OPERATION_BACKUP}, ProtectedItem: item1}
	var got []string
	for token := ""; ; {
		r := must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: sub, PageSize: 2, PageToken: token, Filter: backups}))
		for _, j := range r.Jobs {
			got = append(got, j.Name)
		}
		if token = r.NextPageToken; token == "" {
			break
		}
		_, err := w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: sub, PageToken: token})
		wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN)
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("listed %v, want %v", got, names)
	}
	r := must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault, Filter: &pb.JobFilter{States: []pb.JobState{completed}}}))
	if len(r.Jobs) != 1 || r.Jobs[0].Operation != pb.JobOperation_JOB_OPERATION_CONFIGURE_BACKUP {
		t.Errorf("listed %v", r)
	}
	watch := func(r *pb.WatchJobsRequest) (grpc.ServerStreamingClient[pb.WatchJobsResponse], func() *pb.WatchJobsResponse) {
		st, err := w.jobs.WatchJobs(w.ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return st, func() *pb.WatchJobsResponse {
			t.Helper()
			return must[*pb.WatchJobsResponse](t)(st.Recv())
		}
	}
	_, next := watch(&pb.WatchJobsRequest{Parent: vault, Filter: backups})
	for i := range names {
		if e := next(); e.Job.GetName() != names[len(names)-1-i] || e.Synced {
			t.Errorf("event %v", e)
		}
	}
	e := next()
	if !e.Synced || e.Job != nil {
		t.Errorf("event %v, want a bookmark", e)
	}
	j := w.backUpNow()
	if e := next(); !proto.Equal(e.Job, j) || e.Revision != j.Revision {
		t.Errorf("event %v, want %v", e, j)
	}
	_, next2 := watch(&pb.WatchJobsRequest{Parent: sub, AfterRevision: e.Revision})
	if e := next2(); e.Job.GetName() != j.Name {
		t.Errorf("event %v", e)
	}
	if e := next2(); !e.Synced {
		t.Errorf("event %v", e)
	}
	st, _ := watch(&pb.WatchJobsRequest{Parent: sub, AfterRevision: 1 << 50})
	_, err := st.Recv()
	wantError(t, err, codes.OutOfRange, pb.ErrorReason_ERROR_REASON_REVISION_UNAVAILABLE)
	st, _ = watch(&pb.WatchJobsRequest{Parent: sub, AfterRevision: -1})
	_, err = st.Recv()
	wantField(t, err, "after_revision")
	st, _ = watch(&pb.WatchJobsRequest{Parent: sub + "/vaults/none"})
	_, err = st.Recv()
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	for _, r := range []*pb.ListJobsRequest{
		{Parent: "x"}, {Parent: sub, Filter: &pb.JobFilter{States: []pb.JobState{99}}},
		{Parent: sub, Filter: &pb.JobFilter{Operations: []pb.JobOperation{-1}}}, {Parent: sub, Filter: &pb.JobFilter{ProtectedItem: "web1"}},
	} {
		_, err := w.jobs.ListJobs(w.ctx, r)
		if c, _, _ := reasonOf(t, err); c != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// A gentle stop lets an upload finish, and tells streams to come back.
func TestDrain(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	a := w.claim("")
	j := w.backUpNow()
	as := a.assignment()
	token := w.upload(as)
	must[*pb.ReportJobResponse](t)(w.reportJob(as, inProgress))
	drained := make(chan struct{})
	go func() { defer close(drained); w.s.Drain(w.ctx) }()
	must[*pb.RecoveryPoint](t)(w.commit(token))
	must[*pb.ReportJobResponse](t)(w.reportJob(as, completed))
	<-drained
	waiting := w.backUpNow() // is queued, and stays so
	w.s.EndStreams()
	_, err := a.next()
	wantError(t, err, codes.Unavailable, pb.ErrorReason_ERROR_REASON_INTERRUPTED)
	w.restart()
	if j := w.getJob(j.Name); j.State != completed {
		t.Errorf("job %v", j)
	}
	if j := w.getJob(waiting.Name); j.State != pb.JobState_JOB_STATE_QUEUED {
		t.Errorf("job %v", j)
	}
}
