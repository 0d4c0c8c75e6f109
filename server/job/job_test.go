package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	vault = "subscriptions/s/vaults/v"
	host  = "subscriptions/s/hosts/h"
)

func itemName(i int) string { return fmt.Sprintf("%s/protectedItems/i%d", vault, i) }

// bench is a Manager under test, with hooks that play the rest of the server.
type bench struct {
	*Manager
	t   *testing.T
	fs  *vfs.MemFS
	cat *catalog.Catalog

	mu     sync.Mutex
	made   map[string]string // job → point
	ended  []*pb.Job
	halted []string
	work   error
	settle func(*catalog.Tx, *pb.Job) error
	why    pb.ErrorReason // of what goes wrong here
}

func newBench(t *testing.T, o Options) *bench {
	b := &bench{t: t, fs: vfs.NewMem(), made: map[string]string{}, why: pb.ErrorReason_ERROR_REASON_INTERNAL}
	b.open(o)
	return b
}

func (b *bench) open(o Options) {
	b.t.Helper()
	var err error
	if b.cat, err = catalog.Open("catalog", catalog.Options{FS: b.fs}); err != nil {
		b.t.Fatal(err)
	}
	o.Catalog = b.cat
	o.Logger = slog.New(slog.DiscardHandler)
	o.Hooks = Hooks{
		Work: func(j *pb.Job, r *pb.RestoreRequest) (*pb.JobAssignment, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if r != nil {
				return &pb.JobAssignment{Work: &pb.JobAssignment_Restore{Restore: &pb.RestoreWork{RecoveryPoint: r.Name}}}, b.work
			}
			return &pb.JobAssignment{Work: &pb.JobAssignment_Backup{Backup: &pb.BackupWork{ProtectedItem: j.ProtectedItem}}}, b.work
		},
		Made: func(j *pb.Job) (string, bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			p, ok := b.made[j.Name]
			return p, ok
		},
		Ending: func(j *pb.Job) { b.mu.Lock(); defer b.mu.Unlock(); b.ended = append(b.ended, j) },
		Halt:   func(j *pb.Job) { b.mu.Lock(); defer b.mu.Unlock(); b.halted = append(b.halted, j.Name) },
		Problem: func(err error) *pb.Problem {
			b.mu.Lock()
			defer b.mu.Unlock()
			return &pb.Problem{Reason: b.why, Message: err.Error()}
		},
		Settle: func(tx *catalog.Tx, j *pb.Job) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.settle == nil {
				return nil
			}
			return b.settle(tx, j)
		},
	}
	if b.Manager, err = Open(o); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	b.Stop()
	if err := b.cat.Close(); err != nil {
		b.t.Error(err)
	}
}

