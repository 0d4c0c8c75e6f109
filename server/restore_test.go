package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

const (
	queued = pb.JobState_JOB_STATE_QUEUED
	failed = pb.JobState_JOB_STATE_FAILED
)

// restoreWorld has a point of web1, with a definition and the disks vda and vdb,
// and one after it.
func restoreWorld(t *testing.T, opts Options) (*world, *pb.RecoveryPoint) {
	w := dataWorld(t, opts)
	disks := []*testDisk{newTestDisk("vda", 3*blockSize).fill(1, 0, 1), newTestDisk("vdb", blockSize)}
	p := w.backUp("", day, disks, nil)
	w.backUp("", day.Add(time.Hour), disks, nil)
	return w, p
}

func newMachine(point, title string) *pb.RestoreRequest {
	return &pb.RestoreRequest{Name: point, Target: &pb.RestoreRequest_NewMachine{NewMachine: &pb.RestoreNewMachine{Title: title}}}
}

func toDisks(point string, d *pb.RestoreDisks) *pb.RestoreRequest {
	return &pb.RestoreRequest{Name: point, Target: &pb.RestoreRequest_Disks{Disks: d}}
}

func inPlace(point string) *pb.RestoreRequest {
	return &pb.RestoreRequest{Name: point, Target: &pb.RestoreRequest_InPlace{InPlace: &pb.RestoreInPlace{StopMachine: true}}}
}

func (w *world) restore(r *pb.RestoreRequest) *pb.Job {
	w.t.Helper()
	return must[*pb.RestoreResponse](w.t)(w.points.Restore(w.ctx, r)).Job
}

func (w *world) cancelJob(name string) {
	w.t.Helper()
	must[*pb.CancelJobResponse](w.t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: name}))
}

func (w *world) deletePoint(name string) error {
	_, err := w.points.DeleteRecoveryPoint(w.ctx, &pb.DeleteRecoveryPointRequest{Name: name})
	return err
}

// A restore goes to the host's agent as it was asked for, and what the agent
// says of it is the job's.
func TestRestoreByAgent(t *testing.T) {
	w, p := restoreWorld(t, inMemory())
	r := newMachine(p.Name, "web1 copy")
	r.GetNewMachine().Instant, r.GetNewMachine().Directory, r.RequestId = true, "/vm", "once"
	j := w.restore(r)
	if j.State != queued || j.Operation != pb.JobOperation_JOB_OPERATION_RESTORE || j.ProtectedItem != item1 || j.Machine != web1 ||
		j.RecoveryPoint != p.Name || len(j.Tasks) == 0 || len(j.Actions) != 1 {
		t.Errorf("job %v", j)
	}
	if again := w.restore(r); !proto.Equal(again, j) {
		t.Errorf("repeated, the call answers %v", again)
	}
	other := newMachine(p.Name, "another")
	other.RequestId = "once"
	_, err := w.points.Restore(w.ctx, other)
	wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED)

	a := w.claim("one")
	as := a.assignment()
	work := as.GetRestore()
	want := &pb.RestoreNewMachine{Title: "web1 copy", Instant: true, Start: true, Directory: "/vm"}
	if as.Job.Name != j.Name || work.GetRecoveryPoint() != p.Name || work.Machine != web1 || !proto.Equal(work.GetNewMachine(), want) || work.SafetyBackup != nil {
		t.Errorf("assignment %v", as)
	}
	// Others run beside it, backups too.
	w.backUpNow()
	backup := a.assignment()
	if backup.GetBackup() == nil {
		t.Errorf("assignment %v", backup)
	}
	// Its upload would be no safety point.
	_, err = w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{
		Parent: item1, Job: j.Name, LeaseToken: as.LeaseToken, Disks: []*pb.UploadDisk{{Target: "vda", Size: 1}}})
	wantField(t, err, "job")
	must[*pb.ReportJobResponse](t)(w.reportJob(as, completed, func(r *pb.ReportJobRequest) {
		r.Outcome = "machine web1 copy is running"
		r.Stats = &pb.JobStats{ReadBytes: 7, TrackedBytes: 8, SampledBytes: 9}
		r.Warnings = []*pb.Warning{{Reason: pb.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED, Message: "vdc was excluded"}}
	}))
	done := w.getJob(j.Name)
	if done.State != pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS || done.Outcome != "machine web1 copy is running" || done.RecoveryPoint != p.Name ||
		done.Stats.ReadBytes != 7 || done.Stats.SampledBytes != 9 || done.Warnings[0].Remedy != remedy(pb.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED) {
		t.Errorf("job %v", done)
	}
	if it := w.item(item1); it.LastBackupJob == j.Name {
		t.Errorf("item %v", it)
	}
}

