package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// TestCrash cuts the power under a store, again and again, in the middle of
// whatever Pebble, the pipeline and three clients are doing, keeps a random
// part of what was not synced, and compares what opens again with a model:
//
//   - what was acknowledged is there,
//   - what was under way is there, or is not, but nothing in between,
//   - all else is not there,
//   - every visible point verifies, and nothing in the vault is damaged.
//
// CAIRN_TEST_CRASHES sets the number of power cuts.
func TestCrash(t *testing.T) {
	cutPower(t, 1200, false)
}

// cutPower runs worlds, a tenth of the cycles with the race detector: races show
// early, and the rest takes ten times as long.
func cutPower(t *testing.T, cycles int, reclaims bool) {
	rng := Rand(t)
	if raceEnabled {
		cycles /= 10
	}
	if v := os.Getenv("CAIRN_TEST_CRASHES"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("CAIRN_TEST_CRASHES: %v", err)
		}
		cycles = n
	}
	const worlds = 8
	var total crashCount
	t.Run("worlds", func(t *testing.T) {
		for w := range worlds {
			seed := rng.Uint64()
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				t.Parallel()
				crashWorld(t, rand.New(rand.NewPCG(seed, uint64(w))), cycles/worlds, reclaims, &total)
			})
		}
	})
	t.Logf("%d power cuts, %d of them in the middle of work; %d points and %d blocks survived to be compared, %d operations were under way",
		total.cuts.Load(), total.midway.Load(), total.points.Load(), total.blocks.Load(), total.maybe.Load())
	if reclaims {
		t.Logf("%d reclaims came to their end and removed %d blocks, %d did not; %d quiet ones were followed by a count, %d points were read while they could go",
			total.reclaims.Load(), total.removed.Load(), total.broken.Load(), total.quiet.Load(), total.read.Load())
		if total.removed.Load() == 0 || total.broken.Load() == 0 || total.quiet.Load() == 0 || total.read.Load() == 0 {
			t.Error("the test does not do what it is for")
		}
	}
	if total.midway.Load() < int64(cycles)/2 || total.maybe.Load() == 0 || total.points.Load() == 0 {
		t.Error("the test does not do what it is for")
	}
}

type crashCount struct {
	cuts, midway, points, blocks, maybe    atomic.Int64
	reclaims, broken, removed, quiet, read atomic.Int64
}

// crashWorld is a chain of crashes; now and then it begins with a new disk.
func crashWorld(t *testing.T, rng *rand.Rand, cycles int, reclaims bool, total *crashCount) {
	res := blockstore.NewResources(blockstore.ResourceOptions{IndexCache: 1 << 20, TableCache: 1 << 20, VerifiedCache: 1 << 20, OpenFiles: 100})
	defer res.Close()
	var w *world
	ops := 200 // file operations of a cycle, by the last one
	for c := range cycles {
		if c%15 == 0 {
			w = &world{disk: vfs.NewCrashableMem(), reclaims: reclaims, points: map[string]*crashPoint{}, blocks: map[block.Digest]bool{}}
			w.pool = make([][]byte, 40)
			for i := range w.pool {
				w.pool[i] = Block(rng, crashBlock)[:crashBlock:crashBlock]
				clear(w.pool[i][200:]) // small, so that the disk stays small
			}
		}
		ops = w.cycle(t, rng, res, total, rng.IntN(ops*5/4+1))
		if t.Failed() {
			t.Fatalf("in power cut %d of this world", c)
		}
	}
}

const crashBlock = block.MinSize

// world is a disk, and what is known about the vault on it.
type world struct {
	disk *vfs.MemFS
	pool [][]byte // blocks from which contents are made
	// reclaims says that space is reclaimed all the time: blocks that were
	// acknowledged stay only if a point needs them.
	reclaims bool

	mu     sync.Mutex
	after  *vfs.MemFS // the disk after the power cut, once there was one
	points map[string]*crashPoint
	blocks map[block.Digest]bool // durable for sure
	born   bool                  // Create returned
}

// crashPoint is what a point may be: as acknowledged, or as the operation under
// way makes it. Nil stands for no such point.
type crashPoint struct {
	now, next *blockstore.Point
	underway  bool
}

// record changes the model unless the power is gone already.
func (w *world) record(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.after == nil {
		change()
	}
}

func (w *world) begin(id string, next *blockstore.Point) {
	w.record(func() {
		p := w.points[id]
		if p == nil {
			p = &crashPoint{}
			w.points[id] = p
		}
		p.next, p.underway = next, true
	})
}

func (w *world) ack(id string) {
	w.record(func() {
		p := w.points[id]
		p.now, p.next, p.underway = p.next, nil, false
	})
}

func (w *world) durable(d block.Digest) {
	if !w.reclaims {
		w.record(func() { w.blocks[d] = true })
	}
}