// backup queues a backup of item i.
func (b *bench) backup(i int) string {
	b.t.Helper()
	j, err := b.Create(Spec{
		Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: itemName(i),
		Machine: fmt.Sprintf("%s/machines/m%d", host, i), Tasks: []string{"Take Snapshot", "Transfer data to vault"},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return j.Name
}

// wantState checks a job's state and its error's reason.
func (b *bench) wantState(name string, state pb.JobState, reason pb.ErrorReason) *pb.Job {
	b.t.Helper()
	j, err := b.Get(name)
	if err != nil {
		b.t.Fatal(err)
	}
	if j.State != state || j.Error.GetReason() != reason {
		b.t.Errorf("job is %v (%v), want %v (%v)", j.State, j.Error.GetReason(), state, reason)
	}
	return j
}

// agent is a Claim under way.
type agent struct {
	events chan *pb.ClaimJobsResponse // all but keep-alives
	err    chan error
	cancel context.CancelFunc
}

func (b *bench) claim(instance string, max int) *agent { return b.claimFor(host, instance, max) }

func (b *bench) claimFor(host, instance string, max int) *agent {
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{events: make(chan *pb.ClaimJobsResponse, 100), err: make(chan error, 1), cancel: cancel}
	go func() {
		a.err <- b.Claim(ctx, host, instance, max, func(r *pb.ClaimJobsResponse) error {
			if r.GetKeepAlive() == nil {
				a.events <- r
			}
			return nil
		})
	}()
	return a
}

// next waits for an assignment.
func (a *agent) next(t *testing.T) *pb.JobAssignment {
	t.Helper()
	e := <-a.events
	if e.GetAssignment() == nil {
		t.Fatalf("got %v, want an assignment", e)
	}
	return e.GetAssignment()
}

func report(as *pb.JobAssignment, state pb.JobState) *pb.ReportJobRequest {
	return &pb.ReportJobRequest{Job: as.Job.Name, LeaseToken: as.LeaseToken, State: state}
}

const (
	queued     = pb.JobState_JOB_STATE_QUEUED
	inProgress = pb.JobState_JOB_STATE_IN_PROGRESS
	cancelling = pb.JobState_JOB_STATE_CANCELLING
	cancelled  = pb.JobState_JOB_STATE_CANCELLED
	completed  = pb.JobState_JOB_STATE_COMPLETED
	warned     = pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS
	failed     = pb.JobState_JOB_STATE_FAILED

	noReason        = pb.ErrorReason_ERROR_REASON_UNSPECIFIED
	interruptedJob  = pb.ErrorReason_ERROR_REASON_INTERRUPTED
	cancelledReason = pb.ErrorReason_ERROR_REASON_CANCELLED
)

func TestBackupRunsToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		name := b.backup(1)
		var busy *BusyError
		if _, err := b.Create(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: itemName(1)}); !errors.As(err, &busy) || busy.Job != name {
			t.Errorf("second backup of the item: %v", err)
		}
		a := b.claim("", 1)
		as := a.next(t)
		if as.Job.Name != name || as.Job.State != inProgress || as.GetBackup().ProtectedItem != itemName(1) {
			t.Errorf("assignment %v", as)
		}
		if _, _, err := b.Report(&pb.ReportJobRequest{Job: name, LeaseToken: "x", State: inProgress}); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("report with a wrong token: %v", err)
		}
		// A job lives for as long as it is reported.
		for range 5 {
			time.Sleep(25 * time.Second)
			r := report(as, inProgress)
			r.Tasks = []*pb.JobTask{{Title: "Take Snapshot", State: completed}, {Title: "Transfer data to vault", State: inProgress, DoneBytes: 7}}
			if cancel, expire, err := b.Report(r); err != nil || cancel || time.Until(expire) != 30*time.Second {
				t.Fatalf("report: %v %v %v", cancel, expire, err)
			}
		}
		if j := b.wantState(name, inProgress, noReason); j.Tasks[1].DoneBytes != 7 || len(j.Actions) != 1 {
			t.Errorf("job %v", j)
		}
		if _, _, err := b.Report(report(as, completed)); !errors.Is(err, ErrNoPoint) {
			t.Errorf("completed without a point: %v", err)
		}
		b.made[name] = "point"
		for range 2 { // the last report can be repeated
			if _, _, err := b.Report(report(as, completed)); err != nil {
				t.Fatal(err)
			}
		}
		j := b.wantState(name, completed, noReason)
		if j.RecoveryPoint != "point" || j.EndTime == nil || j.Tasks[1].State != completed || len(j.Actions) != 0 {
			t.Errorf("job %v", j)
		}
		if _, _, err := b.Report(report(as, inProgress)); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("report after the end: %v", err)
		}
		if _, err := b.Check(name, as.LeaseToken); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("check after the end: %v", err)
		}
		if len(b.ended) != 1 {
			t.Errorf("%d jobs ended", len(b.ended))
		}
		b.backup(1) // the item is free again
		a.next(t)
		a.cancel()
		if err := <-a.err; !errors.Is(err, context.Canceled) {
			t.Errorf("claim ended with %v", err)
		}
	})
}

func TestLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		a := b.claim("", 3)
		lost, made, stopped := b.backup(1), b.backup(2), b.backup(3)
		for range 3 {
			a.next(t)
		}
		b.mu.Lock()
		b.made[made] = "point"
		b.mu.Unlock()
		if _, err := b.Cancel(stopped); err != nil {
			t.Fatal(err)
		}
		if e := <-a.events; e.GetCancellation().GetJob() != stopped {
			t.Errorf("event %v", e)
		}
		time.Sleep(29 * time.Second)
		b.wantState(lost, inProgress, noReason)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if j := b.wantState(lost, failed, interruptedJob); j.Tasks[0].State != pb.JobState_JOB_STATE_SKIPPED || j.Error.Remedy == "" {
			t.Errorf("job %v", j)
		}
		b.wantState(made, completed, noReason)
		b.wantState(stopped, cancelled, cancelledReason)
		a.cancel()
		<-a.err
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		waiting := b.backup(1)
		if j, err := b.Cancel(waiting); err != nil || j.State != cancelled {
			t.Errorf("cancel a queued job: %v %v", j, err)
		}
		var state *StateError
		if _, err := b.Cancel(waiting); !errors.As(err, &state) || state.State != cancelled {
			t.Errorf("cancel it again: %v", err)
		}
		if _, err := b.Cancel(vault + "/jobs/none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("cancel what is not there: %v", err)
		}
		a := b.claim("", 1)
		name := b.backup(1)
		as := a.next(t)
		for range 2 {
			if j, err := b.Cancel(name); err != nil || j.State != cancelling || len(j.Actions) != 0 {
				t.Errorf("cancel a running job: %v %v", j, err)
			}
		}
		if e := <-a.events; e.GetCancellation().GetJob() != name {
			t.Errorf("event %v", e)
		}
		if cancel, _, err := b.Report(report(as, inProgress)); err != nil || !cancel {
			t.Errorf("report: %v %v", cancel, err)
		}
		b.wantState(name, cancelling, noReason)
		if _, _, err := b.Report(report(as, cancelled)); err != nil {
			t.Error(err)
		}
		if j := b.wantState(name, cancelled, cancelledReason); len(j.Actions) != 1 || j.Actions[0] != pb.JobAction_JOB_ACTION_RETRY {
			t.Errorf("actions %v", j.Actions)
		}
		// Too late: the point is there.
		name = b.backup(1)
		as = a.next(t)
		b.mu.Lock()
		b.made[name] = "point"
		b.mu.Unlock()
		if _, err := b.Cancel(name); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Report(report(as, cancelled)); err != nil {
			t.Error(err)
		}
		b.wantState(name, completed, noReason)
		a.cancel()
		<-a.err
	})
}

func TestClaimLimitsAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		var names []string
		for i := range 5 {
			names = append(names, b.backup(i))
		}
		if _, err := b.Cancel(names[1]); err != nil {
			t.Fatal(err)
		}
		a := b.claim("", 2)
		first, second := a.next(t), a.next(t)
		if first.Job.Name != names[0] || second.Job.Name != names[2] {
			t.Errorf("assigned %s and %s", first.Job.Name, second.Job.Name)
		}
		synctest.Wait()
		if len(a.events) != 0 {
			t.Error("a third job was assigned")
		}
		f := report(second, failed)
		f.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED, Message: "no"}
		if _, _, err := b.Report(f); err != nil {
			t.Fatal(err)
		}
		if third := a.next(t); third.Job.Name != names[3] {
			t.Errorf("assigned %s", third.Job.Name)
		}
		b.wantState(names[2], failed, pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED)
		// What cannot be described fails, and the next has its turn.
		b.mu.Lock()
		b.work = errors.New("no such item")
		b.mu.Unlock()
		f = report(first, failed)
		f.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED}
		if _, _, err := b.Report(f); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.wantState(names[4], failed, pb.ErrorReason_ERROR_REASON_INTERNAL)
		a.cancel()
		<-a.err
	})
}

func TestAgentComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		a := b.claim("one", 2)
		said, silent := b.backup(1), b.backup(2)
		as, as2 := a.next(t), a.next(t)
		if _, _, err := b.Report(report(as, inProgress)); err != nil {
			t.Fatal(err)
		}
		// A newer stream ends the older one, and gets again what may have got lost.
		a2 := b.claim("one", 2)
		if err := <-a.err; !errors.Is(err, ErrReplaced) {
			t.Errorf("older claim ended with %v", err)
		}
		if again := a2.next(t); again.Job.Name != silent || again.LeaseToken != as2.LeaseToken {
			t.Errorf("assigned %v", again)
		}
		synctest.Wait()
		if len(a2.events) != 0 {
			t.Error("a job that was reported was assigned again")
		}
		if _, _, err := b.Report(report(as, inProgress)); err != nil {
			t.Errorf("report over the new stream: %v", err)
		}
		// Another process does not have the jobs of the first.
		a3 := b.claim("two", 2)
		if err := <-a2.err; !errors.Is(err, ErrReplaced) {
			t.Errorf("claim ended with %v", err)
		}
		if again := a3.next(t); again.Job.Name != silent || again.LeaseToken == as2.LeaseToken {
			t.Errorf("assigned %v", again)
		}
		b.wantState(said, failed, interruptedJob)
		if _, _, err := b.Report(report(as, inProgress)); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("report of the first process: %v", err)
		}
		if _, _, err := b.Report(report(as2, inProgress)); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("report of the first process: %v", err)
		}
		a3.cancel()
		<-a3.err
	})
}

