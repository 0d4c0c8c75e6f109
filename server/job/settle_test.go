package job

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

const skipped = pb.JobState_JOB_STATE_SKIPPED

// settles writes the state of a job into the record of its item's schedule.
func settles(tx *catalog.Tx, j *pb.Job) error {
	j.NextAttemptTime = timestamppb.New(j.EndTime.AsTime().Add(time.Minute))
	return tx.PutSchedule(j.ProtectedItem, catalog.Schedule{Retry: &catalog.Retry{Job: j.Name, Attempt: int32(j.State)}})
}

func (b *bench) onSettle(f func(*catalog.Tx, *pb.Job) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle = f
}

func (b *bench) wantSettled(item, job string, state pb.JobState) {
	b.t.Helper()
	rec, err := b.cat.Schedule(item)
	if err != nil || rec.Retry == nil || rec.Retry.Job != job || rec.Retry.Attempt != int32(state) {
		b.t.Errorf("record %+v, %v", rec.Retry, err)
	}
	if j, err := b.cat.Job(job); err != nil || j.State != state || j.NextAttemptTime == nil {
		b.t.Errorf("stored job %v, %v", j, err)
	}
}

// What Settle writes is durable together with the end of the job, also when that
// can be stored only later.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		b.onSettle(settles)
		a := b.claim("", 3)
		name := b.backup(1)
		b.reports(failedReport(a.next(t)))
		if j := b.wantState(name, failed, pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED); j.NextAttemptTime == nil {
			t.Errorf("job %v", j)
		}
		b.wantSettled(itemName(1), name, failed)

		b.onSettle(func(*catalog.Tx, *pb.Job) error { return errors.New("the disk is full") })
		late := b.backup(2)
		b.reports(failedReport(a.next(t)))
		b.wantState(late, failed, pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED)
		if j, err := b.cat.Job(late); err != nil || j.State != inProgress {
			t.Errorf("stored job %v, %v", j, err)
		}
		if _, err := b.cat.Schedule(itemName(2)); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("record of a job whose end is not stored: %v", err)
		}
		time.Sleep(10 * time.Second)
		b.onSettle(settles)
		time.Sleep(time.Second)
		synctest.Wait()
		b.wantSettled(itemName(2), late, failed)
		a.cancel()
		<-a.err
		b.close()
	})
}

func TestJobsThatDoNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		b.onSettle(settles)
		defer b.close()
		why := &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_MACHINE_GONE, Message: "it is gone"}
		slot := time.Now().Add(-time.Minute)
		spec := Spec{
			Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: itemName(1), Machine: host + "/machines/m1",
			Tasks: []string{"Take Snapshot"}, Scheduled: true, ScheduleTime: slot, Attempt: 2, Error: why,
		}
		a := b.claim("", 1) // which gets none of them
		synctest.Wait()
		j, err := b.Fail(spec)
		if err != nil || j.State != failed || j.Error.GetReason() != why.Reason || j.EndTime == nil || j.Attempt != 2 || !j.ScheduleTime.AsTime().Equal(slot) || !j.Scheduled {
			t.Errorf("job %v, %v", j, err)
		}
		b.wantSettled(itemName(1), j.Name, failed)
		if len(b.ended) != 1 {
			t.Errorf("%d jobs ended", len(b.ended))
		}
		j, err = b.Skip(spec)
		if err != nil || j.State != skipped || j.Error.GetReason() != why.Reason || j.EndTime == nil || j.Tasks[0].State != skipped {
			t.Errorf("job %v, %v", j, err)
		}
		b.wantState(j.Name, skipped, why.Reason)
		if err := b.Amend(j.Name, func(j *pb.Job) { j.Outcome = "amended" }); err != nil {
			t.Error(err)
		}
		if again := b.wantState(j.Name, skipped, why.Reason); again.Outcome != "amended" || again.Revision <= j.Revision {
			t.Errorf("job %v", again)
		}
		synctest.Wait()
		if len(a.events) != 0 {
			t.Error("an agent got a job that does not run")
		}
		a.cancel()
		<-a.err

		var busy *BusyError
		var state *StateError
		waiting := b.backup(1)
		if _, err := b.Fail(spec); !errors.As(err, &busy) || busy.Job != waiting {
			t.Errorf("a second job of the item: %v", err)
		}
		if err := b.Amend(waiting, func(*pb.Job) {}); !errors.As(err, &state) {
			t.Errorf("a job that has not ended is amended: %v", err)
		}
		if err := b.Abandon(waiting, why); err != nil {
			t.Error(err)
		}
		b.wantState(waiting, failed, why.Reason)
		if err := b.Abandon(waiting, why); !errors.As(err, &state) || state.State != failed {
			t.Errorf("abandoned again: %v", err)
		}
		if err := b.Abandon(vault+"/jobs/none", why); !errors.Is(err, ErrNotFound) {
			t.Errorf("what is not there is abandoned: %v", err)
		}
		a = b.claim("", 1)
		running := b.backup(1)
		a.next(t)
		if err := b.Abandon(running, why); !errors.As(err, &state) || state.State != inProgress {
			t.Errorf("a job that runs is abandoned: %v", err)
		}
		if j := b.Busy(itemName(1)); j.GetName() != running || b.Busy(itemName(2)) != nil {
			t.Errorf("busy with %v", j)
		}
		stopped := &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED, Message: "stopped"}
		if _, err := b.CancelFor(running, stopped); err != nil {
			t.Error(err)
		}
		a.cancel()
		<-a.err
		time.Sleep(31 * time.Second) // the agent is gone; the job ends with its lease
		synctest.Wait()
		b.wantState(running, cancelled, stopped.Reason)
	})
}

// What may not run any more when its turn comes is cancelled, not failed.
func TestProtectionStoppedWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		b.why = pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED
		b.work = errors.New("protection is stopped")
		name := b.backup(1)
		a := b.claim("", 1)
		synctest.Wait()
		b.wantState(name, cancelled, pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED)
		a.cancel()
		if err := <-a.err; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
