package guest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// DefaultFreezeLimit is how long a guest may stand still when
// FreezeOptions.Limit is 0.
const DefaultFreezeLimit = 10 * time.Second

// guardSlack is how much later than ours the guard's limit passes: it acts when
// we do not.
const guardSlack = 5 * time.Second

// FreezeOptions says how to freeze.
type FreezeOptions struct {
	// Limit bounds the time from the freeze command to the beginning of the
	// thaw; 0 means DefaultFreezeLimit. The guest's freeze hooks and VSS
	// writers get ready within it. Writers of a busy Windows may take most of a
	// minute for that: it may be given more, since VSS itself lets writes pass
	// after ten seconds.
	Limit time.Duration
	// Guard, if not nil, describes the guard process. Its Limit is set by
	// Freeze. Without one, the guest stays frozen when this process dies.
	Guard *GuardOptions
}

// FreezeStatus tells whether the guest's file systems are frozen, by whomever.
func (c *Client) FreezeStatus(ctx context.Context) (frozen bool, err error) {
	if c.frozen.Load() {
		return true, nil
	}
	return c.status(ctx)
}

func (c *Client) status(ctx context.Context) (frozen bool, err error) {
	var s string
	err = c.send(ctx, c.limits.command, theFreeze, "guest-fsfreeze-status", nil, &s)
	return s == "frozen", err
}

// Frozen is a guest that stands still because of us. Until it is thawed, the
// client sends nothing else.
type Frozen struct {
	// FileSystems is how many were frozen; with 0 the guest did not stop
	// writing. It is to be thawed all the same: hooks have run.
	FileSystems int

	c       *Client
	guard   *Guard
	limit   time.Duration
	started time.Time
	release func()        // ends run early; may be called many times
	done    chan struct{} // closed when run has ended
	stood   time.Duration // valid after done
	err     error         // valid after done
}

// Freeze freezes all of the guest's file systems. When it returns an error the
// guest is not frozen by us, except with ErrThawFailed.
//
// Errors: ErrAlreadyFrozen, ErrUnavailable when the agent was silent before
// anything was done; else ErrFreezeFailed and its reason.
func (c *Client) Freeze(ctx context.Context, o FreezeOptions) (*Frozen, error) {
	if o.Limit <= 0 {
		o.Limit = DefaultFreezeLimit
	}
	if c.frozen.Load() {
		return nil, fmt.Errorf("freeze: %w", ErrFrozen)
	}
	switch frozen, err := c.status(ctx); {
	case notOffered(err):
		return nil, fmt.Errorf("%w: %w", ErrFreezeFailed, err)
	case err != nil:
		return nil, err
	case frozen:
		return nil, ErrAlreadyFrozen
	}
	f := &Frozen{c: c, limit: o.Limit, done: make(chan struct{})}
	if o.Guard != nil {
		g := *o.Guard
		g.Limit = o.Limit + guardSlack
		var err error
		if f.guard, err = StartGuard(ctx, g); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFreezeFailed, err)
		}
	}
	if !c.frozen.CompareAndSwap(false, true) {
		f.guard.Done()
		return nil, fmt.Errorf("freeze: %w", ErrFrozen)
	}
	f.started = time.Now()
	err := c.send(ctx, o.Limit, theFreeze, "guest-fsfreeze-freeze", nil, &f.FileSystems)
	if err == nil {
		err = context.Cause(ctx) // nobody would use it
	}
	if err == nil {
		stop := make(chan struct{})
		f.release = sync.OnceFunc(func() { close(stop) })
		go f.run(stop)
		return f, nil
	}
	return nil, f.undo(err)
}

// undo makes sure that a freeze that did not succeed leaves nothing, and tells
// why it did not.
func (f *Frozen) undo(err error) error {
	if notOffered(err) {
		// The agent did nothing. It refuses freezes also while it is frozen:
		// then somebody came between the status and our command.
		frozen, _ := f.c.status(context.Background())
		f.guard.Done()
		f.c.frozen.Store(false)
		if frozen {
			return ErrAlreadyFrozen
		}
		return fmt.Errorf("%w: %w", ErrFreezeFailed, err)
	}
	err = fmt.Errorf("%w: %w", ErrFreezeFailed, classify(err))
	if thawErr := f.thaw(); errors.Is(thawErr, ErrThawFailed) {
		err = errors.Join(err, thawErr)
	}
	return err
}

// run owns the freeze from its success to its end.
func (f *Frozen) run(stop <-chan struct{}) {
	defer close(f.done)
	timer := time.NewTimer(time.Until(f.started.Add(f.limit)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
	// The clock decides, not which of the two was seen first: a process that
	// was stopped for a while finds both.
	expired := time.Since(f.started) >= f.limit
	f.err = f.thaw()
	if expired {
		f.err = errors.Join(fmt.Errorf("%w: the limit of %s passed", ErrFreezeExpired, f.limit), f.err)
	}
}

// Thaw lets the guest go on, whatever has become of ctx, and returns how long it
// stood still: from before the freeze command to after the thaw's reply, so at
// most that long. It may be called again and answers the same.
//
// Errors: ErrFreezeExpired when the limit (or VSS's own, of ten seconds) had
// passed before; ErrHookFailed when the guest goes on, but its hook failed;
// ErrGone; ErrThawFailed.
func (f *Frozen) Thaw(ctx context.Context) (time.Duration, error) {
	f.release()
	<-f.done // bounded by timeouts.thaw
	return f.stood, f.err
}

// thaw tries until the guest says that it is thawed, or time is up. It ends the
// guard, or leaves the rest to it.
func (f *Frozen) thaw() error {
	// Nobody's cancellation may keep a guest frozen.
	ctx, cancel := context.WithTimeout(context.Background(), f.c.limits.thaw)
	defer cancel()
	err := f.c.thawUntil(ctx)
	f.stood = time.Since(f.started)
	if errors.Is(err, ErrThawFailed) {
		f.guard.Abandon()
		f.c.frozen.Store(false) // others may try
		return err
	}
	if f.guard.Done() {
		// It saw its own limit pass, so ours had passed too.
		err = errors.Join(ErrFreezeExpired, err)
	}
	f.c.frozen.Store(false)
	return err
}

// thawUntil asks for the thaw until it is confirmed or ctx ends.
//
// Errors: ErrThawFailed; ErrGone; any other means that the guest is thawed, but
// that something failed while it was (a hook, VSS).
func (c *Client) thawUntil(ctx context.Context) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := c.send(ctx, c.limits.thawTry, theFreeze, "guest-fsfreeze-thaw", nil, nil)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrGone) {
			return err
		}
		if errors.As(err, new(*CommandError)) {
			// The agent answers, so it can say what the refusal means.
			if frozen, statusErr := c.status(ctx); statusErr == nil && !frozen {
				return classify(err)
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrThawFailed, err)
		}
	}
}
