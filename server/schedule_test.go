package server

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	pb "cairn/proto/cairn/v1"
)

const skipped = pb.JobState_JOB_STATE_SKIPPED

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

// After ten days without a server there is one run, of the last slot.
func TestMissedRunsAreMadeUpForOnce(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	w.at(hour(0, 22))
	a := w.claim("one")
	w.succeed(a.assignment())
	w.stop()
	w.clock.now = hour(10, 9)
	w.start()
	w.after(0)
	w.after(time.Second)
	if j := w.last(item1, 2); !j.ScheduleTime.AsTime().Equal(hour(9, 22)) || j.Attempt != 1 {
		t.Errorf("job %v", j)
	}
	w.wantNext(item1, hour(10, 22))
}

func TestRunsBeforeAPolicyAreNotMadeUpFor(t *testing.T) {
	w := newScheduleWorld(t)
	w.at(hour(1, 3))
	w.protect() // five hours after a run of its policy
	w.after(time.Hour)
	if n := len(w.backups(item1)); n != 0 {
		t.Fatalf("%d backups of runs before the item", n)
	}
	w.at(hour(1, 20))
	w.schedule(dailyAt(19, 0, "")) // an hour ago
	w.after(0)
	w.at(hour(1, 23))
	if n := len(w.backups(item1)); n != 0 {
		t.Fatalf("%d backups of runs before the schedule, or of the one before", n)
	}
	w.wantNext(item1, hour(2, 19))
	w.at(hour(2, 19))
	if j := w.last(item1, 1); !j.ScheduleTime.AsTime().Equal(hour(2, 19)) {
		t.Errorf("job %v", j)
	}
}

// On 29 March 2026 Berlin has no 02:30, on 25 October it has two.
func TestDaysWhoseClocksChange(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range []time.Time{time.Date(2026, 3, 29, 0, 0, 0, 0, berlin), time.Date(2026, 10, 25, 0, 0, 0, 0, berlin)} {
		w := newScheduleWorld(t)
		w.schedule(dailyAt(2, 30, "Europe/Berlin"))
		w.clock.now = day.Add(-12 * time.Hour)
		w.protect()
		a := w.claim("one")
		days := map[string]int{}
		for now := w.clock.now; now.Before(day.AddDate(0, 0, 2)); now = now.Add(10 * time.Minute) {
			before := len(w.backups(item1))
			if w.at(now); len(w.backups(item1)) > before {
				days[now.In(berlin).Format(time.DateOnly)]++
				w.succeed(a.assignment())
			}
		}
		if len(days) != 2 || days[day.Format(time.DateOnly)] != 1 {
			t.Errorf("around %v: backups per day %v", day, days)
		}
		a.cancel()
		w.stop()
	}
}

func TestARunIsSkippedWhileTheOneBeforeRuns(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	a := w.claim("one")
	w.at(hour(0, 22))
	w.succeed(a.assignment())
	w.at(hour(1, 22))
	slow := a.assignment()
	w.at(hour(2, 22))
	w.after(time.Hour)
	j := w.last(item1, 3)
	if j.State != skipped || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS || j.Error.Metadata["job"] != slow.Job.Name ||
		j.Error.Remedy == "" || j.EndTime == nil || len(j.Actions) != 0 || j.Tasks[0].State != skipped {
		t.Errorf("job %v", j)
	}
	it := w.item(item1)
	if it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_HEALTHY || it.Health != pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED || it.HealthDetail == "" {
		t.Errorf("item %v", it)
	}
	w.restart()
	w.after(time.Hour)
	w.last(item1, 3)
	w.succeed(slow)
	if it := w.item(item1); it.Health != pb.HealthStatus_HEALTH_STATUS_PASSED {
		t.Errorf("item %v", it)
	}
	w.at(hour(3, 22))
	if want := []pb.JobState{completed, completed, skipped, pb.JobState_JOB_STATE_QUEUED}; !slices.Equal(w.states(item1), want) {
		t.Errorf("states %v", w.states(item1))
	}
}

// A backup that waits for an agent that is away makes place for the next; one that
// waits for its turn does not.
func TestARunWhileTheOneBeforeWaits(t *testing.T) {
	w := newScheduleWorld(t, func(o *Options) { o.JobsPerHost = 1 })
	w.protect()
	w.at(hour(0, 22))
	w.at(hour(1, 22))
	js := w.backups(item1)
	if len(js) != 2 || js[0].State != failed || js[1].State != pb.JobState_JOB_STATE_QUEUED || js[0].NextAttemptTime != nil {
		t.Fatalf("jobs %v", js)
	}
	if e := js[0].Error; e.Reason != pb.ErrorReason_ERROR_REASON_AGENT_UNREACHABLE || e.Metadata["host"] != host1 || e.Remedy == "" {
		t.Errorf("error %v", e)
	}
	if it := w.item(item1); it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_UNHEALTHY {
		t.Errorf("item %v", it)
	}
	a := w.claim("one")
	w.succeed(a.assignment())
	db1 := w.protectAs("db1", daily)
	w.at(hour(2, 22))
	a.assignment()
	w.at(hour(3, 22))
	var all []pb.JobState
	for _, item := range []string{item1, db1} {
		if n := len(w.backups(item)); n < 2 {
			t.Fatalf("%d jobs of %s", n, item)
		}
		all = append(all, w.backups(item)[len(w.backups(item))-1].State)
	}
	if !slices.Equal(all, []pb.JobState{skipped, skipped}) {
		t.Errorf("states %v", all)
	}
}

