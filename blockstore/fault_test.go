package blockstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cairn/blockstore/block"
)

// TestEveryWriteFails fails every file operation that changes something, one
// per run: once, or from then on, as a dying disk does and as a full one. The
// process must survive, what was acknowledged must stay readable in the store as
// it is, and all must be well when the vault is opened on a good disk.
func TestEveryWriteFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		onward bool
		step   int
	}{
		{"once", syscall.EIO, false, 1},
		{"from then on", syscall.EIO, true, 3},
		{"disk full", syscall.ENOSPC, true, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var failed, survived int
			if raceEnabled {
				c.step *= 5
			}
			for at := 1; ; at += c.step {
				f := &faulty{at: at, err: c.err, onward: c.onward}
				if !f.run(t) {
					break
				}
				if f.failed {
					failed++
				} else {
					survived++
				}
				if t.Failed() {
					t.Fatalf("at operation %d", at)
				}
			}
			t.Logf("%d runs ended in a store that had stopped writing, %d in one that had not", failed, survived)
			if failed == 0 || survived == 0 {
				t.Error("one of the two never happened")
			}
		})
	}
}

type faulty struct {
	at     int
	err    error
	onward bool
	hit    atomic.Bool
	healed atomic.Bool
	failed bool
}

// run returns false if the work ended before the failure came.
func (f *faulty) run(t *testing.T) bool {
	ctx := context.Background()
	mem := vfs.NewMem()
	res := NewResources(ResourceOptions{IndexCache: 1 << 20, TableCache: 1 << 20, OpenFiles: 50})
	defer res.Close()
	s := testCreate(t, "v", Options{FS: mem, Resources: res})
	testBackup(t, s, "before", 0, 4)
	testClose(t, s)

	disk := onWrite(mem, func(n int) error {
		if !f.healed.Load() && (n == f.at || f.onward && n > f.at) {
			f.hit.Store(true)
			return f.err
		}
		return nil
	})
	acked := map[string][2]int{"before": {0, 4}}
	maybe := map[string][2]int{}
	do := func(s *Store, id string, from, to int) error {
		_, err := s.backupTest(id, from, to, Mutation{Key: id, Value: []byte(id)})
		if err == nil {
			acked[id] = [2]int{from, to}
		} else {
			maybe[id] = [2]int{from, to}
		}
		return err
	}
	check := func(s *Store, when string) {
		for id, r := range acked {
			if err := s.checkPoint(id, r[0], r[1]); err != nil {
				t.Errorf("%s: acknowledged point %s: %v", when, id, err)
			}
		}
	}
	s, err := Open("v", testOptions(Options{FS: disk, Resources: res, TableSize: 3 * testBlock}))
	if err != nil {
		if !f.hit.Load() {
			t.Errorf("open: %v", err)
		}
	} else {
		var errs []error
		errs = append(errs, do(s, "a", 10, 18))
		errs = append(errs, do(s, "b", 12, 20)) // shares blocks with a
		errs = append(errs, s.Apply(ctx, Mutation{Key: "k", Value: []byte("v")}))
		// Flushing the index writes a table and the MANIFEST. On a full disk it
		// waits for space.
		flushed, err := s.index.AsyncFlush()
		if err != nil {
			t.Error(err)
		}
		if !errors.Is(f.err, syscall.ENOSPC) {
			<-flushed
		}
		errs = append(errs, do(s, "c", 30, 31))
		err = errors.Join(errs...)
		if failed := s.Info().Failed; failed != nil {
			f.failed = true
			wantErr(t, "Info.Failed", failed, ErrFailed)
			_, err := s.StartUpload("more")
			wantErr(t, "write to a failed store", err, ErrFailed)
			wantErr(t, "write to a failed store", s.Apply(ctx, Mutation{Key: "k"}), ErrFailed)
		} else if err == nil && !f.hit.Load() {
			testClose(t, s)
			return false
		}
		check(s, "after the failure")
		f.healed.Store(true)
		if !f.failed {
			// What the flush met may still stop the store.
			if err := do(s, "again", 40, 44); errors.Is(err, ErrFailed) {
				f.failed = true
			} else if err != nil {
				t.Errorf("after the failure has passed: %v", err)
			}
			<-flushed
		}
		testClose(t, s)
	}

	s, err = Open("v", testOptions(Options{FS: mem, Resources: res}))
	if err != nil {
		t.Errorf("open on a good disk: %v", err)
		return true
	}
	check(s, "on a good disk")
	for id, r := range maybe {
		p, err := s.Point(id)
		_, rerr := s.Record(id)
		if err == nil {
			err = errors.Join(rerr, s.checkPoint(p.ID, r[0], r[1]))
		} else if errors.Is(err, ErrNotFound) && errors.Is(rerr, ErrNotFound) {
			err = nil
		}
		if err != nil {
			t.Errorf("point %s, of which nothing is known: %v", id, err)
		}
	}
	if r, err := s.Verify(ctx, nil); err != nil || r.BadCount > 0 {
		t.Errorf("verify on a good disk: %v, %+v", err, r)
	}
	if err := do(s, "after", 10, 50); err != nil {
		t.Errorf("on a good disk: %v", err)
	}
	check(s, "in the end")
	testClose(t, s)
	return true
}

