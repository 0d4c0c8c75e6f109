package job

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
)

// Run is a job that the server carries through itself.
type Run struct {
	m   *Manager
	e   *entry
	ctx context.Context
}

// Begin makes a job that is IN_PROGRESS and that the caller carries through,
// over as many calls as it takes: it must call Finish in the end, also when the
// Run's context ends. Errors: *BusyError, ErrStopping, and the catalog's.
func (m *Manager) Begin(spec Spec) (*Run, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	e, _, err := m.create(spec, pb.JobState_JOB_STATE_IN_PROGRESS, cancel)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return &Run{m: m, e: e, ctx: ctx}, nil
}

// Start makes a job that f carries through in a goroutine of its own, and gives
// it as it begins. What f returns ends the job, see Finish.
func (m *Manager) Start(spec Spec, f func(*Run) error) (*pb.Job, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	r, err := m.Begin(spec)
	if err != nil {
		m.runs.Done()
		return nil, err
	}
	j := r.Job()
	go func() {
		defer m.runs.Done()
		r.Finish(r.guard(f))
	}()
	return j, nil
}

// guard runs f and makes an error of a panic.
func (r *Run) guard(f func(*Run) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.m.log.Error("panic in a job", "job", r.Name(), "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(r)
}

// Name is the job's resource name.
func (r *Run) Name() string { return r.Job().Name }

// Job is the job as it is. It is shared: not to be changed.
func (r *Run) Job() *pb.Job {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.e.job
}

// Context ends when the job is cancelled, with the cause ErrCancelled, when the
// server stops, with the cause ErrStopping, and when the job has ended.
func (r *Run) Context() context.Context { return r.ctx }

// Update changes tasks, stats, warnings or the recovery point as f says. Watchers
// see it at once, but it is only stored with the next progress or change of
// state. State and times are not f's business.
func (r *Run) Update(f func(*pb.Job)) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if r.e.ending || r.e.ended {
		return
	}
	next := proto.CloneOf(r.e.job)
	f(next)
	r.m.progress(r.e, next)
}

// Finish ends the job: with nil it is COMPLETED, or COMPLETED_WITH_WARNINGS if it
// has any; CANCELLED if it was asked to stop; else FAILED with what Hooks.Problem
// makes of the error. It returns when the end is durable. A second call does
// nothing.
func (r *Run) Finish(err error) {
	how := end{state: pb.JobState_JOB_STATE_COMPLETED}
	cause := context.Cause(r.ctx)
	switch {
	case err == nil:
	case errors.Is(cause, ErrCancelled), errors.Is(err, ErrCancelled):
		how.state = pb.JobState_JOB_STATE_CANCELLED
	case errors.Is(cause, ErrStopping), errors.Is(err, ErrStopping):
		how = interrupted("the server stopped in the middle of the job")
	default:
		how = end{state: pb.JobState_JOB_STATE_FAILED, error: r.m.o.Hooks.Problem(err)}
	}
	r.m.finish(r.e, how)
}
