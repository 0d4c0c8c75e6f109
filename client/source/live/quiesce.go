package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn/client/source"
	"cairn/client/source/guest"
)

// Quiet is what became of a Quiesce.
type Quiet struct {
	Consistency source.Consistency
	FrozenFor   time.Duration // 0 when the guest was not frozen
	Warnings    []source.Warning
	GuestOS     string    // as guest.OSInfo.GuestOS, or ""
	Time        time.Time // when take had succeeded
}

// QuiesceOptions says how to bring a guest to rest.
type QuiesceOptions struct {
	// Limit is the longest freeze; 0 means guest.DefaultFreezeLimit.
	Limit time.Duration
	// Minimum is the consistency below which there is to be no snapshot.
	Minimum source.Consistency
	// Guard are the arguments by which a thaw guard reaches the guest
	// (guest.GuardOptions.Args). Without any, no guard is started.
	Guard []string
	// Off tells that the machine is off: crash consistent, without a warning.
	Off bool
	// Why tells why there is no transport although the machine is not off: it
	// has no channel, it is paused. With an empty Text there is no warning.
	Why source.Warning
}

// Quiesce brings a guest to rest, calls take, and lets the guest go on. g may be
// nil: no channel, or the machine does not run.
//
// take must make the point in time of all disks at once, quickly. It is not
// called when the class that can be reached is known to be below the minimum
// before. When the class turns out too low afterwards, undo is called to take
// back what take did; it is not called when take fails. The guest is thawed on
// every path, also when ctx is done.
//
// Errors: *source.ConsistencyError, and what take returned.
func Quiesce(ctx context.Context, g guest.Transport, o QuiesceOptions, take func(context.Context) error, undo func()) (Quiet, error) {
	var q Quiet
	if g == nil {
		if !o.Off && o.Why.Text != "" {
			q.Warnings = append(q.Warnings, o.Why)
		}
		return q.take(ctx, o, take)
	}
	c := guest.NewClient(g)
	facts := c.Survey(ctx)
	if err := context.Cause(ctx); err != nil {
		return Quiet{}, err
	}
	q.GuestOS = facts.OS.GuestOS()
	if facts.Agent != nil {
		q.decide(facts)
		return q.take(ctx, o, take)
	}

	// A guest is not frozen for a class that it cannot reach at best.
	best := facts
	best.FileSystems = 1
	q.decide(best)
	if err := q.tooLow(o); err != nil {
		return Quiet{}, err
	}
	freeze := guest.FreezeOptions{Limit: o.Limit}
	if len(o.Guard) > 0 {
		freeze.Guard = &guest.GuardOptions{Args: o.Guard}
	}
	frozen, err := c.Freeze(ctx, freeze)
	facts.Froze(frozen, err)
	if err != nil {
		if err := context.Cause(ctx); err != nil {
			return Quiet{}, err
		}
		q.decide(facts)
		return q.take(ctx, o, take)
	}
	q.decide(facts) // it may have frozen nothing
	var takeErr error
	if q.tooLow(o) == nil {
		takeErr = take(ctx)
		q.Time = time.Now()
	}
	stood, err := frozen.Thaw(context.WithoutCancel(ctx))
	q.FrozenFor = stood
	facts.Thawed(err)
	if takeErr != nil {
		if errors.Is(err, guest.ErrThawFailed) {
			takeErr = fmt.Errorf("%w; %w", takeErr, err)
		}
		return Quiet{}, takeErr
	}
	if q.Time.IsZero() {
		q.decide(facts)
		return Quiet{}, q.tooLow(o)
	}
	c.Aftermath(ctx, &facts)
	q.decide(facts)
	if err := q.tooLow(o); err != nil {
		undo()
		return Quiet{}, err
	}
	return q, nil
}

// take takes the snapshot of a guest that is not frozen.
func (q Quiet) take(ctx context.Context, o QuiesceOptions, take func(context.Context) error) (Quiet, error) {
	if err := q.tooLow(o); err != nil {
		return Quiet{}, err
	}
	if err := take(ctx); err != nil {
		return Quiet{}, err
	}
	q.Time = time.Now()
	return q, nil
}

// decide sets class and warnings from what happened so far.
func (q *Quiet) decide(f guest.Facts) {
	class, warnings := guest.Decide(f)
	q.Consistency = classes[class]
	q.Warnings = nil
	for _, w := range warnings {
		q.Warnings = append(q.Warnings, source.Warning{Kind: kinds[w.Kind], Text: w.Text})
	}
}

func (q Quiet) tooLow(o QuiesceOptions) error {
	if q.Consistency >= o.Minimum {
		return nil
	}
	return &source.ConsistencyError{Reached: q.Consistency, Wanted: o.Minimum, Causes: q.Warnings}
}

var classes = map[guest.Class]source.Consistency{
	guest.CrashConsistent:       source.CrashConsistent,
	guest.FileSystemConsistent:  source.FileSystemConsistent,
	guest.ApplicationConsistent: source.ApplicationConsistent,
}

var kinds = map[guest.Kind]source.WarningKind{
	guest.KindAgentUnavailable: source.WarnAgent,
	guest.KindUnsupportedGuest: source.WarnGuest,
	guest.KindAlreadyFrozen:    source.WarnFreeze,
	guest.KindFreezeFailed:     source.WarnFreeze,
	guest.KindNothingFrozen:    source.WarnFreeze,
	guest.KindHookFailed:       source.WarnFreeze,
	guest.KindVSSFailed:        source.WarnVSS,
	guest.KindWriterFailed:     source.WarnVSS,
	guest.KindFreezeExpired:    source.WarnFreeze,
	guest.KindThawFailed:       source.WarnFreeze,
}

// Thaw lets a guest go on that a process which is gone may have frozen. It does
// nothing to one that is not frozen.
//
// Errors: guest.ErrUnavailable when the agent does not answer, so that nothing
// is known; what the agent said.
func Thaw(ctx context.Context, g guest.Transport) error {
	c := guest.NewClient(g)
	for {
		switch frozen, err := c.FreezeStatus(ctx); {
		case errors.As(err, new(*guest.CommandError)):
			return nil // it cannot be frozen at all
		case err != nil:
			return fmt.Errorf("thaw the guest: %w", err)
		case !frozen:
			return nil
		}
		timed, cancel := context.WithTimeout(ctx, thawLimit)
		reply, err := g.Execute(timed, `{"execute":"guest-fsfreeze-thaw"}`)
		cancel()
		if err != nil {
			return fmt.Errorf("thaw the guest: %w", err)
		}
		// What the agent says is not believed but seen, and tried again if need be.
		switch frozen, err := c.FreezeStatus(ctx); {
		case err != nil:
			return fmt.Errorf("thaw the guest: %w", err)
		case !frozen:
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("thaw the guest: %w: %.200s", guest.ErrThawFailed, reply)
		}
	}
}

// thawLimit is how long one thaw may take: the guest's hooks run in it.
const thawLimit = 10 * time.Second