// TestTableFailureFailsWhatIsBehind lets a table fail while others wait behind
// it. The blocks of all of them must be reported as lost, and a page that names
// one of them must not get in.
func TestTableFailureFailsWhatIsBehind(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	var fail atomic.Bool
	reached, gate := make(chan struct{}), make(chan struct{})
	disk := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail.Load() && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) && isTable(op.Path) {
			reached <- struct{}{}
			<-gate
			return syscall.EIO
		}
		return nil
	}))
	s := testCreate(t, "v", Options{FS: disk, TableSize: 2 * testBlock})
	fail.Store(true)
	u, other := startUpload(t, s, "u"), startUpload(t, s, "other")
	var acks []*Ack
	for n := range 6 { // fills the failing table, the one behind it, and the queue
		a, err := u.Put(ctx, testBlocks(n))
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, a)
	}
	<-reached
	fail.Store(false) // the sync that waits fails all the same
	// Another upload relies on what is under way.
	if m, err := other.FindMissing(ctx, digestsOf(testBlocks(0, 5))); err != nil || len(m) != 0 {
		t.Fatalf("missing %v, %v", m, err)
	}
	dup, err := other.Put(ctx, testBlocks(0, 5))
	if err != nil || dup.Blocks != 0 {
		t.Fatalf("%+v, %v", dup, err)
	}
	page := make([]byte, 8192)
	d := block.Sum(testPlain(0))
	copy(page, d[:])
	close(gate)
	for i, a := range append(acks, dup) {
		<-a.Done()
		wantErr(t, fmt.Sprintf("ack %d", i), a.Err(), syscall.EIO)
	}
	for _, u := range []*Upload{u, other} {
		wantErr(t, "flush", u.Flush(ctx), syscall.EIO)
		wantErr(t, "commit", u.Commit(ctx, Point{ID: "p"}), syscall.EIO)
		_, err := u.WritePage(ctx, page)
		wantErr(t, "page over a lost block", err, ErrBlockMissing)
	}
	if s.Info().Failed != nil {
		t.Errorf("a failed table stopped the store: %v", s.Info().Failed)
	}
	// What is put again counts as put.
	if _, err := u.Put(ctx, testBlocks(0, 1, 2, 3, 4, 5)); err != nil {
		t.Fatal(err)
	}
	if err := u.Flush(ctx); err != nil {
		t.Error(err)
	}
	if m, err := other.FindMissing(ctx, digestsOf(testBlocks(0, 5))); err != nil || len(m) != 0 {
		t.Errorf("missing %v, %v", m, err)
	}
	if err := other.Flush(ctx); err != nil {
		t.Error(err)
	}
	_, err = other.WritePage(ctx, page)
	if err := errors.Join(err, other.Flush(ctx)); err != nil {
		t.Error(err)
	}
	if ls, err := mem.List("v/incoming"); err != nil || len(ls) > 0 {
		t.Errorf("failed tables left %v, %v", ls, err)
	}
}

func isTable(path string) bool { return len(path) > 4 && path[len(path)-4:] == ".sst" }