func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		n := 0
		err := b.Claim(ctx, host, "", 1, func(r *pb.ClaimJobsResponse) error {
			if r.GetKeepAlive() != nil {
				n++
			}
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) || n < 4 {
			t.Errorf("%d keep-alives in a minute, %v", n, err)
		}
		if b.Connected(host) {
			t.Error("still connected")
		}
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		a := b.claim("one", 2)
		running, lost := b.backup(1), b.backup(2)
		as := a.next(t)
		a.next(t)
		waiting, first := b.backup(3), b.backup(4)
		r, err := b.Begin(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Report(report(as, inProgress)); err != nil {
			t.Fatal(err)
		}
		rev := b.rev
		b.close()
		if err := <-a.err; !errors.Is(err, ErrStopping) {
			t.Errorf("claim ended with %v", err)
		}
		b.open(Options{})
		if b.rev < rev {
			t.Errorf("revision %d after %d", b.rev, rev)
		}
		b.wantState(waiting, queued, noReason)
		b.wantState(r.e.job.Name, failed, interruptedJob)
		if _, err := b.Create(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: itemName(1)}); err == nil {
			t.Error("a second backup of an item that is backed up")
		}
		a = b.claim("one", 3)
		if next := a.next(t); next.Job.Name != waiting && next.Job.Name != first {
			t.Errorf("assigned %s", next.Job.Name)
		}
		time.Sleep(20 * time.Second)
		if _, _, err := b.Report(report(as, inProgress)); err != nil {
			t.Errorf("agent goes on: %v", err)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		b.wantState(running, inProgress, noReason)
		b.wantState(lost, failed, interruptedJob)
		a.cancel()
		<-a.err
		b.close()
	})
}

func TestRuns(t *testing.T) {
	b := newBench(t, Options{})
	verify := Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY, Tasks: []string{"Verify data"}}
	run := func(f func(*Run) error) string {
		t.Helper()
		j, err := b.Start(verify, f)
		if err != nil {
			t.Fatal(err)
		}
		return j.Name
	}
	wait := func(name string) { // until it has ended
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_ = b.Watch(ctx, func(j *pb.Job) bool { return j.Name == name }, 0, func(e Event) error {
			if e.Job != nil && Ended(e.Job.State) {
				cancel()
			}
			return nil
		})
	}
	good := run(func(r *Run) error {
		r.Update(func(j *pb.Job) { j.Stats.ReadBytes = 9; j.Tasks[0].State = inProgress })
		return nil
	})
	warning := run(func(r *Run) error {
		r.Update(func(j *pb.Job) { j.Warnings = append(j.Warnings, &pb.Warning{Message: "hm"}) })
		return nil
	})
	bad := run(func(*Run) error { return errors.New("disk on fire") })
	panics := run(func(*Run) error { panic("oh") })
	stopped := run(func(r *Run) error { <-r.Context().Done(); return context.Cause(r.Context()) })
	if j, err := b.Cancel(stopped); err != nil || j.State != cancelling {
		t.Errorf("cancel: %v %v", j, err)
	}
	for _, n := range []string{good, warning, bad, panics, stopped} {
		wait(n)
	}
	if j := b.wantState(good, completed, noReason); j.Stats.ReadBytes != 9 || j.Tasks[0].State != completed || j.Tasks[0].EndTime == nil {
		t.Errorf("job %v", j)
	}
	b.wantState(warning, warned, noReason)
	b.wantState(bad, failed, pb.ErrorReason_ERROR_REASON_INTERNAL)
	if j := b.wantState(panics, failed, pb.ErrorReason_ERROR_REASON_INTERNAL); !strings.Contains(j.Error.Message, "oh") {
		t.Errorf("error %v", j.Error)
	}
	b.wantState(stopped, cancelled, cancelledReason)
	last := run(func(r *Run) error { <-r.Context().Done(); return context.Cause(r.Context()) })
	b.close()
	if _, err := b.Start(verify, func(*Run) error { return nil }); !errors.Is(err, ErrStopping) {
		t.Errorf("start after the stop: %v", err)
	}
	b.open(Options{})
	defer b.close()
	b.wantState(last, failed, interruptedJob)
}

func TestIDsAscend(t *testing.T) {
	b := newBench(t, Options{})
	defer b.close()
	var last string
	for i := range 100 {
		name := b.backup(i)
		if id := name[strings.LastIndex(name, "/")+1:]; id <= last || len(id) > 63 || id[0] != 'j' {
			t.Fatalf("id %q after %q", id, last)
		} else {
			last = id
		}
	}
	var names []string
	if err := b.List("s", "v", "", func(j *pb.Job) bool { names = append(names, j.Name); return true }); err != nil {
		t.Fatal(err)
	}
	for i := range names[1:] {
		if names[i] <= names[i+1] {
			t.Fatalf("%s is listed before %s", names[i], names[i+1])
		}
	}
}
