package upload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const blockSize = block.MinSize

// clock is a Clock that moves when it is told to.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers []*timer
}

type timer struct {
	c    *clock
	at   time.Time
	f    func()
	live bool
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 20, 22, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) AfterFunc(d time.Duration, f func()) Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{c: c, at: c.now.Add(d), f: f, live: true}
	c.timers = append(c.timers, t)
	return t
}

func (t *timer) Stop() bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	was := t.live
	t.live = false
	return was
}

func (t *timer) Reset(d time.Duration) bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	was := t.live
	t.at, t.live = t.c.now.Add(d), true
	return was
}

// advance moves the time on and returns when the timers that fire have run.
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []func()
	for _, t := range c.timers {
		if t.live && !t.at.After(c.now) {
			t.live = false
			due = append(due, t.f)
		}
	}
	c.mu.Unlock()
	for _, f := range due {
		f()
	}
}

type fixture struct {
	*Manager
	t     *testing.T
	clock *clock
	store *blockstore.Store
}

func setup(t *testing.T) *fixture {
	st, err := blockstore.Create("vault", blockstore.Options{FS: vfs.NewMem(), BlockSize: blockSize})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, clock: newClock(), store: st}
	f.Manager = NewManager(Options{Clock: f.clock})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.Drain(ctx)
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// create opens an upload of one disk; key "" makes one up.
func (f *fixture) create(key string, spec Spec) *Session {
	f.t.Helper()
	spec.Store = f.store
	if spec.Key = key; key == "" {
		spec.Key = fmt.Sprint(rand.Uint64())
	}
	if spec.Disks == nil {
		spec.Disks = []Disk{{Name: "vda", Size: 1000 * blockSize}}
	}
	s, err := f.Create(context.Background(), spec)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// data is block n of all that tests use: not zero, and not shrinking.
func data(n int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n)+1)
	p := make([]byte, blockSize)
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

func stored(n int) blockstore.Block {
	p := data(n)
	return blockstore.Block{Digest: block.Sum(p), Stored: block.Encode(nil, p, block.None)}
}

func many(ns ...int) (bs []blockstore.Block) {
	for _, n := range ns {
		bs = append(bs, stored(n))
	}
	return bs
}

func digests(ns ...int) (ds []block.Digest) {
	for _, n := range ns {
		if n == 0 {
			ds = append(ds, block.Zero)
			continue
		}
		ds = append(ds, block.Sum(data(n)))
	}
	return ds
}

func flat(ds []block.Digest) []byte {
	var b []byte
	for _, d := range ds {
		b = append(b, d[:]...)
	}
	return b
}

// send brings batches in and returns what the stream says last.
func send(t *testing.T, s *Session, batches ...[]blockstore.Block) (Received, error) {
	t.Helper()
	st, err := s.NewStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var sent error
	for _, b := range batches {
		if sent = st.Send(b); sent != nil {
			break
		}
	}
	st.CloseSend(sent)
	for {
		got, err := st.Next()
		if err != nil {
			return got, err
		}
	}
}

func mustSend(t *testing.T, s *Session, batches ...[]blockstore.Block) Received {
	t.Helper()
	got, err := send(t, s, batches...)
	if err != io.EOF {
		t.Fatalf("stream ended with %v, want EOF", err)
	}
	return got
}

