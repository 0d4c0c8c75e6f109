package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// Spec says what job to make. Names are resource names.
type Spec struct {
	Vault         string // must be given
	Operation     pb.JobOperation
	ProtectedItem string
	Machine       string
	RecoveryPoint string
	RetainUntil   time.Time
	RetryOf       string
	Scheduled     bool
	ScheduleTime  time.Time // the run of the schedule that it is for, if Scheduled
	Attempt       int32     // at that run, from 1 on, if Scheduled
	DryRun        bool
	Tasks         []string // titles, in the order in which they run
	// Restore is what a RESTORE is to do, and where: its host must be given. It is
	// kept, and must not be changed any more.
	Restore *pb.RestoreRequest
	// Error is why a job that Skip or Fail makes does not run.
	Error *pb.Problem
	// Also, if set, writes what is to become durable in one step with the job.
	Also func(*catalog.Tx, *pb.Job) error
}

// Ended says whether a state is final.
func Ended(s pb.JobState) bool {
	switch s {
	case pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLING:
		return false
	}
	return true
}

// actions are what a job allows in its state.
func actions(j *pb.Job) []pb.JobAction {
	switch j.State {
	case pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS:
		return []pb.JobAction{pb.JobAction_JOB_ACTION_CANCEL}
	case pb.JobState_JOB_STATE_FAILED, pb.JobState_JOB_STATE_CANCELLED:
		switch j.Operation {
		case pb.JobOperation_JOB_OPERATION_BACKUP, pb.JobOperation_JOB_OPERATION_RESTORE:
			return []pb.JobAction{pb.JobAction_JOB_ACTION_RETRY}
		}
	}
	return nil
}

// Create queues a job for the agent of its host. Errors: *BusyError, and the
// catalog's.
func (m *Manager) Create(spec Spec) (*pb.Job, error) {
	_, j, err := m.create(spec, pb.JobState_JOB_STATE_QUEUED, nil)
	return j, err
}

// Record makes the record of something that is done already: a job that is
// COMPLETED from the beginning.
func (m *Manager) Record(spec Spec) (*pb.Job, error) {
	_, j, err := m.create(spec, pb.JobState_JOB_STATE_COMPLETED, nil)
	return j, err
}

// Skip makes the record of a job that is not done, and is SKIPPED from the
// beginning, for the reason spec.Error.
func (m *Manager) Skip(spec Spec) (*pb.Job, error) {
	_, j, err := m.create(spec, pb.JobState_JOB_STATE_SKIPPED, nil)
	return j, err
}

// Fail makes a job that cannot be done and ends FAILED at once, for the reason
// spec.Error. If the server stops in between, its agent gets it all the same.
// Errors: *BusyError, and the catalog's.
func (m *Manager) Fail(spec Spec) (*pb.Job, error) {
	e, j, err := m.create(spec, pb.JobState_JOB_STATE_QUEUED, nil)
	if err != nil {
		return nil, err
	}
	m.finish(e, end{state: pb.JobState_JOB_STATE_FAILED, error: spec.Error})
	return m.Get(j.Name)
}

// Abandon ends a job that is QUEUED, and will not be done, as FAILED for the
// reason why. Errors: ErrNotFound, and *StateError for a job in another state.
func (m *Manager) Abandon(name string, why *pb.Problem) error {
	m.mu.Lock()
	e := m.active[name]
	m.mu.Unlock()
	if e != nil && m.finish(e, end{state: pb.JobState_JOB_STATE_FAILED, error: why, queued: true}) {
		return nil
	}
	j, err := m.Get(name)
	if err != nil {
		return err
	}
	return &StateError{Job: name, State: j.State}
}

