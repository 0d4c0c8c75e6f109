package server

import (
	"context"
	"sync"
	"time"
)

// chore is something that the server does of itself: start what schedules want,
// remove what has expired, and so on. do does all that is due at now and says
// when it wants to be asked again; zero is as good as in a minute. It is also asked
// whenever somebody pokes it. It never waits for a job.
type chore struct {
	name string
	do   func(ctx context.Context, now time.Time) (next time.Time, err error)
	lazy bool // it only tidies up: it is not asked before its time
	kick chan struct{}
	busy sync.Mutex // held while do runs
}

// tendEvery is how long a chore that is not lazy sleeps at most: clocks are set, and
// machines sleep, without a timer's noticing.
const tendEvery = time.Minute

const (
	choreSchedule  = "schedule"
	choreRetention = "retention"
	choreDeleted   = "soft delete"
	choreReclaim   = "reclaim"
	choreUsage     = "usage"
	choreRequests  = "requests"
	choreAudit     = "audit"
)

// makeChores makes the chores, in the order in which Tend does them.
func (s *Server) makeChores() {
	s.inOrder = []*chore{
		{name: choreSchedule, do: s.runSchedules},
		{name: choreRetention, do: s.pruneExpired},
		{name: choreDeleted, do: s.purgeDeleted},
		{name: choreReclaim, do: s.reclaimDue},
		{name: choreUsage, do: s.recordUsage},
		{name: choreRequests, do: s.sweepVaultRequests, lazy: true},
		{name: choreAudit, do: s.sweepAudit, lazy: true},
	}
	for _, c := range s.inOrder {
		c.kick = make(chan struct{}, 1)
		s.chores[c.name] = c
	}
}

// poke lets a chore look at once whether something is due.
func (s *Server) poke(name string) {
	select {
	case s.chores[name].kick <- struct{}{}:
	default:
	}
}

// tend does one chore until the server is closed.
func (s *Server) tend(c *chore) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.kick:
		case <-s.ctx.Done():
			return
		}
		wait := tendEvery
		if next := s.do(s.ctx, c); !next.IsZero() {
			if wait = max(0, next.Sub(s.opts.Now())); !c.lazy {
				wait = min(tendEvery, wait)
			}
		}
		timer.Reset(wait)
	}
}

// do does a chore once.
func (s *Server) do(ctx context.Context, c *chore) (next time.Time) {
	c.busy.Lock()
	defer c.busy.Unlock()
	now := s.opts.Now()
	next, err := c.do(ctx, now)
	if err != nil && ctx.Err() == nil {
		s.log.Error("a chore failed and is tried again", "chore", c.name, "error", err)
		return time.Time{}
	}
	if !next.IsZero() && !next.After(now) { // it was not all that was due: not in a tight loop
		next = now.Add(time.Second)
	}
	return next
}

// Tend does once all that is due now, and returns when it is done: for a server
// that is Options.Unattended.
func (s *Server) Tend(ctx context.Context) {
	s.jobs.Look()
	for _, c := range s.inOrder {
		s.do(ctx, c)
	}
}