// writeMap writes a whole map of the first disk.
func writeMap(t *testing.T, s *Session, ns ...int) Map {
	t.Helper()
	w, err := s.WriteMap(s.spec.Disks[0].Name, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Set(context.Background(), 0, flat(digests(ns...))); err != nil {
		t.Fatal(err)
	}
	m, err := w.Finish(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func commit(s *Session, id string) (any, error) {
	return s.Commit(context.Background(), func(maps []Map, _ Received, store StoreFunc) (any, error) {
		p := blockstore.Point{ID: id}
		for i, m := range maps {
			p.Disks = append(p.Disks, blockstore.Disk{Name: s.spec.Disks[i].Name, Map: m.Map})
		}
		return id, store(p)
	})
}

func TestUpload(t *testing.T) {
	f := setup(t)
	ended := make(chan error, 1)
	s := f.create("", Spec{Ended: func(err error) { ended <- err }})
	if _, err := s.FindMissing(context.Background(), digests(1, 0)); !errors.Is(err, blockstore.ErrZeroBlock) {
		t.Fatalf("zero digest: %v", err)
	}
	missing, err := s.FindMissing(context.Background(), digests(1, 2, 3))
	if err != nil || !slices.Equal(missing, []int{0, 1, 2}) {
		t.Fatalf("missing %v, %v", missing, err)
	}
	got := mustSend(t, s, many(1, 2), many(2), many(), many(3))
	if want := (Received{Batches: 4, NewBlocks: 3, NewBytes: 3 * blockSize, StoredBytes: 3 * (blockSize + 4)}); got != want || s.Received() != want {
		t.Fatalf("received %+v and %+v, want %+v", got, s.Received(), want)
	}
	if _, err := commit(s, "p1"); !errors.As(err, new(*MapError)) {
		t.Fatalf("commit without map: %v", err)
	}
	m := writeMap(t, s, 1, 0, 2, 3, 1)
	if m.Changed != 4 || m.Data != 4*blockSize {
		t.Fatalf("map %+v", m)
	}
	res, err := commit(s, "p1")
	if err != nil || res != "p1" {
		t.Fatalf("commit: %v, %v", res, err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("ended with %v", err)
	}
	if _, err := f.Get(s.Token()); !errors.Is(err, ErrNotFound) {
		t.Fatalf("after commit: %v", err)
	}
	if _, err := commit(s, "p1"); !errors.Is(err, ErrNotFound) || f.Result(s.Token()) != "p1" {
		t.Fatalf("second commit: %v, result %v", err, f.Result(s.Token()))
	}
	im := diskmap.NewImage(f.store, m.Map, diskmap.ImageOptions{})
	p := make([]byte, blockSize)
	if _, err := im.ReadAt(p, 3*blockSize); err != nil || !bytes.Equal(p, data(3)) {
		t.Fatalf("read back: %v", err)
	}
}

func TestLease(t *testing.T) {
	f := setup(t)
	ended := make(chan error, 1)
	s := f.create("", Spec{Lease: time.Minute, Ended: func(err error) { ended <- err }})
	for range 5 { // calls extend it
		f.clock.advance(59 * time.Second)
		if _, err := s.FindMissing(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
	}
	st, err := s.NewStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(many(1)); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Hour) // a batch that is not durable keeps it
	if _, err := f.Get(s.Token()); err != nil {
		t.Fatal(err)
	}
	st.CloseSend(nil)
	if got, err := st.Next(); err != nil && err != io.EOF || got.Batches != 1 {
		t.Fatal(got, err)
	}
	<-st.ctx.Done() // the stream lets go of the session before
	f.clock.advance(time.Minute)
	if err := <-ended; !errors.Is(err, ErrExpired) {
		t.Fatalf("ended with %v", err)
	}
	for what, err := range map[string]error{
		"get":    second(f.Get(s.Token())),
		"renew":  second(s.Renew()),
		"find":   second(s.FindMissing(context.Background(), nil)),
		"stream": second(s.NewStream(context.Background())),
		"map":    second(s.WriteMap("vda", false)),
		"commit": second(commit(s, "p")),
	} {
		if !errors.Is(err, ErrExpired) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.clock.advance(2 * rememberedFor)
	f.create("", Spec{}).Abort(ErrCancelled) // what ends makes room
	if _, err := f.Get(s.Token()); !errors.Is(err, ErrNotFound) {
		t.Errorf("long after: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestOneUploadPerKey(t *testing.T) {
	f := setup(t)
	a := f.create("job", Spec{})
	b := f.create("job", Spec{})
	if _, err := f.Get(a.Token()); !errors.Is(err, ErrNotFound) {
		t.Errorf("older upload: %v", err)
	}
	f.End("other", ErrCancelled)
	f.End("job", ErrCancelled)
	if _, err := b.Renew(); !errors.Is(err, ErrCancelled) {
		t.Errorf("ended upload: %v", err)
	}
	if f.Open() != 0 {
		t.Errorf("%d uploads are open", f.Open())
	}
}

// TestBadBlocks sends what must be refused, behind a batch that must not be.
func TestBadBlocks(t *testing.T) {
	f := setup(t)
	wrong := stored(7)
	wrong.Digest = stored(8).Digest
	zero := make([]byte, blockSize)
	flipped := stored(9)
	flipped.Stored = append([]byte{}, flipped.Stored...)
	flipped.Stored[100] ^= 1
	page := make([]byte, diskmap.PageSize)
	page[0] = 1
	big := make([]blockstore.Block, 0, 200)
	for i := range 200 {
		big = append(big, stored(i))
	}
	for name, c := range map[string]struct {
		batch []blockstore.Block
		index int
		want  error
	}{
		"claimed":     {append(many(1), wrong), 1, blockstore.ErrDigestMismatch},
		"flipped":     {[]blockstore.Block{flipped}, 0, blockstore.ErrDigestMismatch},
		"zero digest": {append(many(1), blockstore.Block{Stored: block.Encode(nil, zero, block.None)}), 1, blockstore.ErrZeroBlock},
		"zeros":       {[]blockstore.Block{{Digest: block.Sum(zero), Stored: block.Encode(nil, zero, block.Fastest)}}, 0, blockstore.ErrZeroBlock},
		"page":        {[]blockstore.Block{{Digest: block.Sum(page), Stored: block.Encode(nil, page, block.None)}}, 0, blockstore.ErrBlockSize},
		"empty":       {append(many(1, 2), blockstore.Block{Digest: stored(3).Digest}), 2, block.ErrFormat},
		"codec":       {[]blockstore.Block{{Digest: stored(3).Digest, Stored: []byte{9, 0, blockSize >> 8, 0, 1}}}, 0, block.ErrUnknownCodec},
		"short":       {[]blockstore.Block{{Digest: stored(3).Digest, Stored: stored(3).Stored[:500]}}, 0, block.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			s := f.create("", Spec{})
			got, err := send(t, s, many(1), c.batch, many(2))
			var bad *BlockError
			if !errors.As(err, &bad) || bad.Batch != 1 || bad.Index != c.index || !errors.Is(err, c.want) {
				t.Fatalf("error %v, want batch 1, index %d, %v", err, c.index, c.want)
			}
			if bad.Claimed != c.batch[c.index].Digest || (bad.Actual != block.Zero) != errors.Is(c.want, blockstore.ErrDigestMismatch) {
				t.Errorf("digests %v", bad)
			}
			if got.Batches != 1 {
				t.Errorf("%d batches acknowledged, want 1", got.Batches)
			}
			s.Abort(ErrCancelled)
		})
	}
	var large *TooLargeError
	if _, err := send(t, f.create("", Spec{}), big); !errors.As(err, &large) || large.What != "stored bytes" {
		t.Errorf("batch of many bytes: %v", err)
	}
	if _, err := send(t, f.create("", Spec{}), make([]blockstore.Block, MaxBatchBlocks+1)); !errors.As(err, &large) || large.What != "blocks" {
		t.Errorf("batch of many blocks: %v", err)
	}
	if _, err := f.create("", Spec{}).FindMissing(context.Background(), make([]block.Digest, MaxDigests+1)); !errors.As(err, &large) {
		t.Errorf("many digests: %v", err)
	}
}

// TestBrokenStream: what was handed over becomes durable, though nobody waits.
func TestBrokenStream(t *testing.T) {
	f := setup(t)
	s := f.create("", Spec{})
	ctx, cancel := context.WithCancel(context.Background())
	st, err := s.NewStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(many(1, 2)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := st.Next(); !errors.Is(err, context.Canceled) {
		t.Fatalf("Next: %v", err)
	}
	if err := st.Send(many(3)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Send: %v", err)
	}
	st.CloseSend(ctx.Err())
	for settled := false; !settled; {
		<-st.news
		st.mu.Lock()
		settled = st.err != nil
		st.mu.Unlock()
	}
	missing, err := s.FindMissing(context.Background(), digests(1, 2, 3))
	if err != nil || !slices.Equal(missing, []int{2}) {
		t.Fatalf("missing %v, %v", missing, err)
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.ReadBlocks(context.Background(), digests(1, 2)); err != nil {
		t.Fatal(err)
	}
}

func TestDrain(t *testing.T) {
	f := setup(t)
	a, b := f.create("", Spec{}), f.create("", Spec{})
	writeMap(t, a)
	st, err := b.NewStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(many(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f.Drain(ctx); close(done) }()
	for { // until Drain has begun
		s, err := f.Create(context.Background(), Spec{Store: f.store, Key: "late"})
		if errors.Is(err, ErrStopping) {
			break
		}
		s.Abort(ErrCancelled)
	}
	if _, err := commit(a, "p"); err != nil {
		t.Fatalf("commit while draining: %v", err)
	}
	cancel()
	<-done
	st.CloseSend(nil)
	if _, err := b.Renew(); !errors.Is(err, ErrStopping) {
		t.Errorf("abandoned upload: %v", err)
	}
	if f.Open() != 0 {
		t.Errorf("%d uploads are open", f.Open())
	}
}

func TestCommitTwiceAtOnce(t *testing.T) {
	f := setup(t)
	s := f.create("", Spec{})
	writeMap(t, s)
	var wg sync.WaitGroup
	var mu sync.Mutex
	committed := 0
	for range 8 {
		wg.Go(func() {
			res, err := commit(s, "p")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				committed++
			} else if res = f.Result(s.Token()); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			if res != "p" {
				t.Errorf("result %v", res)
			}
		})
	}
	wg.Wait()
	if committed != 1 {
		t.Errorf("%d commits went through", committed)
	}
}

// TestManyStreams: uploads of the same blocks at the same time, in memory that
// holds two batches.
func TestManyStreams(t *testing.T) {
	f := setup(t)
	f.Manager = NewManager(Options{Clock: f.clock, Memory: 64 << 10})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var sum Received
	for range 4 {
		s := f.create("", Spec{})
		wg.Go(func() {
			var bs [][]blockstore.Block
			for i := 1; i <= 60; i += 2 {
				bs = append(bs, many(i, i+1))
			}
			got, err := send(t, s, bs...)
			if err != io.EOF || got.Batches != 30 {
				t.Errorf("%+v, %v", got, err)
			}
			mu.Lock()
			sum.add(got)
			mu.Unlock()
		})
	}
	wg.Wait()
	if sum.NewBlocks != 60 {
		t.Errorf("%d blocks were new, want 60", sum.NewBlocks)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Drain(ctx)
}