// plain is a block of some disk: one that others have, too, or, where garbage is
// wanted, one of its own.
func (w *world) plain(rng *rand.Rand) []byte {
	if !w.reclaims || rng.IntN(3) > 0 {
		return w.pool[rng.IntN(len(w.pool))]
	}
	p := make([]byte, crashBlock)
	binary.LittleEndian.PutUint64(p, rng.Uint64()|1)
	return p
}

// cut takes the power away.
func (w *world) cut(rng *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.after == nil {
		w.after = w.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 10, 50, 90, 100}[rng.IntN(5)], RNG: rng})
	}
}

// cycle works on the vault until the power is cut at the given file operation,
// or at the end, and compares. It returns the number of file operations.
func (w *world) cycle(t *testing.T, rng *rand.Rand, res *blockstore.Resources, total *crashCount, at int) int {
	w.after = nil
	cutRng := rand.New(rand.NewPCG(rng.Uint64(), 0))
	var ops atomic.Int64
	fs := errorfs.Wrap(w.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && int(ops.Add(1)) == at {
			w.cut(cutRng)
			total.midway.Add(1)
		}
		return nil
	}))
	o := blockstore.Options{FS: fs, Resources: res, BlockSize: crashBlock, TableSize: []int64{200 + rng.Int64N(4000), 32 << 10}[rng.IntN(2)]}
	s, err := blockstore.Open("/vault", o)
	if errors.Is(err, blockstore.ErrNotVault) && !w.born {
		s, err = blockstore.Create("/vault", o)
	}
	if err != nil {
		t.Errorf("open: %v", err)
		return 0
	}
	w.record(func() { w.born = true })
	w.compare(t, s, total)
	if w.reclaims && rng.IntN(3) == 0 {
		w.quiet(t, s, total)
	}

	var wg sync.WaitGroup
	for c := range 3 {
		client := crashClient{w: w, s: s, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), name: fmt.Sprintf("client%d", c)}
		wg.Go(func() {
			if err := client.work(1 + client.rng.IntN(3)); err != nil {
				t.Error(err)
			}
		})
	}
	if rng.IntN(4) == 0 {
		crumbs := crashClient{w: w, s: s, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), name: "crumbs"}
		wg.Go(func() {
			if err := crumbs.crumbs(); err != nil {
				t.Error(err)
			}
		})
	}
	if w.reclaims {
		r := reclaimer{s: s, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), total: total}
		wg.Go(func() {
			if err := r.work(); err != nil {
				t.Error(err)
			}
		})
		reader := crashClient{w: w, s: s, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), name: "reader"}
		wg.Go(func() {
			if err := reader.read(total); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if w.reclaims && rng.IntN(3) == 0 {
		w.quiet(t, s, total)
	}
	if rng.IntN(2) == 0 {
		w.cut(cutRng)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	w.cut(cutRng)
	total.cuts.Add(1)
	w.disk = w.after
	return int(ops.Load())
}

// compare looks at all that the vault holds, and takes it as the truth for the
// next cycle.
func (w *world) compare(t *testing.T, s *blockstore.Store, total *crashCount) {
	ctx := context.Background()
	seen := map[string]blockstore.Point{}
	if err := s.Points("", "", func(p blockstore.Point) bool { seen[p.ID] = p; return true }); err != nil {
		t.Error(err)
	}
	r, err := s.Verify(ctx, nil)
	if err != nil || r.BadCount > 0 || len(r.Damaged) > 0 {
		t.Errorf("verify: %v, %+v", err, r)
	}
	u, err := s.StartUpload("compare")
	if err != nil {
		t.Error(err)
		return
	}
	defer u.Abort()

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.after != nil {
		return // the model stands for a later moment already
	}
	for id, p := range seen {
		c := w.points[id]
		if c == nil || !(samePoint(c.now, &p) || c.underway && samePoint(c.next, &p)) {
			t.Errorf("point %s is there, with %v; the model says %+v", id, p, c)
		}
		rec, err := s.Record("of/" + id)
		if err != nil || string(rec) != string(p.Meta) {
			t.Errorf("point %s has %q, its record %q, %v", id, p.Meta, rec, err)
		}
		total.points.Add(1)
	}
	err = s.Records("", "", func(key string, _ []byte) bool {
		if _, ok := seen[key[len("of/"):]]; !ok {
			t.Errorf("record %s is there, its point is not", key)
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
	for id, c := range w.points {
		if c.underway {
			total.maybe.Add(1)
		}
		if p, ok := seen[id]; ok {
			w.points[id] = &crashPoint{now: &p}
		} else if c.now == nil || c.underway && c.next == nil {
			delete(w.points, id)
		} else {
			t.Errorf("point %s is gone; the model says %+v", id, c)
		}
	}
	var ds []block.Digest
	for d := range w.blocks {
		ds = append(ds, d)
	}
	total.blocks.Add(int64(len(ds)))
	if missing, err := u.FindMissing(ctx, ds); err != nil || len(missing) > 0 {
		t.Errorf("%d of %d acknowledged blocks are gone, %v", len(missing), len(ds), err)
	}
}

func samePoint(a, b *blockstore.Point) bool {
	return a != nil && b != nil && slices.Equal(a.Disks, b.Disks) && string(a.Meta) == string(b.Meta)
}

// crashClient makes, changes and deletes points of its own.
type crashClient struct {
	w    *world
	s    *blockstore.Store
	rng  *rand.Rand
	name string
}

func (c *crashClient) work(n int) error {
	for range n {
		own := c.own()
		var err error
		switch k := c.rng.IntN(8); {
		case k < 3 && len(own) > 0:
			id := own[c.rng.IntN(len(own))].ID
			c.w.begin(id, nil)
			if err = c.s.DeletePoint(context.Background(), id, blockstore.Mutation{Key: "of/" + id, Delete: true}); err == nil {
				c.w.ack(id)
			}
		case k == 3 && len(own) > 0:
			p := own[c.rng.IntN(len(own))]
			p.Meta = []byte(strconv.Itoa(c.rng.Int()))
			c.w.begin(p.ID, &p)
			if err = c.s.UpdatePoint(context.Background(), p.ID, p.Meta, blockstore.Mutation{Key: "of/" + p.ID, Value: p.Meta}); err == nil {
				c.w.ack(p.ID)
			}
		default:
			err = c.backup(own)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// crumbs makes many tables of one block, which the store writes together.
func (c *crashClient) crumbs() error {
	ctx := context.Background()
	u, err := c.s.StartUpload(c.name)
	if err != nil {
		return err
	}
	defer u.Abort()
	for range 10 {
		plain := make([]byte, crashBlock)
		binary.LittleEndian.PutUint64(plain, c.rng.Uint64()|1)
		b := blockstore.Block{Digest: block.Sum(plain), Stored: block.Encode(nil, plain, block.Fastest)}
		if _, err := u.Put(ctx, []blockstore.Block{b}); err != nil {
			return err
		}
		if err := u.Flush(ctx); err != nil {
			return err
		}
		c.w.durable(b.Digest)
	}
	return nil
}

// own are the client's points, as the store has them now.
func (c *crashClient) own() (ps []blockstore.Point) {
	_ = c.s.Points(c.name+"/", "", func(p blockstore.Point) bool { ps = append(ps, p); return true })
	return ps
}

func (c *crashClient) backup(own []blockstore.Point) error {
	ctx := context.Background()
	u, err := c.s.StartUpload(c.name)
	if err != nil {
		return err
	}
	defer u.Abort()
	var base *diskmap.Map
	if len(own) > 0 && c.rng.IntN(3) > 0 {
		p := own[c.rng.IntN(len(own))]
		if err := u.PinPoint(ctx, p.ID); err != nil {
			return err
		}
		base = &p.Disks[0].Map
	}
	acks := map[block.Digest]*blockstore.Ack{}
	blocks := 1 + c.rng.Int64N(600) // one or two levels of pages
	b, err := diskmap.NewBuilder(blocks*crashBlock, crashBlock, base, u, u)
	if err != nil {
		return err
	}
	for index := c.rng.Int64N(40); index < blocks; index += 1 + c.rng.Int64N(300) {
		plain := c.w.plain(c.rng)
		d := block.Sum(plain)
		missing, err := u.FindMissing(ctx, []block.Digest{d})
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			ack, err := u.Put(ctx, Encode(c.rng, plain))
			if err != nil {
				return err
			}
			acks[d] = ack
			if c.rng.IntN(8) == 0 {
				if err := u.Flush(ctx); err != nil {
					return err
				}
			}
		}
		for d, ack := range acks {
			select {
			case <-ack.Done():
				if ack.Err() != nil {
					return ack.Err()
				}
				c.w.durable(d)
				delete(acks, d)
			default:
			}
		}
		if err := b.Set(ctx, uint64(index), d); err != nil {
			return err
		}
	}
	if c.rng.IntN(6) == 0 {
		return nil // gives up
	}
	m, err := b.Finish(ctx)
	if err != nil {
		return err
	}
	p := blockstore.Point{
		ID:    fmt.Sprintf("%s/%d", c.name, c.rng.Uint64()),
		Disks: []blockstore.Disk{{Name: "vda", Map: m}},
		Meta:  []byte("new"),
	}
	c.w.begin(p.ID, &p)
	if err := u.Commit(ctx, p, blockstore.Mutation{Key: "of/" + p.ID, Value: p.Meta}); err != nil {
		return err
	}
	c.w.ack(p.ID)
	return nil
}
