package server

import (
	"fmt"
	"maps"
	"strings"
	"time"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
	"cairn/server/policy"
)

// compare lets all that is under way come to its end, which must come, and then
// compares what the server holds with what was acknowledged.
func (l *killedLife) compare() {
	l.t.Helper()
	l.turn.Lock()
	defer l.turn.Unlock()
	l.compareAll()
	l.gentle.Store(true)
	defer l.gentle.Store(false)
	for range 18 { // a day and a half in peace
		l.advance(2*time.Hour - killedLease/2)
		l.settle()
	}
}

func (l *killedLife) compareAll() {
	l.t.Helper()
	l.check()
	l.gentle.Store(true)
	defer l.gentle.Store(false)
	l.settle()
	l.compareJobs()
	l.comparePoints()
	for _, it := range l.items {
		it.look()
	}
	l.check()
}

// settle lets the clock run until all jobs have ended.
func (l *killedLife) settle() {
	l.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		l.advance(killedLease / 2)
		l.check()
		left := l.w.jobsOf("", pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLING)
		for end := time.Now().Add(200 * time.Millisecond); len(left) > 0 && time.Now().Before(end); { // agents are at work, perhaps
			time.Sleep(time.Millisecond)
			left = l.w.jobsOf("", pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLING)
		}
		if len(left) == 0 {
			l.tell("tend") // a new point may let go of the one before
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("at %s these jobs do not end: %v", l.clock.Now().Format(time.DateTime), left)
		}
	}
}

// compareJobs: none that anybody was told of is missing, none that ended has
// changed, none was made twice, and each run of a schedule had its one job.
func (l *killedLife) compareJobs() {
	l.t.Helper()
	n := &l.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	now := map[string]*pb.Job{}
	slots := map[string]map[time.Time]int{} // item → run → first attempts
	type try struct {
		item, slot string
		attempt    int32
	}
	tries, done := map[try]string{}, map[try]string{}
	for _, j := range l.w.jobsOf("") {
		now[j.Name] = j
		if j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP {
			continue
		}
		if j.ScheduleTime == nil {
			if !n.asked[j.Name] {
				l.t.Errorf("nobody asked for this backup, or once only: %v", j)
			}
			continue
		}
		slot := j.ScheduleTime.AsTime()
		t := try{j.ProtectedItem, slot.Format(time.RFC3339), j.Attempt}
		if other := tries[t]; other != "" && !n.asked[j.Name] {
			l.t.Errorf("%v was made twice: %s and %s", t, other, j.Name)
		}
		if tries[t] = j.Name; j.Attempt == 1 {
			if slots[j.ProtectedItem] == nil {
				slots[j.ProtectedItem] = map[time.Time]int{}
			}
			slots[j.ProtectedItem][slot]++
		}
		if t.attempt = 0; j.RecoveryPoint != "" {
			if other := done[t]; other != "" && !n.asked[j.Name] {
				l.t.Errorf("the run %v was done twice: %s and %s", t, other, j.Name)
			}
			done[t] = j.Name
		}
	}
	for name, was := range n.jobs {
		is := now[name]
		switch {
		case is == nil:
			l.t.Errorf("job %s is lost; it was\n%v", name, was)
		case job.Ended(was.State) && (was.State != is.State || !was.EndTime.AsTime().Equal(is.EndTime.AsTime()) || was.RecoveryPoint != is.RecoveryPoint):
			l.t.Errorf("a job that had ended has changed from\n%v to\n%v", was, is)
		}
	}
	n.jobs = now
	for _, it := range l.items {
		l.compareRuns(it, slots[it.name])
	}
}

// compareRuns: every run of an item's schedule during the times when it was surely
// protected has its job.
func (l *killedLife) compareRuns(it *killedItem, jobs map[time.Time]int) {
	const margin = killedLeap + time.Hour // starts are spread, and the clock leaps
	for _, s := range it.spans {
		to := s.to
		if to.IsZero() {
			to = l.clock.Now()
		}
		for slot := range policy.Runs(s.schedule, s.from.Add(time.Minute), to.Add(-margin)) {
			if jobs[slot] != 1 {
				l.t.Errorf("%s, protected from %v to %v, has %d jobs for the run of %v", it.name, s.from, to, jobs[slot], slot)
			}
		}
	}
}

