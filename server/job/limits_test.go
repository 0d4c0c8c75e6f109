package job

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "cairn/proto/cairn/v1"
)

// backupOf queues a backup of item i of a vault, on a host.
func (b *bench) backupOf(vault, host string, i int) string {
	b.t.Helper()
	j, err := b.Create(Spec{
		Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: fmt.Sprintf("%s/protectedItems/i%d", vault, i),
		Machine: fmt.Sprintf("%s/machines/m%d", host, i),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return j.Name
}

func failedReport(as *pb.JobAssignment) *pb.ReportJobRequest {
	r := report(as, failed)
	r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED, Message: "no"}
	return r
}

func (b *bench) reports(r *pb.ReportJobRequest) {
	b.t.Helper()
	if _, _, err := b.Report(r); err != nil {
		b.t.Fatal(err)
	}
}

const (
	vault2 = "subscriptions/s/vaults/v2"
	host2  = "subscriptions/s/hosts/h2"
)

// A vault at its limit holds up its own jobs, on all hosts, and nobody else's.
func TestLimitPerVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{PerVault: 2})
		defer b.close()
		a1, a2 := b.claimFor(host, "one", 10), b.claimFor(host2, "two", 10)
		defer func() { a1.cancel(); a2.cancel(); <-a1.err; <-a2.err }()
		synctest.Wait()
		first, second := b.backupOf(vault, host, 1), b.backupOf(vault, host2, 2)
		as1, as2 := a1.next(t), a2.next(t)
		third, fourth := b.backupOf(vault, host, 3), b.backupOf(vault, host2, 4)
		other := b.backupOf(vault2, host, 5)
		if as := a1.next(t); as.Job.Name != other {
			t.Errorf("assigned %s, want the job of the other vault", as.Job.Name)
		}
		synctest.Wait()
		if len(a1.events)+len(a2.events) != 0 {
			t.Fatal("more jobs of the vault than its limit")
		}
		b.wantState(third, queued, noReason)
		b.wantState(fourth, queued, noReason)
		b.reports(failedReport(as2)) // at the second host; the first may take its place, or the second
		synctest.Wait()
		if n := len(a1.events) + len(a2.events); n != 1 {
			t.Fatalf("%d jobs took the place of one", n)
		}
		b.reports(failedReport(as1))
		synctest.Wait()
		if len(a1.events) != 1 || len(a2.events) != 1 {
			t.Fatalf("%d and %d jobs, want one each", len(a1.events), len(a2.events))
		}
		b.wantState(first, failed, pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED)
		b.wantState(second, failed, pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED)
		b.wantState(third, inProgress, noReason)
		b.wantState(fourth, inProgress, noReason)
	})
}

// The jobs of an agent that is away count, since it may still work on them; when
// their leases have run out, others go on.
func TestLimitPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{PerHost: 1, PerVault: 1})
		defer b.close()
		a := b.claim("one", 10)
		var names []string
		for i := range 3 {
			names = append(names, b.backup(i))
		}
		as := a.next(t)
		b.reports(report(as, inProgress))
		b.reports(report(as, inProgress))
		a.cancel()
		<-a.err
		far := b.claimFor(host2, "far", 1)
		distant := b.backupOf(vault, host2, 9)
		a = b.claim("one", 10)
		synctest.Wait()
		if len(a.events)+len(far.events) != 0 {
			t.Error("a second job began")
		}
		if as.Job.Name != names[0] {
			t.Errorf("first was %s", as.Job.Name)
		}
		b.reports(failedReport(as))
		synctest.Wait()
		if len(a.events)+len(far.events) != 1 {
			t.Errorf("%d and %d jobs began", len(a.events), len(far.events))
		}
		b.wantState(names[2], queued, noReason)
		time.Sleep(31 * time.Second) // nobody reports the one that began
		synctest.Wait()
		ended := 0
		for _, name := range append(names, distant) {
			if j, err := b.Get(name); err == nil && Ended(j.State) {
				ended++
			}
		}
		if n := len(a.events) + len(far.events); n != 2 || ended != 2 {
			t.Errorf("%d jobs began, %d have ended", n, ended)
		}
		a.cancel()
		far.cancel()
		<-a.err
		<-far.err
	})
}

// Restores go before backups also when there is a limit.
func TestRestoresGoFirstAtALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{PerVault: 1})
		defer b.close()
		a := b.claim("one", 10)
		b.backup(1)
		as := a.next(t)
		b.backup(2)
		r, err := b.Create(Spec{
			Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_RESTORE, ProtectedItem: itemName(3), RecoveryPoint: "p",
			Restore: &pb.RestoreRequest{Name: "p", Host: host},
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(a.events) != 0 {
			t.Fatal("a second job began")
		}
		b.reports(failedReport(as))
		if as = a.next(t); as.Job.Name != r.Name {
			t.Errorf("assigned %s, want the restore", as.Job.Name)
		}
		a.cancel()
		<-a.err
	})
}