func (m *Manager) create(spec Spec, state pb.JobState, cancel context.CancelCauseFunc) (*entry, *pb.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping && cancel != nil {
		return nil, nil, ErrStopping
	}
	if b := m.busy[spec.ProtectedItem]; b != nil && !Ended(state) && exclusive(spec.Operation, spec.Restore) {
		return nil, nil, &BusyError{Item: spec.ProtectedItem, Job: b.job.Name, Operation: b.job.Operation}
	}
	now := m.o.Now()
	id, err := m.newID(now)
	if err != nil {
		return nil, nil, err
	}
	uid, err := uuid.NewRandomFromReader(m.o.Rand)
	if err != nil {
		return nil, nil, fmt.Errorf("make a uid: %w", err)
	}
	j := &pb.Job{
		Name: spec.Vault + "/jobs/" + id, Uid: uid.String(),
		Operation: spec.Operation, State: state, Stats: &pb.JobStats{},
		ProtectedItem: spec.ProtectedItem, Machine: spec.Machine, RecoveryPoint: spec.RecoveryPoint,
		CreateTime: timestamppb.New(now), RetryOf: spec.RetryOf,
		Scheduled: spec.Scheduled, Attempt: spec.Attempt, DryRun: spec.DryRun,
	}
	if !spec.ScheduleTime.IsZero() {
		j.ScheduleTime = timestamppb.New(spec.ScheduleTime)
	}
	if !spec.RetainUntil.IsZero() {
		j.RetainUntil = timestamppb.New(spec.RetainUntil)
	}
	if state != pb.JobState_JOB_STATE_QUEUED {
		j.StartTime = j.CreateTime
	}
	if Ended(state) {
		j.EndTime, j.Error = j.CreateTime, spec.Error
	}
	for _, title := range spec.Tasks {
		j.Tasks = append(j.Tasks, &pb.JobTask{Title: title, State: pb.JobState_JOB_STATE_QUEUED})
	}
	if Ended(state) {
		endTasks(j)
	}
	e := &entry{cancel: cancel, done: make(chan struct{}), ended: Ended(state)}
	if err := m.commit(e, j, func(tx *catalog.Tx) error {
		if spec.Restore != nil {
			if err := tx.PutRestore(j.Name, spec.Restore); err != nil {
				return err
			}
		}
		if spec.Also == nil {
			return nil
		}
		return spec.Also(tx, j)
	}); err != nil {
		return nil, nil, err
	}
	if e.ended {
		return e, j, nil
	}
	a := m.adopt(j, spec.Restore)
	a.cancel = cancel
	switch {
	case state != pb.JobState_JOB_STATE_QUEUED:
		a.host = ""
	case spec.Error == nil:
		m.queues[a.host] = append(m.queues[a.host], a)
		m.wakeHost(a.host)
	}
	return a, j, nil
}

// commit makes next the job's state, durably, and shows it. mu is held.
func (m *Manager) commit(e *entry, next *pb.Job, also func(*catalog.Tx) error) error {
	next.Revision = m.rev + 1
	next.Actions = actions(next)
	err := m.cat.Update(context.Background(), func(tx *catalog.Tx) error {
		if err := m.nextRevision(tx, 1); err != nil {
			return err
		}
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		if err := m.moved(tx, e.job, next); err != nil {
			return err
		}
		return m.put(tx, e, next)
	})
	if err != nil {
		return err
	}
	m.announced(1)
	e.dirty, e.leaseUp = false, false
	m.show(e, next)
	return nil
}

// show makes next the job's state in memory. mu is held.
func (m *Manager) show(e *entry, next *pb.Job) {
	before := e.job
	e.job = next
	m.announce(change{before: before, now: next})
	if m.o.Hooks.Seen != nil {
		m.o.Hooks.Seen(before, next)
	}
}

// moved lets the server write what becomes durable with a job's new state.
func (m *Manager) moved(tx *catalog.Tx, before, now *pb.Job) error {
	if m.o.Hooks.Moved == nil || before.GetState() == now.State {
		return nil
	}
	return m.o.Hooks.Moved(tx, before, now)
}

// progress shows a change of a job that is stored later. mu is held.
func (m *Manager) progress(e *entry, next *pb.Job) {
	if m.rev+1 > m.ceiling {
		err := m.cat.Update(context.Background(), func(tx *catalog.Tx) error { return m.nextRevision(tx, 1) })
		if err != nil {
			m.log.Error("progress of a job not shown", "job", next.Name, "error", err)
			return
		}
		m.announced(1)
	}
	next.Revision = m.rev + 1
	next.Actions = actions(next)
	m.show(e, next)
	e.dirty = true
	m.wake()
}

// Amend changes what is told of a job that has ended; not its state. Errors:
// ErrNotFound, *StateError for a job that has not ended, and the catalog's.
func (m *Manager) Amend(name string, f func(*pb.Job)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.active[name]; e != nil { // its end may still have to be stored
		return &StateError{Job: name, State: e.job.State}
	}
	j, err := m.cat.Job(name)
	if errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return err
	}
	lease, err := m.cat.Lease(name)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	j.Actions = actions(j)
	next := proto.CloneOf(j)
	f(next)
	return m.commit(&entry{job: j, lease: lease}, next, nil)
}

