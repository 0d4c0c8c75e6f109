package server

import (
	"testing"
	"time"

	pb "cairn/proto/cairn/v1"
)

func TestScheduledBackupsRunOnTime(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	w.at(hour(0, 22).Add(-time.Second))
	if n := len(w.backups(item1)); n != 0 {
		t.Fatalf("%d backups before the time", n)
	}
	w.wantNext(item1, hour(0, 22))
	w.at(hour(0, 22))
	j := w.last(item1, 1)
	if j.State != pb.JobState_JOB_STATE_QUEUED || !j.Scheduled || j.Attempt != 1 || j.RetainUntil != nil || j.RetryOf != "" ||
		!j.ScheduleTime.AsTime().Equal(hour(0, 22)) || j.Machine != web1 || len(j.Tasks) != 2 {
		t.Errorf("job %v", j)
	}
	w.wantNext(item1, hour(1, 22))
	w.after(0)
	w.restart()
	w.after(0)
	w.last(item1, 1)
	a := w.claim("one")
	w.succeed(a.assignment())
	it := w.item(item1)
	if it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_PROTECTED || it.RecoveryPointCount != 1 || it.LastBackupJob != j.Name {
		t.Errorf("item %v", it)
	}
	w.at(hour(1, 22).Add(-time.Second))
	w.last(item1, 1)
	w.at(hour(1, 22).Add(3 * time.Second))
	if j := w.last(item1, 2); !j.ScheduleTime.AsTime().Equal(hour(1, 22)) {
		t.Errorf("job %v", j)
	}
	w.succeed(a.assignment())
	w.wantNext(item1, hour(2, 22))
}
