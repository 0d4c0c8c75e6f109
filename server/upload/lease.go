package upload

import "time"

// Bounds of an upload's lease.
const (
	DefaultLease = 2 * time.Minute
	MinLease     = time.Second
	MaxLease     = time.Hour
)

// Clock tells the time and wakes its caller. Tests bring their own.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f on a goroutine of its own once d has passed.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is what a Clock's AfterFunc started; *time.Timer is one.
type Timer interface {
	// Stop prevents the call, unless it returns false.
	Stop() bool
	// Reset starts the timer again.
	Reset(d time.Duration) bool
}

// SystemClock is the real time.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc is time.AfterFunc.
func (SystemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// lease runs out when nothing has happened for its term. Its owner's mutex
// guards it. A call extends it by moving a time on; the timer notices when it
// fires, so that a busy upload does not start a timer with every message.
type lease struct {
	clock   Clock
	term    time.Duration
	expires time.Time
	timer   Timer
	busy    int // calls and batches under way: meanwhile the lease cannot run out
}

// extend gives the lease its whole term again.
func (l *lease) extend() { l.expires = l.clock.Now().Add(l.term) }

// left is how long the lease lasts if nothing happens.
func (l *lease) left() time.Duration {
	if l.busy > 0 {
		return l.term
	}
	return l.expires.Sub(l.clock.Now())
}

// start arms the timer, which calls f when the lease may have run out: f asks
// left, and resets the timer if there is something left.
func (l *lease) start(f func()) {
	l.extend()
	l.timer = l.clock.AfterFunc(l.term, f)
}
