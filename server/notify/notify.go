package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// Options of a Notifier. The zero value has no hooks.
type Options struct {
	// Hooks are told. Each has another ID.
	Hooks []Hook
	// Filter selects events; nil is DefaultFilter.
	Filter Filter
	// Most is how many events wait for a hook at most; 0 is 10 000.
	Most int
	// Keep is how long an event is tried; 0 is 24 h.
	Keep time.Duration
	// Backoff is how long to wait after so many failures in a row; nil is 1 s,
	// doubled each time, up to 1 h.
	Backoff func(failures int) time.Duration

	// Catalog, Server (the id of the data directory), Now and Logger are those of
	// the server, which fills them in.
	Catalog *catalog.Catalog
	Server  string
	Now     func() time.Time
	Logger  *slog.Logger
}

// Notifier tells hooks of events. It is safe for concurrent use.
type Notifier struct {
	o      Options
	ids    []string
	queues []*queue
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Open begins to deliver, first what was left when the server stopped.
func Open(o Options) (*Notifier, error) {
	if o.Filter == nil {
		o.Filter = DefaultFilter
	}
	if o.Most == 0 {
		o.Most = 10000
	}
	if o.Keep == 0 {
		o.Keep = 24 * time.Hour
	}
	if o.Backoff == nil {
		o.Backoff = backoff
	}
	n := &Notifier{o: o}
	for _, h := range o.Hooks {
		if slices.Contains(n.ids, h.ID()) {
			return nil, fmt.Errorf("hook %s is given twice", h)
		}
		n.ids = append(n.ids, h.ID())
		n.queues = append(n.queues, &queue{n: n, hook: h, kick: make(chan struct{}, 1)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	if err := n.forget(ctx); err != nil {
		cancel()
		return nil, fmt.Errorf("read notices: %w", err)
	}
	for _, q := range n.queues {
		n.done.Go(func() { q.run(ctx) })
	}
	return n, nil
}

// backoff is Options.Backoff unless that is set.
func backoff(failures int) time.Duration {
	return min(time.Hour, time.Second<<min(failures-1, 12))
}

// Close ends all deliveries. What is not delivered is, after the next Open.
func (n *Notifier) Close() {
	n.cancel()
	n.done.Wait()
}

// forget drops what waits for hooks that there are no more.
func (n *Notifier) forget(ctx context.Context) error {
	gone := map[int64][]string{}
	if err := n.o.Catalog.Notices(0, func(seq int64, v catalog.Notice) bool {
		for _, id := range v.Pending {
			if !slices.Contains(n.ids, id) {
				gone[seq] = append(gone[seq], id)
			}
		}
		return true
	}); err != nil || len(gone) == 0 {
		return err
	}
	n.o.Logger.Warn("events are dropped that hooks were to get which are not configured any more", "count", len(gone))
	return n.o.Catalog.Update(ctx, func(tx *catalog.Tx) error {
		for seq, ids := range gone {
			if err := tx.SettleNotice(seq, ids...); err != nil {
				return err
			}
		}
		return nil
	})
}

// Job notes, within the transaction that does it, that a job moves to another
// state: before is nil for one that is made. It waits for no hook.
func (n *Notifier) Job(tx *catalog.Tx, before, now *pb.Job) error {
	kind := ""
	switch ended := now.EndTime != nil; {
	case ended && before.GetEndTime() == nil:
		kind = Ended
	case now.State == pb.JobState_JOB_STATE_IN_PROGRESS:
		kind = Started
	}
	if kind == "" || len(n.queues) == 0 || !n.o.Filter.wants(kind, now.State) {
		return nil
	}
	e, err := eventOf(kind, n.o.Server, n.o.Now(), now)
	if err != nil {
		return fmt.Errorf("make an event of job %s: %w", now.Name, err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("make an event of job %s: %w", now.Name, err)
	}
	if err := tx.PutNotice(now.Revision, catalog.Notice{
		ID: e.ID, Type: kind, Job: now.Name, Time: e.Time, Pending: n.ids, Body: body,
	}); err != nil {
		return err
	}
	for _, q := range n.queues {
		select {
		case q.kick <- struct{}{}:
		default:
		}
	}
	return nil
}

// Try hands a test event to hooks, once, and gives what became of it.
func Try(ctx context.Context, server string, hooks []Hook) error {
	e := Event{Version: 1, ID: uuid.NewString(), Type: Test, Time: time.Now().UTC(), Server: server}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hooks {
		if err := h.Deliver(ctx, e, body); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", h, err))
		}
	}
	return errors.Join(errs...)
}
