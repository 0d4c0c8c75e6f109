package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

func nothing(*catalog.Tx) error { return nil }

func everything(*pb.Job) bool { return true }

// view is what a watcher knows: it checks the order of what it is told.
type view struct {
	t      *testing.T
	rev    int64
	synced int
	jobs   map[string]*pb.Job
	seen   map[int64]bool
}

func newView(t *testing.T) *view {
	return &view{t: t, jobs: map[string]*pb.Job{}, seen: map[int64]bool{}}
}

func (v *view) take(e Event) {
	switch {
	case e.Synced:
		v.synced++
		if e.Job != nil || e.Revision < v.rev {
			v.t.Errorf("bookmark %v behind revision %d", e, v.rev)
		}
	case v.seen[e.Revision] || e.Revision <= v.rev:
		v.t.Errorf("revision %d after %d", e.Revision, v.rev)
	case e.Deleted:
		delete(v.jobs, e.Job.Name)
	default:
		if e.Job.Revision != e.Revision {
			v.t.Errorf("job of revision %d with revision %d", e.Job.Revision, e.Revision)
		}
		if old := v.jobs[e.Job.Name]; old != nil && old.Stats.GetReadBytes() > e.Job.Stats.GetReadBytes() {
			v.t.Errorf("job %s went back from %d to %d", e.Job.Name, old.Stats.ReadBytes, e.Job.Stats.ReadBytes)
		}
		v.jobs[e.Job.Name] = e.Job
	}
	v.seen[e.Revision] = true
	v.rev = e.Revision
}

// Watchers that come, are cut off, and go on, some of them slow, all end up with
// what there is, and none misses or repeats a change.
func TestWatchersAgree(t *testing.T) {
	b := newBench(t, Options{History: 1 << 20})
	defer b.close()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	working, done := context.WithCancel(t.Context())
	var work, watchers sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 15 {
				r, err := b.Begin(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY})
				if err != nil {
					t.Error(err)
					return
				}
				for range rnd.IntN(20) {
					r.Update(func(j *pb.Job) { j.Stats.ReadBytes++ })
				}
				if rnd.IntN(3) == 0 {
					if _, err := b.Cancel(r.Name()); err != nil {
						t.Error(err)
					}
				}
				r.Finish(r.Context().Err())
			}
		})
	}
	go func() { work.Wait(); done() }()
	views := make([]*view, 6)
	for i := range views {
		views[i] = newView(t)
		watchers.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
			for ended := false; !ended; {
				ctx := working
				if ended = working.Err() != nil; ended {
					ctx = t.Context() // one more time, to the end
				}
				left := rnd.IntN(100)
				err := b.Watch(ctx, everything, views[i].rev, func(e Event) error {
					views[i].take(e)
					if left--; left < 0 && !ended || ended && e.Synced {
						return context.Canceled
					}
					for range rnd.IntN(50) * i { // the last ones are slow
						b.Connected("nobody")
					}
					return nil
				})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("watch: %v", err)
					return
				}
			}
		})
	}
	watchers.Wait()
	want := map[string]int64{}
	if err := b.List("s", "", "", func(j *pb.Job) bool { want[j.Name] = j.Revision; return true }); err != nil {
		t.Fatal(err)
	}
	for i, v := range views {
		have := map[string]int64{}
		for n, j := range v.jobs {
			have[n] = j.Revision
		}
		if !maps.Equal(have, want) {
			t.Errorf("watcher %d has %d jobs, %d are there", i, len(have), len(want))
		}
	}
}

// collect watches until all that is there is sent.
func (b *bench) collect(match func(*pb.Job) bool, after int64) ([]Event, error) {
	var events []Event
	err := b.Watch(context.Background(), match, after, func(e Event) error {
		events = append(events, e)
		if e.Synced {
			return context.Canceled
		}
		return nil
	})
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return events, err
}