// remove deletes jobs that have ended, and shows it. mu is held.
func (m *Manager) remove(jobs []*pb.Job, also func(*catalog.Tx) error) error {
	n := int64(len(jobs))
	err := m.cat.Update(context.Background(), func(tx *catalog.Tx) error {
		if err := m.nextRevision(tx, n); err != nil {
			return err
		}
		for _, j := range jobs {
			if err := tx.DeleteJob(j.Name); err != nil {
				return err
			}
		}
		return also(tx)
	})
	if err != nil {
		return err
	}
	m.announced(n)
	for _, j := range jobs {
		j.Actions = nil
		m.announce(change{now: j, deleted: true})
	}
	return nil
}

// ForgetVault deletes the jobs of a vault in one step with what also writes. A
// job that has not ended is a *StateError.
func (m *Manager) ForgetVault(vault string, also func(*catalog.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var jobs []*pb.Job
	p := catalog.IDs(vault)
	if err := m.cat.Jobs(p[0], p[1], "", func(j *pb.Job) bool {
		jobs = append(jobs, j)
		return true
	}); err != nil {
		return err
	}
	for _, j := range jobs {
		if e := m.active[j.Name]; e != nil {
			if !e.ended {
				return &StateError{Job: j.Name, State: e.job.State}
			}
			delete(m.active, j.Name)
		}
	}
	return m.remove(jobs, also)
}

// Cancel asks a job to stop and gives its state then. Errors: ErrNotFound, and
// *StateError for a job that has ended.
func (m *Manager) Cancel(name string) (*pb.Job, error) { return m.CancelFor(name, nil) }

// CancelFor is Cancel with a reason that the job then gives for its end. A job
// that ends only after a restart says no more than that it was cancelled.
func (m *Manager) CancelFor(name string, why *pb.Problem) (*pb.Job, error) {
	m.mu.Lock()
	e := m.active[name]
	if e == nil || e.ended || e.ending {
		m.mu.Unlock()
		if e != nil {
			<-e.done
		}
		j, err := m.Get(name)
		if err != nil {
			return nil, err
		}
		if j.State == pb.JobState_JOB_STATE_CANCELLED && e != nil {
			return j, nil // two cancelled it at the same time
		}
		return nil, &StateError{Job: name, State: j.State}
	}
	j := e.job
	if e.why == nil {
		e.why = why
	}
	switch {
	case j.State == pb.JobState_JOB_STATE_QUEUED:
		m.mu.Unlock()
		m.finish(e, end{state: pb.JobState_JOB_STATE_CANCELLED})
		return m.Get(name)
	case j.State == pb.JobState_JOB_STATE_CANCELLING:
		m.mu.Unlock()
		return j, nil
	}
	next := proto.CloneOf(j)
	next.State = pb.JobState_JOB_STATE_CANCELLING
	if err := m.commit(e, next, nil); err != nil {
		m.mu.Unlock()
		return nil, err
	}
	if s := e.session; s != nil {
		s.cancels = append(s.cancels, name)
		s.nudge()
	}
	cancel := e.cancel
	m.mu.Unlock()
	if cancel != nil {
		cancel(ErrCancelled)
	}
	m.o.Hooks.Halt(next)
	return next, nil
}

// newID makes a job's id out of its time in UTC, to the millisecond, and three
// random characters: "j20261120t220000-123x7k". Ids of one server ascend. mu is
// held.
func (m *Manager) newID(now time.Time) (string, error) {
	t := now.UTC().Truncate(time.Millisecond)
	if !t.After(m.lastID) {
		t = m.lastID.Add(time.Millisecond)
	}
	m.lastID = t
	const letters = "0123456789abcdefghjkmnpqrstvwxyz" // 32
	var r [3]byte
	if _, err := io.ReadFull(m.o.Rand, r[:]); err != nil {
		return "", fmt.Errorf("make a job id: %w", err)
	}
	for i := range r {
		r[i] = letters[r[i]%32]
	}
	return fmt.Sprintf("j%s-%03d%s", t.Format("20060102t150405"), t.Nanosecond()/1e6, r[:]), nil
}
