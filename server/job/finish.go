package job

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// end is how a job ends.
type end struct {
	state pb.JobState
	error *pb.Problem
	// change, if set, changes the job further.
	change func(*pb.Job)
	// queued ends the job only if it is QUEUED.
	queued bool
}

func interrupted(message string) end {
	return end{state: pb.JobState_JOB_STATE_FAILED, error: &pb.Problem{
		Reason: pb.ErrorReason_ERROR_REASON_INTERRUPTED, Message: message,
		Remedy: "Start it again; blocks that were sent already are not sent twice.",
	}}
}

// finish ends a job, once; a second call waits for the first. A job that has
// made its point is complete, whatever how says. It answers whether this call did
// it.
func (m *Manager) finish(e *entry, how end) bool {
	m.mu.Lock()
	if e.ending || e.ended {
		m.mu.Unlock()
		<-e.done
		return false
	}
	if how.queued && e.job.State != pb.JobState_JOB_STATE_QUEUED {
		m.mu.Unlock()
		return false
	}
	e.ending = true
	next := proto.CloneOf(e.job)
	why := e.why
	m.mu.Unlock()

	if next.State == pb.JobState_JOB_STATE_CANCELLING && how.error.GetReason() == pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		how.state = pb.JobState_JOB_STATE_CANCELLED
	}
	next.State, next.Error = how.state, how.error
	if how.change != nil {
		how.change(next)
	}
	m.o.Hooks.Halt(next)
	if next.Operation == pb.JobOperation_JOB_OPERATION_BACKUP {
		if point, ok := m.o.Hooks.Made(next); ok {
			complete(next, point)
		}
	}
	switch next.State {
	case pb.JobState_JOB_STATE_COMPLETED, pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS:
		next.State = pb.JobState_JOB_STATE_COMPLETED
		if len(next.Warnings) > 0 || slices.ContainsFunc(next.Tasks, withWarnings) {
			next.State = pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS
		}
		next.Error = nil
	case pb.JobState_JOB_STATE_CANCELLED:
		if next.Error = proto.CloneOf(why); why == nil {
			next.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_CANCELLED, Message: ErrCancelled.Error()}
		}
	}
	next.EndTime = timestamppb.New(m.o.Now())
	endTasks(next)
	m.o.Hooks.Ending(next)

	m.mu.Lock()
	defer m.mu.Unlock()
	e.ended = true
	stored := m.commit(e, next, func(tx *catalog.Tx) error { return m.settle(tx, next) })
	if stored == nil {
		delete(m.active, next.Name)
	} else { // the disk is full, say: it ends in memory, and is stored later
		m.log.Error("end of a job not stored", "job", next.Name, "error", stored)
		m.progress(e, next)
	}
	if m.busy[next.ProtectedItem] == e {
		delete(m.busy, next.ProtectedItem)
	}
	if s := e.session; s != nil {
		delete(s.running, e)
		e.session = nil
	}
	if e.cancel != nil {
		e.cancel(nil)
	}
	if e.host != "" {
		m.wakeAll() // there may be room now for a job of another host
	}
	close(e.done)
	return true
}

// settle lets the server write what becomes durable with the end of a job.
func (m *Manager) settle(tx *catalog.Tx, j *pb.Job) error {
	if m.o.Hooks.Settle == nil {
		return nil
	}
	return m.o.Hooks.Settle(tx, j)
}

// complete turns whatever end a backup was to have into success. What it would
// have failed with becomes a warning.
func complete(j *pb.Job, point string) {
	j.RecoveryPoint = point
	switch j.Error.GetReason() {
	case pb.ErrorReason_ERROR_REASON_UNSPECIFIED, pb.ErrorReason_ERROR_REASON_INTERRUPTED, pb.ErrorReason_ERROR_REASON_CANCELLED:
	default:
		j.Warnings = append(j.Warnings, &pb.Warning{
			Reason: j.Error.Reason, Message: j.Error.Message, Metadata: j.Error.Metadata, Remedy: j.Error.Remedy,
		})
	}
	j.State = pb.JobState_JOB_STATE_COMPLETED
}

func withWarnings(t *pb.JobTask) bool {
	return t.State == pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS
}

// endTasks gives tasks that had not ended the end that the job had.
func endTasks(j *pb.Job) {
	for _, t := range j.Tasks {
		if Ended(t.State) {
			continue
		}
		switch j.State {
		case pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS, pb.JobState_JOB_STATE_COMPLETED:
			t.State = pb.JobState_JOB_STATE_COMPLETED
		default:
			if t.State == pb.JobState_JOB_STATE_QUEUED {
				t.State = pb.JobState_JOB_STATE_SKIPPED // never begun
				continue
			}
			t.State = j.State
		}
		if t.EndTime == nil {
			t.EndTime = j.EndTime
		}
	}
}
