package job

import (
	"context"
	"errors"
	"fmt"
	"strings"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// Get gives a job. It is shared: not to be changed. Error: ErrNotFound.
func (m *Manager) Get(name string) (*pb.Job, error) {
	m.mu.Lock()
	e := m.active[name]
	var j *pb.Job
	if e != nil {
		j = e.job
	}
	m.mu.Unlock()
	if j != nil {
		return j, nil
	}
	j, err := m.cat.Job(name)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return nil, err
	}
	j.Actions = actions(j)
	return j, nil
}

// Await returns when a job has ended, or is not there, or with ctx.
func (m *Manager) Await(ctx context.Context, name string) error {
	m.mu.Lock()
	e := m.active[name]
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Restore gives what a RESTORE job is, or was, to do. It is the caller's own.
// Error: ErrNotFound.
func (m *Manager) Restore(name string) (*pb.RestoreRequest, error) {
	r, err := m.cat.Restore(name)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return r, err
}

// Reading names a RESTORE job that reads a recovery point, or is to read it.
// It waits for nothing but the Manager's own lock.
func (m *Manager) Reading(point string) (job string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.active {
		if e.restore != nil && !e.ended && e.job.RecoveryPoint == point {
			return e.job.Name, true
		}
	}
	return "", false
}

// Busy gives the BACKUP of an item, or its RESTORE in place, that has not ended;
// nil if there is none. It is shared: not to be changed.
func (m *Manager) Busy(item string) *pb.Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.busy[item]; e != nil {
		return e.job
	}
	return nil
}

// Waiting names a job that a host is to do, or does. It waits for nothing but the
// Manager's own lock.
func (m *Manager) Waiting(host string) (job string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.active {
		if e.host == host && !e.ended {
			return e.job.Name, true
		}
	}
	return "", false
}

// List calls fn for the jobs of a subscription, or of one of its vaults by id,
// newest first, from behind the job named after. They are shared: not to be
// changed.
func (m *Manager) List(subscription, vault, after string, fn func(*pb.Job) bool) error {
	return m.cat.Jobs(subscription, vault, after, func(j *pb.Job) bool {
		m.mu.Lock()
		if e := m.active[j.Name]; e != nil {
			j = e.job
		} else {
			j.Actions = actions(j)
		}
		m.mu.Unlock()
		return fn(j)
	})
}

// Active counts the jobs of a vault, by resource name, that have not ended: those
// that wait, and those that are under way.
func (m *Manager) Active(vault string) (queued, running int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.active {
		switch {
		case e.ended || !strings.HasPrefix(e.job.Name, vault+"/"):
		case e.job.State == pb.JobState_JOB_STATE_QUEUED:
			queued++
		default:
			running++
		}
	}
	return queued, running
}

// Count gives the number of jobs that have not ended, by state.
func (m *Manager) Count() map[pb.JobState]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[pb.JobState]int{}
	for _, e := range m.active {
		if !e.ended {
			out[e.job.State]++
		}
	}
	return out
}
