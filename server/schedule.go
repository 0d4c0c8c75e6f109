package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
	"cairn/server/policy"
)

// # Scheduling
//
// The chore runSchedules makes the jobs of scheduled backups. The runs of an item
// are what package policy computes of its policy's schedule; each has a time, its
// slot. The last slot that was seen to is stored with the item's name in the
// catalog, in the transaction that makes the job: so no run is lost and none comes
// twice, whenever the server is killed.
//
//   - A slot is due when it is behind the item's base: the last slot that was seen
//     to, or since when the item has its policy, or since when the policy has its
//     schedule, whichever is last. Only the latest slot counts: after ten days
//     without a server there is one run, not ten.
//   - Backups due at the same slot start one after the other, in an order that
//     depends on nothing but the items' uids: the k-th begins k steps after the
//     slot. A step is Options.SpreadStep, or less if that would take longer than
//     Options.Spread. What is late already begins at once; the limits of jobs that
//     run at a time hold it.
//   - If the backup before is still under way, the run is recorded as SKIPPED. If
//     that one still waits for the agent of its host, which is not there, it ends as
//     FAILED (AGENT_UNREACHABLE), and the new one waits in its place.
//   - If the vault or the machine cannot be backed up, the job ends at once, as
//     FAILED with the reason, so that everybody sees it who looks at jobs. If the
//     vault is not open, nothing is known of its items, and the chore tries again.
//   - A scheduled backup that failed is tried again if its reason may pass
//     (retry.go), as a job of its own: with the same slot, retry_of the one before,
//     and attempt one more. What is to be tried again is stored with the end of the
//     job that failed. It is dropped when the next slot comes first, when another
//     backup of the item succeeded meanwhile or is under way, and when protection
//     stops. Nothing is tried again that somebody cancelled.
//   - Nothing runs of an item that is stopped or deleted: its jobs are cancelled
//     when that happens (endItemJobs), and a job that was made at the same moment
//     is refused when its agent is to get it.

// scheduled is an item in one round of the chore.
type scheduled struct {
	v    *Vault
	n    ItemName
	uid  string
	rec  catalog.Schedule
	slot time.Time // the latest run that may be due; zero if there is none
	wait time.Duration
}

// runSchedules is the chore that starts backups when schedules want them.
func (s *Server) runSchedules(ctx context.Context, now time.Time) (next time.Time, err error) {
	wake := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	var errs []error
	var items []*scheduled
	known, away := map[string]bool{}, map[VaultName]bool{}
	for _, v := range s.vaults.all() {
		release, err := v.use()
		if err != nil { // its items are not known, or cannot be told how it went
			away[v.Name] = true
			continue
		}
		defer release()
		for _, it := range v.itemsOf(func(*pb.ProtectedItem) bool { return true }) {
			sc, upcoming, err := s.scheduled(v, it, now)
			if err != nil {
				errs = append(errs, err)
			}
			if sc == nil {
				continue
			}
			known[it.Name] = true
			wake(upcoming)
			items = append(items, sc)
		}
	}
	spread(items, s.opts.SpreadStep, s.opts.Spread)
	for _, sc := range items {
		if ctx.Err() != nil {
			return next, ctx.Err()
		}
		retry := sc.rec.Retry
		switch start := sc.slot.Add(sc.wait); {
		case sc.slot.After(sc.rec.Slot) && start.After(now):
			wake(start)
		case sc.slot.After(sc.rec.Slot):
			errs = append(errs, s.runSlot(ctx, sc, catalog.Retry{Attempt: 1}))
		case retry != nil && retry.Due.After(now):
			wake(retry.Due)
		case retry != nil:
			errs = append(errs, s.runSlot(ctx, sc, *retry))
		}
	}
	return next, errors.Join(append(errs, s.forgetSchedules(ctx, known, away))...)
}