func TestARunThatCannotBeDone(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	a := w.claim("one")
	must[*pb.ReportMachinesResponse](t)(w.hosts.ReportMachines(w.ctx, &pb.ReportMachinesRequest{Parent: host1}))
	w.at(hour(0, 22))
	j := w.last(item1, 1)
	if j.State != failed || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_MACHINE_GONE || j.Error.Remedy == "" || j.NextAttemptTime != nil {
		t.Errorf("job %v", j)
	}
	it := w.item(item1)
	if it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_PROTECTION_ERROR || it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_UNHEALTHY || it.LastBackupJob != j.Name {
		t.Errorf("item %v", it)
	}
	w.host("rack1", "", "web1", "db1")
	w.at(hour(1, 22))
	w.succeed(a.assignment())
	if it := w.item(item1); it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_PROTECTED {
		t.Errorf("item %v", it)
	}
}

// Nobody's agent gets a job of an item whose protection has stopped.
func TestNothingRunsOnceProtectionHasStopped(t *testing.T) {
	w := newScheduleWorld(t)
	w.protect()
	w.at(hour(0, 22))
	must[*pb.StopProtectionResponse](t)(w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{
		Name: item1, Mode: pb.StopProtectionMode_STOP_PROTECTION_MODE_RETAIN_DATA,
	}))
	if j := w.last(item1, 1); j.State != pb.JobState_JOB_STATE_CANCELLED || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED {
		t.Errorf("job %v", j)
	}
	w.at(hour(1, 22))
	w.last(item1, 1)
	if it := w.item(item1); it.NextBackupTime != nil {
		t.Errorf("item %v", it)
	}
	if left := must[[]string](t)(w.s.cat.Scheduled()); len(left) != 0 {
		t.Errorf("the scheduler still knows %v", left)
	}
	w.at(hour(2, 12))
	must[*pb.ResumeProtectionResponse](t)(w.items.ResumeProtection(w.ctx, &pb.ResumeProtectionRequest{Name: item1}))
	w.after(0)
	w.last(item1, 1) // what was missed meanwhile is not made up for
	w.at(hour(2, 22))
	w.last(item1, 2)
}

func TestStartsAreSpread(t *testing.T) {
	w := newScheduleWorld(t, func(o *Options) { o.Spread, o.SpreadStep = 10*time.Minute, 5*time.Second })
	ids := []string{"m1", "m2", "m3", "m4", "m5"}
	w.host("rack1", "", ids...)
	var items []string
	for _, id := range ids {
		items = append(items, w.protectAs(id, daily))
	}
	begun := func() (out []string) {
		for _, item := range items {
			if len(w.backups(item)) == 1 {
				out = append(out, item)
			}
		}
		return out
	}
	w.at(hour(0, 22))
	first := begun()
	if len(first) != 1 {
		t.Fatalf("%d began at once", len(first))
	}
	w.after(4 * time.Second)
	w.restart()
	w.after(0)
	if n := len(begun()); n != 1 {
		t.Errorf("%d began before the first step", n)
	}
	for n := 2; n <= 5; n++ {
		w.at(hour(0, 22).Add(time.Duration(n-1) * 5 * time.Second))
		if got := len(begun()); got != n {
			t.Errorf("%d began, want %d", got, n)
		}
	}
	for _, item := range items {
		if j := w.last(item, 1); !j.ScheduleTime.AsTime().Equal(hour(0, 22)) {
			t.Errorf("job %v", j)
		}
	}
	// Many items have shorter steps; what is late begins at once.
	var many []*scheduled
	for i := range 601 {
		many = append(many, &scheduled{uid: string(rune('a' + i)), slot: hour(0, 22)})
	}
	spread(many, 5*time.Second, 5*time.Minute)
	for k, sc := range many {
		if sc.wait < 0 || sc.wait > 5*time.Minute || k > 0 && sc.wait <= many[k-1].wait {
			t.Fatalf("item %d waits %v", k, sc.wait)
		}
	}
	w.at(hour(1, 23))
	for _, item := range items {
		if n := len(w.backups(item)); n != 2 {
			t.Errorf("%d backups of %s", n, item)
		}
	}
}

// A vault without room fails its runs, and they are tried again when there may be
// some; one that is not open has its run as soon as it is.
func TestARunOfAnIllVault(t *testing.T) {
	disk := tightFS{vfs.NewMem(), new(atomic.Uint64)}
	disk.free.Store(1 << 40)
	w := newScheduleWorld(t, func(o *Options) { o.FS = disk })
	w.protect()
	a := w.claim("one")
	disk.free.Store(minFree - 1) // the catalog needs less
	w.at(hour(0, 22))
	if j := w.wantRetry(item1, 1, hour(0, 22).Add(15*time.Minute)); j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_STORE_FULL {
		t.Errorf("job %v", j)
	}
	disk.free.Store(1 << 40)
	w.at(hour(0, 22).Add(15 * time.Minute))
	w.succeed(a.assignment())

	v := must[*Vault](t)(w.s.vaults.find(VaultName{"default", "v1"}))
	broken := func(e *Error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.broken = e
	}
	broken(newError(pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, "no such device"))
	w.at(hour(1, 22))
	w.last(item1, 2)
	broken(nil)
	w.at(hour(1, 23))
	if j := w.last(item1, 3); j.Attempt != 1 || !j.ScheduleTime.AsTime().Equal(hour(1, 22)) {
		t.Errorf("job %v", j)
	}
}
