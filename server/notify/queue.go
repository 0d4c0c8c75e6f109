package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"cairn/server/catalog"
)

// queue has what waits for one hook. Its fields belong to run's goroutine, but for
// kick. In memory are only numbers and names; the events are in the catalog.
type queue struct {
	n    *Notifier
	hook Hook
	kick chan struct{} // there are new notices, or will be after the running transaction

	read     int64     // the last notice that was looked at
	waiting  []*notice // in the order of their numbers
	failures int       // in a row, to reach the hook
	back     time.Time // when the hook is tried again
}

// notice is one event that waits.
type notice struct {
	seq      int64
	job      string
	time     time.Time
	failures int
	due      time.Time
	taken    bool // and that is not stored yet
}

// longest is how long run sleeps at most: clocks are set.
const longest = time.Minute

// run delivers until ctx ends.
func (q *queue) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.kick:
		case <-timer.C:
		}
		if err := q.load(ctx); err != nil && ctx.Err() == nil {
			q.n.o.Logger.Error("events that a hook is to get cannot be read", "hook", q.hook.String(), "error", err)
		}
		wait := longest
		for ctx.Err() == nil {
			v, next := q.next(q.n.o.Now())
			if v == nil {
				if !next.IsZero() {
					wait = min(longest, max(0, next.Sub(q.n.o.Now())))
				}
				break
			}
			q.deliver(ctx, v)
			select { // those that came meanwhile
			case <-q.kick:
				if err := q.load(ctx); err != nil {
					q.poke()
				}
			default:
			}
		}
		timer.Reset(wait)
	}
}

func (q *queue) poke() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// load takes up new notices. Whoever kicked has not committed yet, perhaps: the
// empty transaction waits for that.
func (q *queue) load(ctx context.Context) error {
	if err := q.n.o.Catalog.Update(ctx, func(*catalog.Tx) error { return nil }); err != nil {
		return err
	}
	id := q.hook.ID()
	if err := q.n.o.Catalog.Notices(q.read, func(seq int64, v catalog.Notice) bool {
		q.read = seq
		if slices.Contains(v.Pending, id) {
			q.waiting = append(q.waiting, &notice{seq: seq, job: v.Job, time: v.Time})
		}
		return true
	}); err != nil {
		return err
	}
	if n := len(q.waiting) - q.n.o.Most; n > 0 {
		return q.drop(ctx, q.waiting[:n], "too many events wait for a hook, the oldest are given up", nil)
	}
	return nil
}

// next is the notice to deliver now; nil if there is none, with the time at which
// there is, if that is known. What waits keeps later ones of its job back.
func (q *queue) next(now time.Time) (v *notice, at time.Time) {
	if q.back.After(now) && len(q.waiting) > 0 {
		return nil, q.back
	}
	held := map[string]bool{}
	for _, v := range q.waiting {
		switch {
		case held[v.job]:
		case !v.due.After(now):
			return v, time.Time{}
		default:
			held[v.job] = true
			if at.IsZero() || v.due.Before(at) {
				at = v.due
			}
		}
	}
	return nil, at
}

// deliver tries once.
func (q *queue) deliver(ctx context.Context, v *notice) {
	err := q.attempt(ctx, v)
	if err == nil || ctx.Err() != nil {
		return
	}
	now := q.n.o.Now()
	old := func(v *notice) bool { return now.Sub(v.time) >= q.n.o.Keep }
	given := []*notice{}
	tries := 0
	if errors.Is(err, ErrAway) {
		q.failures++
		tries, q.back = q.failures, now.Add(q.n.o.Backoff(q.failures))
		for _, w := range q.waiting {
			if old(w) {
				given = append(given, w)
			}
		}
	} else {
		q.failures = 0
		v.failures++
		tries, v.due = v.failures, now.Add(q.n.o.Backoff(v.failures))
		if old(v) {
			given = append(given, v)
		}
	}
	q.n.o.Logger.Warn("a hook did not take an event", "hook", q.hook.String(), "job", v.job, "attempt", tries, "error", err)
	if len(given) > 0 {
		if err := q.drop(ctx, given, "events are given up, as a hook did not take them in time", err); err != nil {
			q.n.o.Logger.Error("events that are given up are not removed", "hook", q.hook.String(), "error", err)
		}
	}
}

// attempt delivers a notice and removes it.
func (q *queue) attempt(ctx context.Context, v *notice) error {
	stored, err := q.n.o.Catalog.Notice(v.seq)
	switch {
	case errors.Is(err, catalog.ErrNotFound): // settled, and that was not heard of
		return q.settle(ctx, []*notice{v})
	case err != nil:
		return err
	}
	if !v.taken {
		var e Event
		if err := json.Unmarshal(stored.Body, &e); err != nil {
			return fmt.Errorf("event %s: %w", stored.ID, err)
		}
		if err := q.hook.Deliver(ctx, e, stored.Body); err != nil {
			return err
		}
		q.failures, q.back, v.taken = 0, time.Time{}, true
	}
	return q.settle(ctx, []*notice{v})
}

// drop gives up notices.
func (q *queue) drop(ctx context.Context, vs []*notice, why string, last error) error {
	q.n.o.Logger.Error(why, "hook", q.hook.String(), "count", len(vs), "oldest", vs[0].time, "job", vs[0].job, "error", last)
	return q.settle(ctx, slices.Clone(vs))
}

// settle takes the hook off notices.
func (q *queue) settle(ctx context.Context, vs []*notice) error {
	if err := q.n.o.Catalog.Update(ctx, func(tx *catalog.Tx) error {
		for _, v := range vs {
			if err := tx.SettleNotice(v.seq, q.hook.ID()); err != nil && !errors.Is(err, catalog.ErrNotFound) {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	gone := make(map[*notice]bool, len(vs))
	for _, v := range vs {
		gone[v] = true
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(v *notice) bool { return gone[v] })
	return nil
}