// scheduled looks up what is due of an item, and when its next run comes; nil for
// one that is not to be backed up.
func (s *Server) scheduled(v *Vault, it *pb.ProtectedItem, now time.Time) (sc *scheduled, upcoming time.Time, err error) {
	ids, _ := splitName(it.Name, itemPattern, false)
	sc = &scheduled{v: v, n: ItemName{v.Name, ids[2]}, uid: it.Uid}
	p := v.pointPolicy(it)
	if !isProtected(it) || p == nil {
		if j := s.jobs.Busy(it.Name); !isProtected(it) && j != nil && j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP {
			err = s.endItemJobs(it.Name, stoppedProblem(it)) // the server was killed before it was done
		}
		return nil, upcoming, err
	}
	sc.rec, err = s.cat.Schedule(it.Name)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		if !errors.Is(err, catalog.ErrCorrupt) {
			return nil, upcoming, err
		}
		// Better a run too many than none any more.
		s.log.Error("how far a schedule has come is not known any more", "item", it.Name, "error", err)
	}
	if sc.rec.Slot.After(now.Add(clockSlack)) { // the clock was set back
		sc.rec = catalog.Schedule{Slot: now}
		err := s.cat.Update(s.ctx, func(tx *catalog.Tx) error { return tx.PutSchedule(it.Name, sc.rec) })
		if err != nil {
			return nil, upcoming, err
		}
	}
	since := scheduleSince(it, p, now)
	if slot, ok := policy.Latest(p.Schedule, now); ok && slot.After(since) {
		sc.slot = slot
	}
	return sc, policy.Next(p.Schedule, later(now, sc.rec.Slot)), nil
}

// clockSlack is how far ahead of the clock a stored time may be without meaning
// that the clock was set back.
const clockSlack = 24 * time.Hour

// scheduleSince is since when the runs of a policy's schedule are the item's.
func scheduleSince(it *pb.ProtectedItem, p *pb.Policy, now time.Time) (since time.Time) {
	for _, t := range []*timestamppb.Timestamp{it.CreateTime, it.ScheduleSinceTime, p.ScheduleUpdateTime} {
		if t != nil && !t.AsTime().After(now.Add(clockSlack)) {
			since = later(since, t.AsTime())
		}
	}
	return since
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// spread brings items in the order in which they start, and says how long after
// their slot each does.
func spread(items []*scheduled, step, most time.Duration) {
	order := func(sc *scheduled) uint64 {
		h := fnv.New64a()
		h.Write([]byte(sc.uid))
		return h.Sum64()
	}
	slices.SortFunc(items, func(a, b *scheduled) int {
		return cmp.Or(a.slot.Compare(b.slot), cmp.Compare(order(a), order(b)), strings.Compare(a.uid, b.uid))
	})
	if most < 0 || step < 0 {
		return
	}
	for len(items) > 0 {
		n := slices.IndexFunc(items, func(sc *scheduled) bool { return !sc.slot.Equal(items[0].slot) })
		if n < 0 {
			n = len(items)
		}
		for k, sc := range items[:n] {
			sc.wait = time.Duration(k) * min(step, most/time.Duration(n))
		}
		items = items[n:]
	}
}

// runSlot makes the job of a run, or of a further try at it.
func (s *Server) runSlot(ctx context.Context, sc *scheduled, try catalog.Retry) error {
	it, err := sc.v.item(sc.n)
	if err != nil || !isProtected(it) {
		return nil // it went meanwhile
	}
	slot := sc.slot
	if try.Attempt > 1 {
		slot = sc.rec.Slot
	}
	spec := backupJob(sc.v, it)
	spec.Scheduled, spec.ScheduleTime, spec.Attempt, spec.RetryOf = true, slot, try.Attempt, try.Job
	spec.Also = func(tx *catalog.Tx, _ *pb.Job) error {
		if it, err := sc.v.item(sc.n); err != nil || !isProtected(it) {
			return errNotScheduled
		}
		return tx.PutSchedule(it.Name, catalog.Schedule{Slot: slot})
	}
	if err := s.backupProblem(sc.v, it); err != nil {
		spec.Error = problemOf(err)
	}
	err = s.startScheduled(ctx, sc, spec)
	if errors.Is(err, errNotScheduled) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("scheduled backup of %q: %w", it.Name, err)
	}
	return nil
}

