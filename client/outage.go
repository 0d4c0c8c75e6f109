package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// outage is since when the server has not been heard of, for all calls that wait
// for it together: they give up together too, and while the server stays away
// what comes later fails at once, instead of waiting as long once more.
type outage struct {
	mu    sync.Mutex
	since time.Time // zero: it answers, as far as anyone knows
}

// began notes that a call failed which had not heard of the server since t, and
// tells since when nobody has.
func (o *outage) began(t time.Time) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = t
	}
	return o.since
}

// ended notes that the server answers.
func (o *outage) ended() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = time.Time{}
}

// retry makes call try again while the server is gone, until it has been gone
// for limit. call tells when it last heard of the server, the zero time if never.
func (o *outage) retry(ctx context.Context, limit time.Duration, call func() (heard time.Time, err error)) error {
	wait := 50 * time.Millisecond
	for {
		start := time.Now()
		heard, err := call()
		if err == nil || !Transient(err) {
			if ctx.Err() == nil {
				o.ended()
			}
			return err
		}
		if heard.IsZero() {
			heard = start
		}
		gone := o.began(heard)
		left := limit - time.Since(gone)
		if left <= 0 {
			if limit > 0 {
				err = fmt.Errorf("%w (the server has been gone for %v)", err, time.Since(gone).Round(time.Second))
			}
			return err
		}
		select {
		case <-time.After(min(wait+rand.N(wait), left)):
			wait = min(2*wait, 2*time.Second)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Patiently repeats a call that may be made twice while the server is gone, for
// limit at most since it was last heard of.
func (c *Client) Patiently(ctx context.Context, limit time.Duration, call func() error) error {
	return c.outage.retry(ctx, limit, func() (time.Time, error) { return time.Time{}, call() })
}
