package server

import (
	"context"
	"sync"
	"time"
)

// chore is something that the server does of itself: start what schedules want,
// remove what has expired, and so on. do does all that is due at now and says
// when it wants to be asked again at the latest; zero is as good as in an hour. It
// is also asked whenever somebody pokes it. It never waits for a job.
type chore struct {
	name string
	do   func(ctx context.Context, now time.Time) (next time.Time, err error)
	kick chan struct{}
	busy sync.Mutex // held while do runs
}

// tendEvery is how long a chore sleeps at most: clocks are set, and machines
// sleep, without a timer's noticing.
const tendEvery = time.Minute

func (s *Server) makeChores() {
	for name, do := range map[string]func(context.Context, time.Time) (time.Time, error){
		choreSchedule:  s.runSchedules,
		choreRetention: s.pruneExpired,
		choreDeleted:   s.purgeDeleted,
		choreReclaim:   s.reclaimDue,
		choreUsage:     s.recordUsage,
		choreRequests:  s.sweepVaultRequests,
		choreAudit:     s.sweepAudit,
	} {
		s.chores[name] = &chore{name: name, do: do, kick: make(chan struct{}, 1)}
	}
}

// The chores, in the order in which Tend does them.
const (
	choreSchedule  = "schedule"
	choreRetention = "retention"
	choreDeleted   = "soft delete"
	choreReclaim   = "reclaim"
	choreUsage     = "usage"
	choreRequests  = "requests"
)

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
			wait = min(tendEvery, max(0, next.Sub(s.opts.Now())))
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
	for _, name := range []string{choreSchedule, choreRetention, choreDeleted, choreReclaim, choreUsage, choreRequests, choreAudit} {
		s.do(ctx, s.chores[name])
	}
}