func TestWatchRevisions(t *testing.T) {
	b := newBench(t, Options{History: 10})
	first := b.backup(0)
	events, err := b.collect(everything, 0)
	if err != nil || len(events) != 2 || events[0].Job.Name != first || !events[1].Synced {
		t.Fatalf("events %v, %v", events, err)
	}
	rev := events[1].Revision
	if events, err := b.collect(everything, rev); err != nil || len(events) != 1 || events[0].Revision != rev {
		t.Errorf("nothing new: %v, %v", events, err)
	}
	for _, after := range []int64{rev + 1, 1 << 60} {
		if _, err := b.collect(everything, after); !errors.Is(err, ErrRevision) {
			t.Errorf("watch from the future %d: %v", after, err)
		}
	}
	for i := range 9 {
		b.backup(i + 1)
	}
	if events, err := b.collect(everything, rev); err != nil || len(events) != 10 {
		t.Errorf("%d events, %v", len(events), err)
	}
	for i := range 30 {
		b.backup(i + 10)
	}
	if _, err := b.collect(everything, rev); !errors.Is(err, ErrRevision) {
		t.Errorf("watch from what is forgotten: %v", err)
	}
	last := b.rev
	b.close()
	b.open(Options{History: 10})
	defer b.close()
	// After a clean stop a watcher goes on.
	if events, err := b.collect(everything, last); err != nil || len(events) != 1 {
		t.Errorf("events %v, %v", events, err)
	}
	b.backup(100)
	if events, err := b.collect(everything, last); err != nil || len(events) != 2 {
		t.Errorf("events %v, %v", events, err)
	}
}

// A crash cannot make a revision come again.
func TestRevisionsAfterCrash(t *testing.T) {
	b := newBench(t, Options{})
	r, err := b.Begin(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY})
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for range 2500 {
		r.Update(func(j *pb.Job) { j.Stats.ReadBytes++ })
		last = r.Job().Revision
	}
	stored, err := b.cat.Revision()
	if err != nil || stored < last {
		t.Errorf("the stored ceiling is %d at revision %d, %v", stored, last, err)
	}
	r.Finish(nil)
	b.close()
}

func TestWatchFilter(t *testing.T) {
	b := newBench(t, Options{})
	defer b.close()
	running := func(j *pb.Job) bool { return j.State == inProgress }
	r, err := b.Begin(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY})
	if err != nil {
		t.Fatal(err)
	}
	b.backup(1) // never matches
	events := make(chan Event)
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error)
	go func() { end <- b.Watch(ctx, running, 0, func(e Event) error { events <- e; return nil }) }()
	if e := <-events; e.Job.GetName() != r.Name() {
		t.Errorf("event %v", e)
	}
	if e := <-events; !e.Synced {
		t.Errorf("event %v", e)
	}
	r.Update(func(j *pb.Job) { j.Stats.ReadBytes = 1 })
	if e := <-events; e.Deleted || e.Job.Stats.ReadBytes != 1 {
		t.Errorf("event %v", e)
	}
	r.Finish(nil)
	if e := <-events; !e.Deleted || e.Job.State != completed {
		t.Errorf("event %v", e)
	}
	cancel()
	<-end
}

// A watcher that falls too far behind is told so; others do not wait for it.
func TestSlowWatcher(t *testing.T) {
	b := newBench(t, Options{History: 20})
	defer b.close()
	r, err := b.Begin(Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY})
	if err != nil {
		t.Fatal(err)
	}
	begun, block, end := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		end <- b.Watch(t.Context(), everything, 0, func(e Event) error {
			if e.Synced {
				close(begun)
				<-block
			}
			return nil
		})
	}()
	<-begun
	for range 100 {
		r.Update(func(j *pb.Job) { j.Stats.ReadBytes++ })
	}
	close(block)
	if err := <-end; !errors.Is(err, ErrRevision) {
		t.Errorf("watch ended with %v", err)
	}
	r.Finish(nil)
}

func TestForgottenJobsAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.close()
		v := newView(t)
		for i := range 3 {
			if _, err := b.Record(Spec{Vault: fmt.Sprintf("subscriptions/s/vaults/v%d", i), Operation: pb.JobOperation_JOB_OPERATION_CONFIGURE_BACKUP}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error)
		go func() { end <- b.Watch(ctx, everything, 0, func(e Event) error { v.take(e); return nil }) }()
		synctest.Wait()
		if len(v.jobs) != 3 || v.synced != 1 {
			t.Errorf("%d jobs, %d bookmarks", len(v.jobs), v.synced)
		}
		b.mu.Lock()
		n := len(b.history)
		b.mu.Unlock()
		if err := b.ForgetVault("subscriptions/s/vaults/v1", nothing); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(v.jobs) != 2 || n != 3 {
			t.Errorf("%d jobs", len(v.jobs))
		}
		busy := b.backup(1)
		var state *StateError
		if err := b.ForgetVault(vault, nothing); !errors.As(err, &state) || state.Job != busy {
			t.Errorf("forget a vault with a queued job: %v", err)
		}
		cancel()
		<-end
	})
}
