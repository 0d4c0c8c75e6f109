package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
)

// killedLife is the life of a server that is killed again and again: clients that
// change its items and policies, agents that back up, a clock that runs, and what
// all of these were told, which must be true ever after.
type killedLife struct {
	t     *testing.T
	w     *world // its clients; not to be used where its methods end the test
	dir   string
	clock *clock
	ctx   context.Context
	end   context.CancelFunc
	work  sync.WaitGroup

	mu   sync.Mutex
	proc *process
	rng  *rand.Rand
	err  error // the first that was found
	up   chan struct{}

	// turn is held by who does something, and by the test alone while it compares.
	turn sync.RWMutex
	// calls is held by every call from its first attempt to its answer, so that the
	// clock cannot leap over the day for which a server knows a call again.
	calls  sync.RWMutex
	gentle atomic.Bool // agents do as they are told, so that all jobs end
	snaps  atomic.Int64

	items    []*killedItem
	policies []*killedPolicy
	notes    killedNotes
}

// killedNotes is what was acknowledged.
type killedNotes struct {
	mu      sync.Mutex
	jobs    map[string]*pb.Job // by name, as they were last seen; of all operations
	asked   map[string]bool    // backups and retries that were asked for
	points  map[string]*pb.RecoveryPoint
	deleted map[string]bool // points of which the deletion was asked for: true if it was acknowledged
	calls   int
	repeats int // calls whose answer was lost, and came the second time
}

// startEpoch is when these lives begin: a Monday.
var startEpoch = time.Date(2026, 3, 2, 9, 0, 30, 0, time.UTC)

func newKilledLife(t *testing.T, seed uint64) *killedLife {
	t.Logf("seed %d", seed)
	l := &killedLife{
		t: t, dir: t.TempDir() + "/d", clock: newClock(startEpoch), rng: rand.New(rand.NewPCG(seed, 4)), up: make(chan struct{}),
		notes: killedNotes{jobs: map[string]*pb.Job{}, asked: map[string]bool{}, points: map[string]*pb.RecoveryPoint{}, deleted: map[string]bool{}},
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.w = &world{t: t, ctx: l.ctx}
	l.w.connect("unix:"+killedSocket(l.dir), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.5, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: time.Second,
		}))
	t.Cleanup(func() {
		l.end()
		l.work.Wait()
		l.w.conn.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.proc != nil {
			log, _ := l.proc.kill()
			if t.Failed() {
				t.Logf("the last server's log:\n%s", log)
			}
		}
	})
	return l
}

// random gives a number in [0, n).
func (l *killedLife) random(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(n)
}

// fail notes that something is not as it must be, and ends the life.
func (l *killedLife) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && l.ctx.Err() == nil {
		l.err = fmt.Errorf(format, args...)
	}
	l.end()
}

// check ends the test if something was noted.
func (l *killedLife) check() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		l.t.Fatalf("at %s: %v", l.clock.Now().Format(time.DateTime), l.err)
	}
}

// start starts a server; with die not nil it is killed once die is closed, though
// it may not have opened its directory by then, and start tells so with false.
func (l *killedLife) start(die <-chan time.Time) (alive bool) {
	l.t.Helper()
	p, err := startProcess(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() { opened <- p.tell("open", l.clock.Now()) }()
	select {
	case err := <-opened:
		if err != nil {
			log, _ := p.kill()
			l.t.Fatalf("the server does not start: %v\n%s", err, log)
		}
	case <-die:
		log, err := p.kill()
		if err != nil {
			l.t.Fatalf("the server does not start: %v\n%s", err, log)
		}
		<-opened
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proc = p
	close(l.up)
	return true
}

// kill kills the server.
func (l *killedLife) kill() {
	l.t.Helper()
	l.mu.Lock()
	p := l.proc
	l.proc, l.up = nil, make(chan struct{})
	l.mu.Unlock()
	if log, err := p.kill(); err != nil {
		l.t.Fatalf("the server fell: %v\n%s", err, log)
	}
}

// server gives the server that runs, or waits for one. nil: the life has ended.
func (l *killedLife) server() *process {
	for {
		l.mu.Lock()
		p, up := l.proc, l.up
		l.mu.Unlock()
		if p != nil {
			return p
		}
		select {
		case <-up:
		case <-l.ctx.Done():
			return nil
		}
	}
}

// tell tells the server something until it has heard it.
func (l *killedLife) tell(word string, at ...time.Time) {
	for {
		p := l.server()
		if p == nil || p.tell(word, at...) == nil {
			return
		}
		select { // it is dead: until that is noticed
		case <-l.ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// advance moves the clock, and lets the server do what is due then.
func (l *killedLife) advance(d time.Duration) {
	l.calls.Lock()
	to := l.clock.Now().Add(d)
	l.tell("time", to)
	l.clock.Set(to)
	l.calls.Unlock()
	l.tell("tend")
}

// run does something again and again until the life ends.
func (l *killedLife) run(f func()) {
	l.work.Go(func() {
		for l.ctx.Err() == nil {
			l.turn.RLock()
			f()
			l.turn.RUnlock()
		}
	})
}

// lost says whether a call had no answer, as the server is dead.
func lost(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.Unknown, codes.Internal: // a stream that was cut in two
		return len(status.Convert(err).Details()) == 0
	}
	return false
}

var errOver = errors.New("the life is over")

// callKilled repeats a call until it is answered. An answer that is an error must
// tell a reason, and the server must be quick.
func callKilled[Q, R proto.Message](l *killedLife, f func(context.Context, Q, ...grpc.CallOption) (R, error), q Q) (R, error) {
	l.calls.RLock()
	defer l.calls.RUnlock()
	var none R
	for again := false; ; again = true {
		ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
		r, err := f(ctx, q)
		cancel()
		switch {
		case l.ctx.Err() != nil:
			return none, errOver
		case lost(err):
			continue
		case status.Code(err) == codes.DeadlineExceeded:
			l.fail("no answer to %T %v", q, q)
		case err != nil && reasonIn(err) == 0, reasonIn(err) == pb.ErrorReason_ERROR_REASON_INTERNAL:
			l.fail("%T %v: %v", q, q, err)
		}
		l.notes.mu.Lock()
		defer l.notes.mu.Unlock()
		l.notes.calls++
		if again {
			l.notes.repeats++
		}
		return r, err
	}
}

// twice makes a call that has a request id, and sometimes makes it again, to have
// the same answer.
func twice[Q, R proto.Message](l *killedLife, f func(context.Context, Q, ...grpc.CallOption) (R, error), q Q) (R, error) {
	r, err := callKilled(l, f, q)
	if err == nil && l.random(3) == 0 {
		again, err := callKilled(l, f, q)
		if errors.Is(err, errOver) {
			return r, err
		}
		if err != nil || !proto.Equal(r, again) {
			l.fail("%T %v answered first\n%v, then\n%v, %v", q, q, r, again, err)
		}
	}
	return r, err
}

// reasonIn is the reason in an error; 0 if there is none.
func reasonIn(err error) pb.ErrorReason {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(interface{ GetReason() string }); ok {
			return pb.ErrorReason(pb.ErrorReason_value[i.GetReason()])
		}
	}
	return 0
}

// requestID makes up a request id.
func (l *killedLife) requestID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("r-%016x", l.rng.Uint64())
}
