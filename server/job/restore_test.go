package job

import (
	"errors"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

const otherHost = "subscriptions/s/hosts/other"

// restoreSpec is a restore of a point of item 1, whose machine is on host.
func restoreSpec(r *pb.RestoreRequest, host string) Spec {
	r.Name, r.Host = itemName(1)+"/recoveryPoints/p1", host
	return Spec{
		Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_RESTORE, ProtectedItem: itemName(1),
		Machine: "subscriptions/s/hosts/h/machines/m1", RecoveryPoint: r.Name, Restore: r,
	}
}

func (b *bench) restore(r *pb.RestoreRequest, host string) string {
	b.t.Helper()
	j, err := b.Create(restoreSpec(r, host))
	if err != nil {
		b.t.Fatal(err)
	}
	return j.Name
}

// A restore runs at the host that it names, keeps its point busy to its end, and
// is the same after a restart.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		want := &pb.RestoreRequest{Target: &pb.RestoreRequest_NewMachine{NewMachine: &pb.RestoreNewMachine{Title: "copy"}}}
		name := b.restore(want, otherHost)
		backup := b.backup(1) // beside it
		point := want.Name
		for range 2 {
			if j, ok := b.Reading(point); !ok || j != name {
				t.Errorf("the point is read by %q, %v", j, ok)
			}
			if j, ok := b.Waiting(otherHost); !ok || j != name {
				t.Errorf("the host has the job %q, %v", j, ok)
			}
			if got, err := b.Restore(name); err != nil || !proto.Equal(got, want) {
				t.Errorf("it is to do %v, %v", got, err)
			}
			b.close()
			b.open(Options{})
		}
		other := b.claimFor(otherHost, "", 1)
		as := other.next(t)
		if as.Job.Name != name || as.GetRestore().GetRecoveryPoint() != point {
			t.Errorf("assignment %v", as)
		}
		own := b.claimFor(host, "", 1)
		if as := own.next(t); as.Job.Name != backup {
			t.Errorf("assignment %v", as)
		}
		if _, _, err := b.Report(&pb.ReportJobRequest{
			Job: name, LeaseToken: as.LeaseToken, State: pb.JobState_JOB_STATE_COMPLETED, Outcome: "done"}); err != nil {
			t.Error(err)
		}
		if j := b.wantState(name, pb.JobState_JOB_STATE_COMPLETED, 0); j.Outcome != "done" || j.RecoveryPoint != point {
			t.Errorf("job %v", j)
		}
		if _, ok := b.Reading(point); ok {
			t.Error("the point is still read")
		}
		if _, ok := b.Waiting(otherHost); ok {
			t.Error("the host still has a job")
		}
		if _, err := b.Restore(backup); !errors.Is(err, ErrNotFound) {
			t.Errorf("a backup is to restore: %v", err)
		}
		b.close()
	})
}

// Restores go before backups that wait longer, both oldest first.
func TestRestoresGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		var want []string
		for i := range 2 {
			want = append(want, b.backup(i))
		}
		for range 2 {
			want = append(want, b.restore(&pb.RestoreRequest{}, host))
		}
		b.close()
		b.open(Options{})
		gone := b.restore(&pb.RestoreRequest{}, host)
		if _, err := b.Cancel(gone); err != nil {
			t.Error(err)
		}
		a := b.claim("", 4)
		for _, i := range []int{2, 3, 0, 1} {
			if got := a.next(t).Job.Name; got != want[i] {
				t.Errorf("got %s, want %s", got, want[i])
			}
		}
		b.close()
	})
}

// A restore in place and a backup exclude each other, also after a restart. A
// restore of which nobody knows what it was to do fails.
func TestRestoreInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		place := func() *pb.RestoreRequest {
			return &pb.RestoreRequest{Target: &pb.RestoreRequest_InPlace{InPlace: &pb.RestoreInPlace{}}}
		}
		name := b.restore(place(), host)
		for range 2 {
			var busy *BusyError
			for _, spec := range []Spec{
				restoreSpec(place(), host), {Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: itemName(1)}} {
				if _, err := b.Create(spec); !errors.As(err, &busy) || busy.Job != name || busy.What() != "a restore in place" {
					t.Errorf("error %v", err)
				}
			}
			b.backup(2 + int(b.rev)) // of another item
			b.close()
			b.open(Options{})
		}
		if _, err := b.Cancel(name); err != nil {
			t.Error(err)
		}
		if j := b.wantState(name, pb.JobState_JOB_STATE_CANCELLED, pb.ErrorReason_ERROR_REASON_CANCELLED); len(j.Actions) != 1 {
			t.Errorf("job %v", j)
		}
		backup := b.backup(1)
		var busy *BusyError
		if _, err := b.Create(restoreSpec(place(), host)); !errors.As(err, &busy) || busy.Job != backup || busy.What() != "a backup" {
			t.Errorf("error %v", err)
		}
		name = b.restore(&pb.RestoreRequest{}, host)
		b.Stop()
		if err := b.cat.Update(t.Context(), func(tx *catalog.Tx) error {
			j, err := tx.Job(name)
			if err != nil {
				return err
			}
			return errors.Join(tx.DeleteJob(name), tx.PutJob(j)) // without what belongs to it
		}); err != nil {
			t.Fatal(err)
		}
		if err := b.cat.Close(); err != nil {
			t.Fatal(err)
		}
		b.open(Options{})
		b.wantState(name, pb.JobState_JOB_STATE_FAILED, pb.ErrorReason_ERROR_REASON_INTERRUPTED)
		b.close()
	})
}
