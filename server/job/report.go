package job

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// hold gives the entry of a job that token holds, with the lease renewed and mu
// locked. Otherwise mu is not locked, and the entry is nil: with ErrLeaseLost, or
// with no error if the job is ending, has ended, or is not there. It never waits.
func (m *Manager) hold(name, token string) (*entry, error) {
	m.mu.Lock()
	e := m.active[name]
	switch {
	case e == nil || e.ending || e.ended:
		m.mu.Unlock()
		return nil, nil
	case subtle.ConstantTimeCompare(e.lease.Token, hashToken(token)) != 1:
		m.mu.Unlock()
		return nil, fmt.Errorf("%w: %s", ErrLeaseLost, name)
	}
	e.lease.Expire = m.o.Now().Add(m.o.Lease)
	e.lease.Reported = true
	e.leaseUp = true
	m.wake()
	return e, nil
}

// held checks that token held a job to the last, waiting for its end if that is
// under way. Errors: ErrNotFound, ErrLeaseLost.
func (m *Manager) held(name, token string) error {
	m.mu.Lock()
	e := m.active[name]
	m.mu.Unlock()
	var lease catalog.Lease
	if e != nil {
		<-e.done
		lease = e.lease
	} else {
		if _, err := m.Get(name); err != nil {
			return err
		}
		var err error
		if lease, err = m.cat.Lease(name); err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
	}
	if subtle.ConstantTimeCompare(lease.Token, hashToken(token)) != 1 {
		return fmt.Errorf("%w: %s", ErrLeaseLost, name)
	}
	return nil
}

// Check tells whether token holds the job, renews its lease, and gives the job.
// It never waits, as Hooks.Halt may wait for its caller. Errors: ErrNotFound,
// ErrLeaseLost.
func (m *Manager) Check(name, token string) (*pb.Job, error) {
	e, err := m.hold(name, token)
	if err != nil {
		return nil, err
	}
	if e == nil {
		if _, err := m.Get(name); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s has ended", ErrLeaseLost, name)
	}
	defer m.mu.Unlock()
	return e.job, nil
}

// Report takes what an agent says of a job that it holds, and renews the lease.
// The final report can be repeated. Errors: ErrNotFound, ErrLeaseLost, ErrNoPoint.
func (m *Manager) Report(r *pb.ReportJobRequest) (cancel bool, expire time.Time, err error) {
	final := r.State != pb.JobState_JOB_STATE_UNSPECIFIED && Ended(r.State)
	e, err := m.hold(r.Job, r.LeaseToken)
	if err != nil {
		return false, time.Time{}, err
	}
	if e == nil {
		if err := m.held(r.Job, r.LeaseToken); err != nil {
			return false, time.Time{}, err
		}
		if !final {
			return false, time.Time{}, fmt.Errorf("%w: %s has ended", ErrLeaseLost, r.Job)
		}
		return false, m.o.Now(), nil
	}
	expire = e.lease.Expire
	cancel = e.job.State == pb.JobState_JOB_STATE_CANCELLING
	if !final {
		defer m.mu.Unlock()
		next := proto.CloneOf(e.job)
		if apply(r, next); !proto.Equal(next, e.job) {
			m.progress(e, next)
		}
		return cancel, expire, nil
	}
	j := e.job
	m.mu.Unlock()
	if r.State == pb.JobState_JOB_STATE_COMPLETED || r.State == pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS {
		if _, ok := m.o.Hooks.Made(j); !ok && j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP {
			return cancel, expire, fmt.Errorf("%w: %s", ErrNoPoint, r.Job)
		}
	}
	m.finish(e, end{state: r.State, error: proto.CloneOf(r.Error), change: func(next *pb.Job) { apply(r, next) }})
	return cancel, expire, nil
}

// apply copies what a report says into a job. What it leaves out stays.
func apply(r *pb.ReportJobRequest, j *pb.Job) {
	c := proto.CloneOf(r)
	if len(c.Tasks) > 0 {
		j.Tasks = c.Tasks
	}
	if c.Stats != nil {
		j.Stats = c.Stats
	}
	if len(c.Warnings) > 0 {
		j.Warnings = c.Warnings
	}
	if c.Outcome != "" {
		j.Outcome = c.Outcome
	}
}