// A restore that was cancelled or failed is repeated by a retry.
func TestRetryRestore(t *testing.T) {
	w, p := restoreWorld(t, inMemory())
	r := toDisks(p.Name, &pb.RestoreDisks{Directory: "/vm", Format: "qcow2", Targets: []string{"vdb", "vda"}, Volumes: map[string]string{"vda": "/dev/vg/a"}})
	r.RequestId = "first"
	j := w.restore(r)
	w.cancelJob(j.Name)
	j = must[*pb.RetryJobResponse](t)(w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: j.Name, RequestId: "second"})).Job
	a := w.claim("")
	as := a.assignment()
	if as.Job.Name != j.Name || as.Job.RetryOf == "" || !proto.Equal(as.GetRestore().GetDisks(), r.GetDisks()) {
		t.Errorf("assignment %v", as)
	}
	w.cancelJob(j.Name) // while it runs
	if e, err := a.next(); err != nil || e.GetCancellation().GetJob() != j.Name {
		t.Errorf("event %v, %v", e, err)
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, failed, func(r *pb.ReportJobRequest) {
		r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL, Message: "no room in /vm"}
	}))
	if j := w.getJob(j.Name); j.State != failed || j.Error.GetRemedy() != remedy(pb.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL) || len(j.Actions) != 1 {
		t.Errorf("job %v", j)
	}
	// Once its point is gone there is nothing to repeat.
	if err := w.deletePoint(p.Name); err != nil {
		t.Fatal(err)
	}
	_, err := w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: j.Name})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
}

// Restores in place and backups of an item exclude each other. The safety point
// is made by the restore's job, of whatever consistency, and kept for 30 days.
func TestRestoreInPlace(t *testing.T) {
	w, p := restoreWorld(t, inMemory())
	w.demand(pb.ConsistencyClass_CONSISTENCY_CLASS_APPLICATION_CONSISTENT)
	latest := w.item(item1).LatestRecoveryPoint
	backup := w.backUpNow()
	_, err := w.points.Restore(w.ctx, inPlace(p.Name))
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS); info.Metadata["job"] != backup.Name {
		t.Errorf("metadata %v", info.Metadata)
	}
	w.cancelJob(backup.Name)
	j := w.restore(inPlace(p.Name))
	_, err = w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS); info.Metadata["job"] != j.Name || !strings.Contains(err.Error(), "a restore in place of") {
		t.Errorf("error %v", err)
	}
	_, err = w.points.Restore(w.ctx, inPlace(p.Name))
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS)
	_, err = w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}}})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS)
	beside := w.restore(newMachine(p.Name, "beside"))
	w.cancelJob(beside.Name)

	as := w.claim("").assignment()
	work := as.GetRestore()
	if b := work.GetSafetyBackup(); !work.GetInPlace().GetStopMachine() || b.GetProtectedItem() != item1 || b.Machine != web1 || b.BaseRecoveryPoint != latest ||
		b.BlockSize != blockSize || b.MinimumConsistency != pb.ConsistencyClass_CONSISTENCY_CLASS_UNSPECIFIED {
		t.Errorf("assignment %v", as)
	}
	before := time.Now()
	safety := must[*pb.RecoveryPoint](t)(w.commit(w.upload(as)))
	keep := safety.ExpireTime.AsTime().Sub(before)
	if safety.RetentionRule != pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL || keep < safetyRetention || keep > safetyRetention+time.Minute || safety.Job != j.Name {
		t.Errorf("safety point %v", safety)
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, completed))
	if j := w.getJob(j.Name); j.State != completed || j.RecoveryPoint != p.Name {
		t.Errorf("job %v", j)
	}
	if it := w.item(item1); it.LatestRecoveryPoint != safety.Name || it.RecoveryPointCount != 3 {
		t.Errorf("item %v", it)
	}
	w.cancelJob(w.backUpNow().Name) // may run again
}

