package job

import (
	"errors"
	"fmt"

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