// errNotScheduled: the item's protection has stopped.
var errNotScheduled = errors.New("not scheduled any more")

// startScheduled makes a job as spec says, or shows why there is none.
func (s *Server) startScheduled(ctx context.Context, sc *scheduled, spec job.Spec) error {
	for {
		create := s.jobs.Create
		if spec.Error != nil {
			create = s.jobs.Fail
		}
		var busy *job.BusyError
		_, err := create(spec)
		if !errors.As(err, &busy) {
			return err
		}
		if spec.Attempt > 1 { // the other backup takes its place
			s.notRetried(spec.RetryOf)
			return s.cat.Update(ctx, func(tx *catalog.Tx) error {
				return tx.PutSchedule(spec.ProtectedItem, catalog.Schedule{Slot: spec.ScheduleTime})
			})
		}
		other, err := s.jobs.Get(busy.Job)
		if err != nil && !errors.Is(err, job.ErrNotFound) {
			return err
		}
		switch host, _, _ := strings.Cut(spec.Machine, "/machines/"); {
		case other == nil || job.Ended(other.State):
		case other.State == pb.JobState_JOB_STATE_QUEUED && other.Operation == pb.JobOperation_JOB_OPERATION_BACKUP && !s.jobs.Connected(host):
			var state *job.StateError
			if err := s.jobs.Abandon(other.Name, noAgent(host, spec.ScheduleTime)); err != nil && !errors.As(err, &state) {
				return err
			}
		default:
			return s.skip(ctx, sc, spec, busy)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// noAgent is why a backup did not even begin.
func noAgent(host string, slot time.Time) *pb.Problem {
	return &pb.Problem{
		Reason: pb.ErrorReason_ERROR_REASON_AGENT_UNREACHABLE,
		Message: fmt.Sprintf("the backup waited for the agent of host %q, which is not connected, until the next one was due at %s",
			host, slot.Format(time.RFC3339)),
		Metadata: map[string]string{"host": host},
	}
}

// skip records a run that is left out, since something else works on the item.
func (s *Server) skip(ctx context.Context, sc *scheduled, spec job.Spec, busy *job.BusyError) error {
	slot := spec.ScheduleTime.Format(time.RFC3339)
	spec.Error = &pb.Problem{
		Reason:   pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS,
		Message:  fmt.Sprintf("the backup of %s was left out, as %s of the machine was still under way: %s", slot, busy.What(), busy.Job),
		Remedy:   "Nothing need be done if that one ends before the next is due. If it happens often, plan fewer backups, or see what makes them take so long.",
		Metadata: map[string]string{"job": busy.Job, "protected_item": spec.ProtectedItem},
	}
	_, err := sc.v.changeItem(ctx, sc.n, func(it *pb.ProtectedItem) error {
		if it.Health == pb.HealthStatus_HEALTH_STATUS_PASSED {
			it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED
			it.HealthDetail = fmt.Sprintf("A backup was skipped (%s): %s. %s", reasonName(spec.Error.Reason), spec.Error.Message, spec.Error.Remedy)
			it.UpdateTime = timestamppb.New(s.opts.Now())
		}
		return nil
	}, nil)
	if err != nil { // the job says it as well
		s.log.Warn("a skipped backup not noted in its item", "item", spec.ProtectedItem, "error", err)
	}
	_, err = s.jobs.Skip(spec)
	return err
}

// forgetSchedules drops the records of items that are not scheduled. Those of
// vaults that are away stay.
func (s *Server) forgetSchedules(ctx context.Context, known map[string]bool, away map[VaultName]bool) error {
	items, err := s.cat.Scheduled()
	gone := slices.DeleteFunc(items, func(item string) bool {
		ids := catalog.IDs(item)
		return known[item] || away[VaultName{ids[0], ids[1]}]
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	return s.cat.Update(ctx, func(tx *catalog.Tx) error {
		for _, item := range gone {
			if s.wantsBackups(item) { // since a moment ago
				continue
			}
			if err := tx.DeleteSchedule(item); err != nil {
				return err
			}
		}
		return nil
	})
}

// isProtected says whether backups of an item are to run.
func isProtected(it *pb.ProtectedItem) bool { return mayBackUp(it) == nil }

// noMachine says whether a reason means that there is nothing to back up any more.
func noMachine(r pb.ErrorReason) bool {
	switch r {
	case pb.ErrorReason_ERROR_REASON_MACHINE_GONE, pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND, pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND:
		return true
	}
	return false
}

// itemNamed finds an item by its resource name, and its vault; nil for what is not
// known.
func (s *Server) itemNamed(item string) (*Vault, *pb.ProtectedItem) {
	ids, ok := splitName(item, itemPattern, false)
	if !ok {
		return nil, nil
	}
	n := ItemName{VaultName{ids[0], ids[1]}, ids[2]}
	v, err := s.vaults.find(n.VaultName)
	if err != nil {
		return nil, nil
	}
	it, err := v.item(n)
	if err != nil {
		return v, nil
	}
	return v, it
}

// wantsBackups says whether backups of an item are to run, as far as is known: of
// a vault that is not open, they are.
func (s *Server) wantsBackups(item string) bool {
	v, it := s.itemNamed(item)
	return it != nil && isProtected(it) || it == nil && v != nil && v.whyBroken() != nil
}

// nextRun is an item's first run after a time; zero if there is none.
func (s *Server) nextRun(it *pb.ProtectedItem, after time.Time) time.Time {
	ids, _ := splitName(it.Name, itemPattern, false)
	v, err := s.vaults.find(VaultName{ids[0], ids[1]})
	if err != nil {
		return time.Time{}
	}
	p := v.pointPolicy(it)
	if p == nil {
		return time.Time{}
	}
	return policy.Next(p.Schedule, later(after, scheduleSince(it, p, s.opts.Now())))
}

// nextBackup is when the schedule, or a retry, starts an item's next backup; nil
// if nothing does.
func (s *Server) nextBackup(it *pb.ProtectedItem) *timestamppb.Timestamp {
	if !isProtected(it) {
		return nil
	}
	rec, err := s.cat.Schedule(it.Name)
	if err != nil {
		rec = catalog.Schedule{}
	}
	now := s.opts.Now()
	after := later(now, rec.Slot)
	if after.After(now.Add(clockSlack)) {
		after = now
	}
	next := s.nextRun(it, after)
	if r := rec.Retry; r != nil && (next.IsZero() || r.Due.Before(next)) {
		next = r.Due
	}
	if next.IsZero() {
		return nil
	}
	return timestamppb.New(next)
}

// stoppedProblem is why jobs of an item end that is not protected any more.
func stoppedProblem(it *pb.ProtectedItem) *pb.Problem {
	return &pb.Problem{
		Reason: pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED, Message: fmt.Sprintf("protection of %q was stopped", it.Name),
		Remedy: remedy(pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED), Metadata: map[string]string{"name": it.Name},
	}
}

// endItemJobs ends what backs up an item whose protection has stopped: its BACKUP
// that has not ended is cancelled, for the reason why, and nothing is left of its
// schedule, neither a retry nor the last run. The item's record must say already
// that it is stopped, so that no backup begins any more; Vault.write must not be
// held.
func (s *Server) endItemJobs(item string, why *pb.Problem) error {
	if rec, err := s.cat.Schedule(item); err == nil && rec.Retry != nil {
		s.notRetried(rec.Retry.Job)
	}
	err := s.cat.Update(context.Background(), func(tx *catalog.Tx) error { return tx.DeleteSchedule(item) })
	j := s.jobs.Busy(item)
	if j == nil || j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP {
		return err
	}
	var state *job.StateError
	if _, cancel := s.jobs.CancelFor(j.Name, why); cancel != nil && !errors.As(cancel, &state) { // it ended meanwhile
		err = errors.Join(err, cancel)
	}
	return err
}
