package job

import (
	"context"
	"fmt"
	"sort"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// ceilingStep is how far ahead of use the revision counter is stored.
const ceilingStep = 1000

// change is one change of a job.
type change struct {
	rev         int64
	before, now *pb.Job // before is nil for a new job
	deleted     bool    // now is the job as it was
}

// Event is what a watcher is told.
type Event struct {
	Revision int64
	Job      *pb.Job // shared: not to be changed
	Synced   bool    // all that was there is sent; no Job
	Deleted  bool    // the job is gone, or does not match any more
}

// nextRevision makes sure that the revision after rev may be used. mu is held.
func (m *Manager) nextRevision(tx *catalog.Tx, n int64) error {
	if m.rev+n <= m.ceiling {
		return nil
	}
	return tx.SetRevision(m.rev + n + ceilingStep)
}

// announced notes that the ceiling that nextRevision stored is in force. mu is
// held.
func (m *Manager) announced(n int64) {
	if m.rev+n > m.ceiling {
		m.ceiling = m.rev + n + ceilingStep
	}
}

// announce shows changes, whose jobs have the next revisions. mu is held.
func (m *Manager) announce(cs ...change) {
	for _, c := range cs {
		m.rev++
		c.rev = m.rev
		m.history = append(m.history, c)
	}
	if n := len(m.history); n > 2*m.o.History {
		m.history = append([]change(nil), m.history[n-m.o.History:]...)
		m.floor = m.history[0].rev - 1
	}
	close(m.news)
	m.news = make(chan struct{})
}

// since gives the changes after a revision, and what is closed when there are
// more. mu is held.
func (m *Manager) since(rev int64) ([]change, <-chan struct{}, error) {
	if rev < m.floor || rev > m.rev {
		return nil, nil, fmt.Errorf("%w: revision %d was asked for, %d to %d are there", ErrRevision, rev, m.floor, m.rev)
	}
	return m.history[rev-m.floor:], m.news, nil
}

// Watch sends all jobs that match, if after is 0, then an event with Synced,
// then every change, until ctx ends or send fails. With after it sends the
// changes behind that revision first. Jobs that were there come in the order of
// their revisions, so that a watch that broke off at any event goes on behind
// its revision. Errors: ErrRevision, also when the caller falls too far behind;
// ErrStopping; ctx's and send's.
func (m *Manager) Watch(ctx context.Context, match func(*pb.Job) bool, after int64, send func(Event) error) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.runs.Done()
	m.mu.Lock()
	rev, synced := m.rev, m.rev
	var snap *catalog.Snapshot
	present := map[string]*pb.Job{}
	if after == 0 {
		snap = m.cat.Snapshot()
		for name, e := range m.active {
			present[name] = e.job
		}
	} else {
		rev = after
	}
	_, _, err := m.since(rev)
	m.mu.Unlock()
	if snap != nil {
		err = sendAll(snap, present, match, send)
		snap.Close()
	}
	if err != nil {
		return err
	}
	told := false
	for {
		if !told && rev >= synced {
			told = true
			if err := send(Event{Revision: rev, Synced: true}); err != nil {
				return err
			}
		}
		m.mu.Lock()
		cs, news, err := m.since(rev)
		m.mu.Unlock()
		if err != nil {
			return err
		}
		if !told {
			cs = cs[:synced-rev]
		}
		for _, c := range cs {
			rev = c.rev
			is := match(c.now) && !c.deleted
			was := c.before != nil && match(c.before) || c.deleted && match(c.now)
			if is || was {
				if err := send(Event{Revision: rev, Job: c.now, Deleted: !is}); err != nil {
					return err
				}
			}
		}
		if len(cs) > 0 {
			continue
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.stop:
			return ErrStopping
		}
	}
}

// sendAll sends the jobs of a snapshot, of which present has newer states, in
// the order of their revisions.
func sendAll(snap *catalog.Snapshot, present map[string]*pb.Job, match func(*pb.Job) bool, send func(Event) error) error {
	type ref struct {
		rev  int64
		name string
	}
	var refs []ref
	err := snap.Jobs("", "", "", func(j *pb.Job) bool {
		if p := present[j.Name]; p != nil {
			j = p
		}
		if match(j) {
			refs = append(refs, ref{j.Revision, j.Name})
		}
		return true
	})
	if err != nil {
		return err
	}
	sort.Slice(refs, func(a, b int) bool { return refs[a].rev < refs[b].rev })
	for _, r := range refs {
		j := present[r.name]
		if j == nil {
			if j, err = snap.Job(r.name); err != nil {
				return err
			}
			j.Actions = actions(j)
		}
		if err := send(Event{Revision: r.rev, Job: j}); err != nil {
			return err
		}
	}
	return nil
}
