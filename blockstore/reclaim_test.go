package blockstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
)

// everything makes a Reclaim leave nothing behind.
var everything = ReclaimOptions{Threshold: 1e-9}

func testReclaim(tb testing.TB, s *Store, o ReclaimOptions) ReclaimReport {
	tb.Helper()
	r, err := s.Reclaim(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// blockIDs are the ids in blocks/ and those that the index names.
func blockIDs(tb testing.TB, s *Store) (stored, named map[uint64]bool) {
	tb.Helper()
	stored, named = map[uint64]bool{}, map[uint64]bool{}
	it, err := s.blocks.NewIter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		id, err := parseBlockKey(it.Key())
		if err != nil {
			tb.Fatal(err)
		}
		stored[id] = true
	}
	err = s.scanEntries(context.Background(), ^uint64(0), func(v victim) error {
		named[v.entry.id] = true
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return stored, named
}

// reachable are the ids of what points need, by a plain walk.
func reachable(tb testing.TB, s *Store) map[uint64]bool {
	tb.Helper()
	ids := map[uint64]bool{}
	var visit func(d block.Digest)
	visit = func(d block.Digest) {
		es, err := s.lookup([]block.Digest{d})
		if err != nil || es[0].id == 0 {
			tb.Fatalf("block %s: %v, %v", d, es, err)
		}
		if ids[es[0].id] {
			return
		}
		ids[es[0].id] = true
		if es[0].page {
			page, err := s.ReadBlocks(context.Background(), []block.Digest{d})
			if err != nil {
				tb.Fatal(err)
			}
			for _, c := range pageChildren(page[0]) {
				visit(c)
			}
		}
	}
	err := s.Points("", "", func(p Point) bool {
		for _, d := range p.Disks {
			visit(d.Map.Root)
		}
		return true
	})
	if err != nil {
		tb.Fatal(err)
	}
	return ids
}

// checkClean asserts that exactly what points need is stored, and that the state
// says so.
func checkClean(tb testing.TB, s *Store) {
	tb.Helper()
	want := reachable(tb, s)
	stored, named := blockIDs(tb, s)
	for id := range want {
		if !stored[id] || !named[id] {
			tb.Errorf("block %d is needed: stored %v, named %v", id, stored[id], named[id])
		}
	}
	if len(stored) != len(want) || len(named) != len(want) {
		tb.Errorf("%d blocks are needed, %d stored, %d named", len(want), len(stored), len(named))
	}
	checkState(tb, s)
	r, err := s.Verify(context.Background(), nil)
	if err != nil || r.BadCount > 0 || r.Orphans > 0 {
		tb.Errorf("verify: %+v, %v", r, err)
	}
}

// checkState asserts that the state agrees with the index.
func checkState(tb testing.TB, s *Store) {
	tb.Helper()
	var st state
	err := s.scanEntries(context.Background(), ^uint64(0), func(v victim) error {
		st.blocks++
		st.stored += uint64(v.entry.stored)
		if v.entry.page {
			st.plain += 8192
		} else {
			st.plain += testBlock
		}
		return nil
	})
	got := *s.st.Load()
	st.next = got.next
	if err != nil || got != st {
		tb.Errorf("state %+v, the index has %+v, %v", got, st, err)
	}
}

func TestReclaim(t *testing.T) {
	ctx := context.Background()
	for _, tableSize := range []int64{3 * testBlock, 64 << 20} {
		t.Run(fmt.Sprint(tableSize), func(t *testing.T) {
			s := testCreate(t, "v", Options{FS: vfs.NewMem(), TableSize: tableSize})
			testBackup(t, s, "a", 0, 300)
			testBackup(t, s, "b", 100, 400)
			testBackup(t, s, "c", 1000, 1050)
			if r := testReclaim(t, s, everything); r.GarbageBlocks != 0 || r.RemovedEntries != 0 || r.Points != 3 {
				t.Errorf("nothing is garbage: %+v", r)
			}
			before, err := s.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.DeletePoint(ctx, "a"); err != nil {
				t.Fatal(err)
			}
			dry := testReclaim(t, s, ReclaimOptions{DryRun: true, Threshold: 1e-9})
			if st, err := s.Stats(); err != nil || st.Blocks != before.Blocks || st.StoredBytes != before.StoredBytes {
				t.Errorf("a dry run changed %+v to %+v, %v", before, st, err)
			}
			r := testReclaim(t, s, everything)
			// 100 blocks, two leaf pages and the root.
			if r.GarbageBlocks != 103 || r.RemovedEntries != 103 || dry.GarbageBlocks != 103 || dry.RemovedEntries != 0 {
				t.Errorf("removed %+v\ndry run %+v", r, dry)
			}
			if r.GarbageBytes < 100*testBlock || r.GarbageBytes != dry.GarbageBytes || uint64(r.FreedBytes) < 100*testBlock ||
				r.BytesBefore-r.BytesAfter != uint64(r.FreedBytes) || r.LeftBytes != 0 {
				t.Errorf("freed %+v", r)
			}
			if d := dry.FreedBytes - r.FreedBytes; d > r.FreedBytes/5 || d < -r.FreedBytes/5 {
				t.Errorf("a dry run promised %d bytes, it were %d", dry.FreedBytes, r.FreedBytes)
			}
			if err := errors.Join(s.checkPoint("b", 100, 400), s.checkPoint("c", 1000, 1050)); err != nil {
				t.Error(err)
			}
			checkClean(t, s)
			if again := testReclaim(t, s, ReclaimOptions{DryRun: true}); again.GarbageBlocks != 0 || again.FreedBytes != 0 {
				t.Errorf("a second time: %+v", again)
			}
			// What was removed can be put again.
			testBackup(t, s, "a", 0, 300)
			if err := s.checkPoint("a", 0, 300); err != nil {
				t.Error(err)
			}
			for _, id := range []string{"a", "b", "c"} {
				if err := s.DeletePoint(ctx, id); err != nil {
					t.Fatal(err)
				}
			}
			if r := testReclaim(t, s, ReclaimOptions{}); r.BytesAfter != 0 || r.TablesWritten != 0 {
				t.Errorf("nothing is needed: %+v", r)
			}
			checkClean(t, s)
			if st := s.st.Load(); st.blocks != 0 || st.stored != 0 || st.plain != 0 {
				t.Errorf("state of an empty vault %+v", st)
			}
		})
	}
}

// TestReclaimKeeps: what uploads and holds need stays.
func TestReclaimKeeps(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	testBackup(t, s, "held", 0, 300)
	testBackup(t, s, "pinned", 300, 600)
	testBackup(t, s, "gone", 600, 900)
	release, err := s.HoldPoint("held")
	if err != nil {
		t.Fatal(err)
	}
	held, _ := s.Point("held")
	pinned, _ := s.Point("pinned")
	u := startUpload(t, s, "u")
	if _, err := u.ReadBlocks(ctx, []block.Digest{pinned.Disks[0].Map.Root}); err != nil { // pins the root
		t.Fatal(err)
	}
	found := digestsOf(testBlocks(700, 701))
	if missing, err := u.FindMissing(ctx, found); err != nil || len(missing) > 0 {
		t.Fatal(missing, err)
	}
	if _, err := u.putTest(2000, 2003); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"held", "pinned", "gone"} {
		if err := s.DeletePoint(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	r := testReclaim(t, s, everything)
	if want := uint64(298 + 3); r.RemovedEntries != want {
		t.Errorf("removed %d blocks, want %d", r.RemovedEntries, want)
	}
	if err := u.Commit(ctx, Point{ID: "new", Disks: []Disk{{"vda", pinned.Disks[0].Map}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.checkPoint("new", 300, 600); err != nil {
		t.Error(err)
	}
	if _, err := s.ReadBlocks(ctx, append(found, held.Disks[0].Map.Root)); err != nil {
		t.Error(err)
	}
	release()
	r = testReclaim(t, s, everything)
	if want := uint64(303 + 5); r.RemovedEntries != want {
		t.Errorf("removed %d blocks, want %d", r.RemovedEntries, want)
	}
	checkClean(t, s)
}

// TestReclaimOrphans: blocks without index entries go, as a crash leaves them.
func TestReclaimOrphans(t *testing.T) {
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	testBackup(t, s, "a", 0, 50)
	testBackup(t, s, "b", 100, 150)
	next := s.st.Load().next
	// A table that was ingested before a crash, and some entries removed before
	// their blocks.
	tab := s.newTable(next, "", 0)
	f := &flight{bytes: testBlocks(90)[0].Stored}
	f.entry.id = next
	tab.add(f)
	if err := tab.finish(); err != nil {
		t.Fatal(err)
	}
	if err := s.blocks.Ingest(context.Background(), []string{tab.path}); err != nil {
		t.Fatal(err)
	}
	testClose(t, s)

	s = testOpen(t, "v", Options{FS: mem})
	if err := s.DeletePoint(context.Background(), "b"); err != nil {
		t.Fatal(err)
	}
	es, err := s.lookup(digestsOf(testBlocks(100, 101)))
	if err != nil {
		t.Fatal(err)
	}
	err = s.update(0, func(b *pebble.Batch, st *state) error {
		for i, d := range digestsOf(testBlocks(100, 101)) {
			st.blocks, st.stored, st.plain = st.blocks-1, st.stored-uint64(es[i].stored), st.plain-testBlock
			if err := b.Delete(digestKey(nil, d), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r := testReclaim(t, s, everything)
	if r.RemovedEntries != 49 || r.GarbageBlocks != 52 {
		t.Errorf("%+v", r)
	}
	checkClean(t, s)
	last := s.st.Load().next
	testClose(t, s)
	s = testOpen(t, "v", Options{FS: mem})
	if got := s.st.Load().next; got < last {
		t.Errorf("next id %d after the last blocks went, was %d", got, last)
	}
}

// TestReclaimDamage: garbage is never computed from maps that cannot be read.
func TestReclaimDamage(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	p := testBackup(t, s, "damaged", 0, 300)
	testBackup(t, s, "good", 400, 420)
	testBackup(t, s, "gone", 600, 620)
	if err := s.DeletePoint(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	page, err := s.ReadBlocks(ctx, []block.Digest{p.Disks[0].Map.Root})
	if err != nil {
		t.Fatal(err)
	}
	leaf := pageChildren(page[0])[1]
	err = s.update(0, func(b *pebble.Batch, _ *state) error { return b.Delete(digestKey(nil, leaf), nil) })
	if err != nil {
		t.Fatal(err)
	}
	before, _ := blockIDs(t, s)
	for _, dry := range []bool{true, false} {
		_, err = s.Reclaim(ctx, ReclaimOptions{DryRun: dry})
		wantErr(t, "reclaim", err, ErrCorrupt)
		c := new(CorruptError)
		if !errors.As(err, &c) || c.Point != "damaged" {
			t.Errorf("error %v does not name the point", err)
		}
	}
	if after, _ := blockIDs(t, s); len(after) != len(before) {
		t.Errorf("%d blocks are left of %d", len(after), len(before))
	}
	if s.barrier != nil {
		t.Error("the barrier is still up")
	}
	// Without the point all is well.
	if err := s.DeletePoint(ctx, "damaged"); err != nil {
		t.Fatal(err)
	}
	testReclaim(t, s, everything)
	if err := s.checkPoint("good", 400, 420); err != nil {
		t.Error(err)
	}
}

func TestReclaimOptions(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	testBackup(t, s, "a", 0, 10)
	for _, th := range []float64{-1, 1.1} {
		_, err := s.Reclaim(ctx, ReclaimOptions{Threshold: th})
		wantErr(t, "threshold", err, ErrInvalid)
	}
	s.reclaiming.Lock()
	_, err := s.Reclaim(ctx, ReclaimOptions{})
	wantErr(t, "a second one", err, ErrReclaiming)
	s.reclaiming.Unlock()
	stop, cancel := context.WithCancelCause(ctx)
	why := errors.New("enough")
	cancel(why)
	_, err = s.Reclaim(stop, ReclaimOptions{})
	wantErr(t, "cancelled", err, why)
	testClose(t, s)
	_, err = s.Reclaim(ctx, ReclaimOptions{})
	wantErr(t, "closed", err, ErrClosed)

	s = testOpen(t, "v", Options{FS: mem, ReadOnly: true})
	_, err = s.Reclaim(ctx, ReclaimOptions{})
	wantErr(t, "read-only", err, ErrReadOnly)
	if r := testReclaim(t, s, ReclaimOptions{DryRun: true}); r.Points != 1 || r.MarkedBlocks != 11 {
		t.Errorf("dry run of a read-only vault: %+v", r)
	}
}

// TestReclaimThreshold: tables with little garbage are left as they are.
func TestReclaimThreshold(t *testing.T) {
	ctx := context.Background()
	rng := newRand(t)
	s := testCreate(t, "v", Options{FS: vfs.NewMem(), TableSize: 20 * testBlock})
	for i := range 20 {
		testBackup(t, s, fmt.Sprint(i), 100*i, 100*i+1+rng.IntN(60))
	}
	for _, i := range rng.Perm(20)[:10] {
		if err := s.DeletePoint(ctx, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	r := testReclaim(t, s, ReclaimOptions{})
	st := s.st.Load()
	if _, named := blockIDs(t, s); len(named) != len(reachable(t, s)) {
		t.Errorf("%d entries, %d blocks needed", len(named), len(reachable(t, s)))
	}
	if r.BytesAfter > st.stored*5/4+1<<20 || float64(r.LeftBytes) > 0.25*float64(st.stored) {
		t.Errorf("%d bytes are needed, %+v", st.stored, r)
	}
	if again := testReclaim(t, s, ReclaimOptions{DryRun: true}); again.GarbageBlocks != 0 || again.LeftBytes != r.LeftBytes {
		t.Errorf("a second time: %+v, was %+v", again, r)
	}
	checkState(t, s)
	testReclaim(t, s, everything)
	checkClean(t, s)
}

// TestReadWhileReplacing: a block can be read at every moment while its table is
// replaced.
func TestReadWhileReplacing(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	testBackup(t, s, "a", 0, 20)
	ds := digestsOf(testBlocks(3, 17))
	done := make(chan error)
	stop := make(chan struct{})
	for range 2 {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if _, err := s.ReadStored(ctx, ds); err != nil {
					done <- err
					<-stop
					return
				}
			}
		}()
	}
	n := 200
	if raceEnabled {
		n = 20
	}
	for range n {
		if _, err := s.rewrite(ctx, "test-", 1, 30, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestReclaimStopped: wherever a Reclaim ends, no page is left without something
// that it names.
func TestReclaimStopped(t *testing.T) {
	defer func(n int) { sweepBatch = n }(sweepBatch)
	sweepBatch = 1
	mem := vfs.NewMem()
	var left atomic.Int64
	var stop atomic.Pointer[context.CancelFunc]
	disk := onWrite(mem, func(int) error {
		if left.Add(-1) == 0 {
			(*stop.Load())()
		}
		return nil
	})
	s := testCreate(t, "v", Options{FS: disk})
	testBackup(t, s, "a", 0, 600)
	testBackup(t, s, "b", 300, 310)
	if err := s.DeletePoint(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	stopped := 0
	for ended := false; !ended; {
		ctx, cancel := context.WithCancel(context.Background())
		stop.Store(&cancel)
		left.Store(4)
		_, err := s.Reclaim(ctx, everything)
		cancel()
		if ended = err == nil; !ended {
			wantErr(t, "stopped", err, context.Canceled)
			stopped++
		}
		err = s.scanEntries(context.Background(), ^uint64(0), func(v victim) error {
			if !v.entry.page {
				return nil
			}
			page, err := s.ReadBlocks(context.Background(), []block.Digest{v.digest})
			if err != nil {
				return err
			}
			es, err := s.lookup(pageChildren(page[0]))
			for _, e := range es {
				if e.id == 0 {
					return fmt.Errorf("page %d names a block that is not there", v.entry.id)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if stopped > 30 { // pages are gone; data takes too long this way
			sweepBatch, ended = 2048, true
			testReclaim(t, s, everything)
		}
	}
	if stopped < 4 {
		t.Errorf("it was stopped %d times", stopped)
	}
	checkClean(t, s)
}
