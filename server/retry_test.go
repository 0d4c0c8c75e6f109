package server

import (
	"testing"
	"time"

	pb "cairn/proto/cairn/v1"
)

const (
	passing = pb.ErrorReason_ERROR_REASON_TRANSFER_FAILED
	guests  = pb.ErrorReason_ERROR_REASON_FREEZE_FAILED
)

func TestEveryReasonHasARetryClass(t *testing.T) {
	for n, name := range pb.ErrorReason_name {
		if _, ok := retryClasses[pb.ErrorReason(n)]; !ok && n != 0 {
			t.Errorf("retryClasses has no %s", name)
		}
	}
	if len(retryClasses) != len(pb.ErrorReason_name)-1 {
		t.Errorf("%d reasons have a class, there are %d", len(retryClasses), len(pb.ErrorReason_name)-1)
	}
}

// wantRetry checks that an item's n-th backup failed, and when it is tried again;
// zero for not.
func (w *scheduleWorld) wantRetry(item string, n int, due time.Time) *pb.Job {
	w.t.Helper()
	j := w.last(item, n)
	switch {
	case j.State != failed:
		w.t.Errorf("job %v", j)
	case due.IsZero() && j.NextAttemptTime != nil, !due.IsZero() && !j.NextAttemptTime.AsTime().Equal(due):
		w.t.Errorf("job %d is tried again at %v, want %v", n, j.NextAttemptTime, due)
	}
	if next := w.item(item).NextBackupTime.AsTime(); !due.IsZero() && !next.Equal(due) {
		w.t.Errorf("the next backup is at %v, want %v", next, due)
	}
	return j
}

func TestWhatFailedIsTriedAgain(t *testing.T) {
	for reason, delays := range map[pb.ErrorReason][]time.Duration{
		passing:                                 {time.Minute, 5 * time.Minute, 15 * time.Minute},
		guests:                                  {15 * time.Minute, time.Hour},
		pb.ErrorReason_ERROR_REASON_DISK_LOCKED: nil,
	} {
		w := newScheduleWorld(t)
		w.protect()
		a := w.claim("one")
		w.at(hour(0, 22))
		for i, delay := range delays {
			w.fail(a.assignment(), reason)
			due := w.clock.Now().Add(delay)
			before := w.wantRetry(item1, i+1, due)
			if i == 0 { // nothing is forgotten meanwhile
				a.cancel()
				w.restart()
				a = w.claim("two")
			}
			w.at(due.Add(-time.Second))
			w.last(item1, i+1)
			w.at(due)
			w.after(0)
			j := w.last(item1, i+2)
			if j.RetryOf != before.Name || !j.Scheduled || j.Attempt != int32(i+2) || !j.ScheduleTime.AsTime().Equal(hour(0, 22)) || j.RetainUntil != nil {
				t.Errorf("%v: job %v", reason, j)
			}
			w.wantNext(item1, hour(1, 22))
		}
		w.fail(a.assignment(), reason)
		w.wantRetry(item1, len(delays)+1, time.Time{})
		w.at(hour(1, 21))
		w.last(item1, len(delays)+1)
		w.at(hour(1, 22))
		if j := w.last(item1, len(delays)+2); j.Attempt != 1 || j.RetryOf != "" {
			t.Errorf("%v: job %v", reason, j)
		}
		a.cancel()
		w.stop()
	}
}

// A retry is dropped, and the job says so, when it is not wanted any more.
func TestARetryIsDropped(t *testing.T) {
	for what, f := range map[string]func(w *scheduleWorld, a *agent){
		"a backup succeeded": func(w *scheduleWorld, a *agent) {
			w.backUpNow()
			w.succeed(a.assignment())
		},
		"a backup runs": func(w *scheduleWorld, a *agent) {
			w.backUpNow()
			as := a.assignment()
			w.at(hour(0, 22).Add(15 * time.Minute))
			w.fail(as, pb.ErrorReason_ERROR_REASON_DISK_LOCKED)
		},
		"protection stopped": func(w *scheduleWorld, a *agent) {
			must[*pb.StopProtectionResponse](w.t)(w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{
				Name: item1, Mode: pb.StopProtectionMode_STOP_PROTECTION_MODE_RETAIN_DATA,
			}))
		},
		"it was cancelled": func(w *scheduleWorld, a *agent) {
			must[*pb.RetryJobResponse](w.t)(w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: w.last(item1, 1).Name}))
			as := a.assignment()
			w.at(hour(0, 22).Add(15 * time.Minute))
			must[*pb.CancelJobResponse](w.t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: as.Job.Name}))
			must[*pb.ReportJobResponse](w.t)(w.reportJob(as, pb.JobState_JOB_STATE_CANCELLED))
		},
	} {
		w := newScheduleWorld(t)
		w.protect()
		a := w.claim("one")
		w.at(hour(0, 22))
		w.fail(a.assignment(), guests)
		first := w.wantRetry(item1, 1, hour(0, 22).Add(15*time.Minute))
		w.after(time.Minute)
		f(w, a)
		n := len(w.backups(item1))
		w.at(hour(1, 21))
		if got := w.backups(item1); len(got) != n {
			t.Errorf("%s: tried again all the same: %v", what, got[n:])
		}
		if j := w.getJob(first.Name); j.NextAttemptTime != nil {
			t.Errorf("%s: job %v", what, j)
		}
		a.cancel()
		w.stop()
	}
}

func TestTheNextRunComesBeforeARetry(t *testing.T) {
	w := newScheduleWorld(t)
	w.schedule(&pb.Schedule{Kind: &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{
		IntervalHours: 4, WindowStart: &pb.TimeOfDay{Hours: 0}, WindowHours: 20,
	}}})
	w.protect()
	a := w.claim("one")
	w.at(hour(0, 16))
	as := a.assignment()
	w.at(hour(0, 19).Add(50 * time.Minute))
	w.fail(as, guests)
	w.wantRetry(item1, 1, time.Time{})
	w.wantNext(item1, hour(0, 20))
	w.at(hour(0, 20))
	if j := w.last(item1, 2); j.Attempt != 1 || !j.ScheduleTime.AsTime().Equal(hour(0, 20)) {
		t.Errorf("job %v", j)
	}
}

// RetryJob of a scheduled backup makes one that the policy keeps in the same way.
func TestRetryOfAScheduledJobByHand(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	a := w.claim("one")
	w.at(hour(0, 22))
	w.fail(a.assignment(), pb.ErrorReason_ERROR_REASON_DISK_LOCKED)
	first := w.wantRetry(item1, 1, time.Time{})
	w.after(time.Hour)
	j := must[*pb.RetryJobResponse](t)(w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: first.Name})).Job
	if !j.Scheduled || !j.ScheduleTime.AsTime().Equal(hour(0, 22)) || j.Attempt != 2 || j.RetainUntil != nil || j.RetryOf != first.Name {
		t.Errorf("job %v", j)
	}
	w.fail(a.assignment(), passing)
	w.wantRetry(item1, 2, w.clock.Now().Add(5*time.Minute))
}