// The point of a restore stays until the job's end, whatever happens to the
// server meanwhile, and the job does after a restart what it was to do before.
func TestRestoreOverRestart(t *testing.T) {
	w, p := restoreWorld(t, Options{Dir: t.TempDir(), Jobs: job.Options{Grace: time.Minute}})
	r := newMachine(p.Name, "copy")
	j := w.restore(r)
	held := func() {
		t.Helper()
		err := w.deletePoint(p.Name)
		if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE); info.Metadata["job"] != j.Name {
			t.Errorf("metadata %v", info.Metadata)
		}
		if _, err := w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}); err == nil {
			t.Error("the vault was deleted")
		}
	}
	held()
	w.restart()
	held()
	if got := w.getJob(j.Name); !proto.Equal(got, j) {
		t.Errorf("job %v, was %v", got, j)
	}
	as := w.claim("one").assignment()
	if as.Job.Name != j.Name || !proto.Equal(as.GetRestore().GetNewMachine(), r.GetNewMachine()) {
		t.Errorf("assignment %v", as)
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, inProgress))
	w.restart() // while it runs: the agent goes on
	held()
	w.claim("one")
	if r := must[*pb.ReportJobResponse](t)(w.reportJob(as, inProgress)); r.CancelRequested {
		t.Errorf("report answers %v", r)
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, completed))
	if j := w.getJob(j.Name); j.State != completed {
		t.Errorf("job %v", j)
	}
	if err := w.deletePoint(p.Name); err != nil {
		t.Error(err)
	}

	// In place: backups wait, also after a restart. Another process of the agent
	// ends what the first one had begun, and the retry does the same again.
	w.restart() // so that no agent is there
	p2 := w.item(item1).LatestRecoveryPoint
	j = w.restore(inPlace(p2))
	w.restart()
	_, err := w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS)
	as = w.claim("one").assignment()
	must[*pb.ReportJobResponse](t)(w.reportJob(as, inProgress))
	w.restart()
	a := w.claim("two")
	w.waitForEnd(j.Name)
	if j := w.getJob(j.Name); j.State != failed || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job %v", j)
	}
	again := must[*pb.RetryJobResponse](t)(w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: j.Name})).Job
	if as = a.assignment(); as.Job.Name != again.Name || !as.GetRestore().GetInPlace().GetStopMachine() {
		t.Errorf("assignment %v", as)
	}
}

// Another host restores, if it is in the vault's region.
func TestRestoreHost(t *testing.T) {
	opts := inMemory()
	opts.Regions = []string{"local", "elsewhere"}
	w, p := restoreWorld(t, opts)
	w.host("rack2", "local")
	w.host("far", "elsewhere")
	r := toDisks(p.Name, &pb.RestoreDisks{Directory: "/vm"})
	r.Host = sub + "/hosts/rack2"
	j := w.restore(r)
	if _, err := w.hosts.DeleteHost(w.ctx, &pb.DeleteHostRequest{Name: r.Host}); err == nil {
		t.Error("a host that has a job to do was deleted")
	} else {
		wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_HOST_IN_USE)
	}
	mine := w.restore(toDisks(p.Name, &pb.RestoreDisks{Directory: "/vm"}))
	if as := w.claim("").assignment(); as.Job.Name != mine.Name { // not rack2's
		t.Errorf("assignment %v", as)
	}
	st, err := w.hosts.ClaimJobs(w.ctx, &pb.ClaimJobsRequest{Host: r.Host})
	if err != nil {
		t.Fatal(err)
	}
	if as, err := (&agent{w: w, stream: st}).next(); err != nil || as.GetAssignment().GetJob().GetName() != j.Name {
		t.Errorf("event %v, %v", as, err)
	}
	r.Host = sub + "/hosts/far"
	_, err = w.points.Restore(w.ctx, r)
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REGION_MISMATCH)
	r.Host = sub + "/hosts/none"
	_, err = w.points.Restore(w.ctx, r)
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND)
	there := inPlace(p.Name)
	there.Host = sub + "/hosts/rack2"
	_, err = w.points.Restore(w.ctx, there)
	wantField(t, err, "host")
}

