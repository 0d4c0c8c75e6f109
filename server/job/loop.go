package job

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// wake makes loop look again.
func (m *Manager) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// loop does what is due by the clock, until the Manager is stopped.
func (m *Manager) loop() {
	defer close(m.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-m.kick:
		case <-timer.C:
		}
		timer.Reset(m.Look().Sub(m.o.Now()))
	}
}

// Look ends leases that ran out and writes progress, and gives the time of the
// next that will run out or is to be written. The Manager does that by itself, by
// timers that know nothing of a clock that is set: whoever sets it calls Look.
func (m *Manager) Look() (next time.Time) {
	m.mu.Lock()
	now := m.o.Now()
	next = now.Add(time.Hour)
	var expired []*entry
	dirty := false
	for _, e := range m.active {
		switch {
		case e.ended || e.ending:
		case e.lease.Token != nil && !now.Before(e.lease.Expire):
			expired = append(expired, e)
		case e.lease.Token != nil && e.lease.Expire.Before(next):
			next = e.lease.Expire
		}
		dirty = dirty || e.dirty
	}
	if dirty && !now.Before(m.flushed.Add(m.o.Flush)) {
		dirty = !m.flush()
	}
	if due := m.flushed.Add(m.o.Flush); dirty && due.Before(next) {
		next = due
	}
	if now.Sub(m.swept) >= time.Hour {
		m.swept = now
		m.sweep(now)
	}
	m.mu.Unlock()
	for _, e := range expired {
		m.expire(e)
	}
	return next
}

// expire ends a job of whose agent nothing was heard.
func (m *Manager) expire(e *entry) {
	m.finish(e, interrupted("nothing was heard of the agent that ran the job until its lease ran out"))
}

// flush writes jobs whose last change is only in memory, and says whether that
// worked. mu is held.
func (m *Manager) flush() bool {
	m.flushed = m.o.Now()
	var dirty []*entry
	for _, e := range m.active {
		if e.dirty || e.leaseUp {
			dirty = append(dirty, e)
		}
	}
	if len(dirty) == 0 {
		return true
	}
	err := m.cat.Update(context.Background(), func(tx *catalog.Tx) error {
		for _, e := range dirty {
			j := e.job
			if e.ended { // its end could not be stored when it came
				j = proto.CloneOf(j)
				if err := errors.Join(m.settle(tx, j), m.moved(tx, nil, j)); err != nil {
					return err
				}
			}
			if err := m.put(tx, e, j); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		m.log.Error("progress of jobs not stored", "error", err)
		return false // it is tried again
	}
	for _, e := range dirty {
		e.dirty, e.leaseUp = false, false
		if e.ended {
			delete(m.active, e.job.Name)
		}
	}
	return true
}

// put writes a job and its lease.
func (m *Manager) put(tx *catalog.Tx, e *entry, j *pb.Job) error {
	stored := proto.CloneOf(j)
	stored.Actions = nil
	if err := tx.PutJob(stored); err != nil {
		return err
	}
	if e.lease.Token == nil {
		return tx.DeleteLease(j.Name)
	}
	return tx.PutLease(j.Name, e.lease)
}

// sweep removes jobs that ended long ago, and old answers to requests. mu is
// held.
func (m *Manager) sweep(now time.Time) {
	var old []*pb.Job
	err := m.cat.Jobs("", "", "", func(j *pb.Job) bool {
		if Ended(j.State) && now.Sub(j.EndTime.AsTime()) > m.o.Keep {
			old = append(old, j)
		}
		return true
	})
	if err == nil {
		err = m.remove(old, func(tx *catalog.Tx) error { return tx.SweepRequests(now) })
	}
	if err != nil {
		m.log.Error("old jobs not removed", "error", err)
	}
}
