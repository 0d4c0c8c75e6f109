package server

import (
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// scheduleWorld is a world with vault, policy (daily at 22:00 UTC) and host, whose
// time only tests move. Leases last for weeks, so that jobs of agents run as long
// as tests want.
type scheduleWorld struct {
	*world
	clock *lifeClock
}

// noon is when tests of schedules begin: in Berlin's winter, on a Monday.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func newScheduleWorld(t *testing.T, change ...func(*Options)) *scheduleWorld {
	t.Helper()
	w := &scheduleWorld{clock: &lifeClock{now: noon}}
	o := Options{
		FS: vfs.NewMem(), Dir: "data", Now: w.clock.Now, Unattended: true, Spread: -1,
		Jobs: job.Options{Lease: 30 * 24 * time.Hour},
	}
	for _, f := range change {
		f(&o)
	}
	w.world = newWorld(t, o)
	w.setUp()
	return w
}

// at sets the clock and does what is due then.
func (w *scheduleWorld) at(t time.Time) {
	w.t.Helper()
	w.clock.mu.Lock()
	w.clock.now = t
	w.clock.mu.Unlock()
	w.s.Tend(w.ctx)
}

// after is at, that much later.
func (w *scheduleWorld) after(d time.Duration) {
	w.t.Helper()
	w.at(w.clock.Now().Add(d))
}

// backups are the jobs that backed up an item, oldest first.
func (w *scheduleWorld) backups(item string) []*pb.Job {
	w.t.Helper()
	r := must[*pb.ListJobsResponse](w.t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault, PageSize: 1000, Filter: &pb.JobFilter{
		Operations: []pb.JobOperation{pb.JobOperation_JOB_OPERATION_BACKUP}, ProtectedItem: item,
	}}))
	slices.Reverse(r.Jobs)
	return r.Jobs
}

// last is the newest of n backups of an item.
func (w *scheduleWorld) last(item string, n int) *pb.Job {
	w.t.Helper()
	js := w.backups(item)
	if len(js) != n {
		w.t.Fatalf("at %v there are %d backups, want %d: %v", w.clock.Now(), len(js), n, js)
	}
	return js[n-1]
}

// succeed carries an assignment through.
func (w *scheduleWorld) succeed(as *pb.JobAssignment) {
	w.t.Helper()
	must[*pb.RecoveryPoint](w.t)(w.commit(w.upload(as)))
	must[*pb.ReportJobResponse](w.t)(w.reportJob(as, completed))
}

// fail ends an assignment with a reason.
func (w *scheduleWorld) fail(as *pb.JobAssignment, reason pb.ErrorReason) {
	w.t.Helper()
	must[*pb.ReportJobResponse](w.t)(w.reportJob(as, pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
		r.Error = &pb.Problem{Reason: reason, Message: "it went wrong"}
	}))
}

// protectAs protects a machine of host rack1 with a policy of v1.
func (w *scheduleWorld) protectAs(machine, policy string) string {
	w.t.Helper()
	return must[*pb.ProtectMachineResponse](w.t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: host1 + "/machines/" + machine, Policy: policy},
	})).ProtectedItem.Name
}

// schedule gives policy daily a schedule.
func (w *scheduleWorld) schedule(s *pb.Schedule) {
	w.t.Helper()
	must[*pb.UpdatePolicyResponse](w.t)(w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{
		Policy: &pb.Policy{Name: daily, Schedule: s}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule"}},
	}))
}

func dailyAt(hours, minutes int32, zone string) *pb.Schedule {
	return &pb.Schedule{TimeZone: zone, Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: hours, Minutes: minutes}}}}
}

// states are those of an item's backups, oldest first.
func (w *scheduleWorld) states(item string) (out []pb.JobState) {
	for _, j := range w.backups(item) {
		out = append(out, j.State)
	}
	return out
}

// wantNext checks when an item is backed up next.
func (w *scheduleWorld) wantNext(item string, want time.Time) {
	w.t.Helper()
	if it := w.item(item); it.NextBackupTime == nil || !it.NextBackupTime.AsTime().Equal(want) {
		w.t.Errorf("at %v the next backup is at %v, want %v", w.clock.Now(), it.NextBackupTime.AsTime(), want)
	}
}

// hour is a time of day so many days after noon's.
func hour(days, hours int) time.Time {
	return time.Date(noon.Year(), noon.Month(), noon.Day()+days, hours, 0, 0, 0, time.UTC)
}