func TestRestoreRefusals(t *testing.T) {
	w, p := restoreWorld(t, inMemory())
	for i, c := range []struct {
		field string
		r     *pb.RestoreRequest
	}{
		{"name", newMachine("", "x")},
		{"name", newMachine("web1@latest", "x")},
		{"name", newMachine(item1, "x")},
		{"target", &pb.RestoreRequest{Name: p.Name}},
		{"host", &pb.RestoreRequest{Name: p.Name, Host: "rack1", Target: newMachine("", "x").Target}},
		{"host", &pb.RestoreRequest{Name: p.Name, Host: "subscriptions/other/hosts/rack1", Target: newMachine("", "x").Target}},
		{"request_id", &pb.RestoreRequest{Name: p.Name, RequestId: strings.Repeat("x", 65), Target: newMachine("", "x").Target}},
		{"new_machine.title", newMachine(p.Name, "")},
		{"new_machine.title", newMachine(p.Name, "  ")},
		{"new_machine.title", newMachine(p.Name, ".")},
		{"new_machine.title", newMachine(p.Name, "..")},
		{"new_machine.title", newMachine(p.Name, "a/b")},
		{"new_machine.title", newMachine(p.Name, "a\nb")},
		{"new_machine.title", newMachine(p.Name, "a\x7f")},
		{"new_machine.title", newMachine(p.Name, " a")},
		{"new_machine.title", newMachine(p.Name, strings.Repeat("a", 201))},
		{"new_machine.directory", &pb.RestoreRequest{Name: p.Name, Target: &pb.RestoreRequest_NewMachine{NewMachine: &pb.RestoreNewMachine{Title: "x", Directory: "vm"}}}},
		{"new_machine.directory", &pb.RestoreRequest{Name: p.Name, Target: &pb.RestoreRequest_NewMachine{NewMachine: &pb.RestoreNewMachine{Title: "x", Directory: "/vm/../etc"}}}},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{})},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{Directory: "relative"})},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a//b"})},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a/"})},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a\x00b"})},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{Directory: "/" + strings.Repeat("a", 5000)})},
		{"disks.directory", toDisks(p.Name, &pb.RestoreDisks{Volumes: map[string]string{"vda": "/dev/a"}})}, // and vdb?
		{"disks.format", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Format: "vmdk"})},
		{"disks.format", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Format: "RAW"})},
		{"disks.targets[0]", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Targets: []string{""}})},
		{"disks.targets[1]", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Targets: []string{"vda", "vda"}})},
		{"disks.targets", toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Targets: make([]string, maxDisks+1)})},
		{`disks.volumes["vda"]`, toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Volumes: map[string]string{"vda": "dev/a"}})},
		{`disks.volumes["vda"]`, toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Volumes: map[string]string{"vda": ""}})},
		{`disks.volumes["vdb"]`, toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Volumes: map[string]string{"vda": "/dev/a", "vdb": "/dev/a"}})},
		{`disks.volumes["vdb"]`, toDisks(p.Name, &pb.RestoreDisks{Directory: "/a", Targets: []string{"vda"}, Volumes: map[string]string{"vdb": "/dev/a"}})},
	} {
		_, err := w.points.Restore(w.ctx, c.r)
		if t.Failed() {
			t.Fatalf("case %d", i-1)
		}
		wantField(t, err, c.field)
	}
	for _, d := range []*pb.RestoreDisks{
		{Directory: "/a", Targets: []string{"vda", "sda"}},
		{Directory: "/a", Volumes: map[string]string{"sda": "/dev/a"}},
	} {
		_, err := w.points.Restore(w.ctx, toDisks(p.Name, d))
		if info := wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND); info.Metadata["disks"] != "vda,vdb" || info.Metadata["disk"] != "sda" {
			t.Errorf("metadata %v", info.Metadata)
		}
	}
	_, err := w.points.Restore(w.ctx, newMachine(item1+"/recoveryPoints/p1", "x"))
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	_, err = w.points.Restore(w.ctx, newMachine(strings.Replace(p.Name, "v1", "v2", 1), "x"))
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	if jobs := must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{
		Parent: sub, Filter: &pb.JobFilter{Operations: []pb.JobOperation{pb.JobOperation_JOB_OPERATION_RESTORE}}})).Jobs; len(jobs) != 0 {
		t.Errorf("refused restores left %v", jobs)
	}

	// What is in order at the edges.
	for _, r := range []*pb.RestoreRequest{
		newMachine(p.Name, strings.Repeat("a", 200)), newMachine(p.Name, "Röntgen …"), newMachine(p.Name, ".hidden"),
		toDisks(p.Name, &pb.RestoreDisks{Volumes: map[string]string{"vda": "/dev/a", "vdb": "/dev/b"}}),
		toDisks(p.Name, &pb.RestoreDisks{Targets: []string{"vdb"}, Volumes: map[string]string{"vdb": "/dev/b"}}),
		toDisks(p.Name, &pb.RestoreDisks{Directory: "/", Format: "raw"}),
	} {
		w.restore(r)
	}

	// A point of image files has no definition.
	up := w.createUpload(&pb.CreateUploadRequest{}, newTestDisk("vda", blockSize))
	images := must[*pb.RecoveryPoint](t)(w.commit(up.UploadToken))
	for _, r := range []*pb.RestoreRequest{newMachine(images.Name, "x"), inPlace(images.Name)} {
		_, err := w.points.Restore(w.ctx, r)
		wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED)
		if !strings.Contains(fmt.Sprint(err), "restore its disks instead") {
			t.Errorf("error %v", err)
		}
	}
	w.restore(toDisks(images.Name, &pb.RestoreDisks{Directory: "/a"}))
}