// comparePoints: all that were acknowledged are there unless something took them,
// those that were deleted or have expired are not, and all that are there hold what
// their machines' disks held.
func (l *killedLife) comparePoints() {
	l.t.Helper()
	l.notes.mu.Lock()
	deleted := maps.Clone(l.notes.deleted)
	l.notes.mu.Unlock()
	now := l.clock.Now()
	for _, it := range l.items {
		if it.state == itemAbsent {
			continue
		}
		have := map[string]*pb.RecoveryPoint{}
		list := l.w.pointsOf(it.name)
		for _, p := range list {
			have[p.Name] = p
			l.w.checkGuest(p)
			switch e := p.ExpireTime; {
			case deleted[p.Name]:
				l.t.Errorf("%s is there though it was deleted", p.Name)
			case e != nil && !e.AsTime().After(now):
				l.t.Errorf("at %v there is a point that has expired: %v", now, p)
			}
		}
		r, err := callKilled(l, l.w.items.GetProtectedItem, &pb.GetProtectedItemRequest{Name: it.name})
		if err != nil {
			l.t.Fatal(err)
		}
		if i := r.ProtectedItem; int(i.RecoveryPointCount) != len(list) || len(list) > 0 && i.LatestRecoveryPoint != list[len(list)-1].Name {
			l.t.Errorf("%s has %d points, and says %v", it.name, len(list), i)
		}
		l.compareAcknowledged(it, have)
	}
}

func (l *killedLife) compareAcknowledged(it *killedItem, have map[string]*pb.RecoveryPoint) {
	now := l.clock.Now()
	newest := ""
	for name := range have {
		newest = max(newest, name)
	}
	for _, p := range it.acknowledged() {
		until := p.RetainUntil.AsTime()
		if least := p.SnapshotTime.AsTime().Add(killedLeast); p.ScheduleTime != nil && least.After(until) {
			until = least
		}
		if have[p.Name] == nil && (p.Name > newest || until.After(now)) {
			l.t.Errorf("at %v this point is lost: %v", now, p)
		}
	}
}

// verified ends a life: all points are verified, by the server and then without it,
// and no garbage stays.
func (l *killedLife) verified() {
	l.t.Helper()
	l.turn.Lock()
	defer l.turn.Unlock()
	l.compareAll()
	total := 0
	for _, it := range l.items {
		if it.state == itemAbsent {
			continue
		}
		for _, p := range l.w.pointsOf(it.name) {
			total++
			r, err := callKilled(l, l.w.points.Verify, &pb.VerifyRequest{Name: p.Name})
			if err != nil {
				l.t.Fatal(err)
			}
			if j := l.ended(r.Job.Name); j.State != completed {
				l.t.Errorf("verification %v", j)
			}
		}
	}
	for _, dry := range []bool{false, true} {
		r, err := callKilled(l, l.w.vaults.ReclaimVault, &pb.ReclaimVaultRequest{Name: vault, DryRun: dry})
		if err != nil {
			l.t.Fatal(err)
		}
		if j := l.ended(r.Job.Name); j.State != completed || dry && (j.Stats.GarbageBlocks != 0 || j.Stats.GarbageBytes != 0) {
			l.t.Errorf("reclaim %v", j)
		}
	}
	u, err := callKilled(l, l.w.vaults.GetVaultUsage, &pb.GetVaultUsageRequest{Name: vault})
	if err != nil || u.Usage.RecoveryPointCount != int64(total) {
		l.t.Errorf("%d points, usage %v, %v", total, u, err)
	}
	l.check()
}

// ended gives a job of the server's own at its end.
func (l *killedLife) ended(name string) *pb.Job {
	l.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		r, err := callKilled(l, l.w.jobs.GetJob, &pb.GetJobRequest{Name: name})
		if err != nil || time.Now().After(deadline) {
			l.t.Fatalf("job %s: %v, %v", name, r, err)
		}
		if job.Ended(r.Job.State) {
			return r.Job
		}
	}
}

// story tells in a line what happened.
func (l *killedLife) story(kills int) string {
	n := &l.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	backups, ends := 0, map[string]int{}
	for _, j := range n.jobs {
		if j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP {
			backups++
			ends[strings.ToLower(strings.TrimPrefix(j.State.String(), "JOB_STATE_"))]++
		}
	}
	purged := 0
	for _, it := range l.items {
		purged += len(it.purged)
	}
	return fmt.Sprintf("%d kills in %.1f days: %d calls answered, %d of them not at once; %d backups (%v), %d points committed, %d deletions, %d items purged",
		kills, l.clock.Now().Sub(startEpoch).Hours()/24, n.calls, n.repeats, backups, ends, len(n.points), len(n.deleted), purged)
}
