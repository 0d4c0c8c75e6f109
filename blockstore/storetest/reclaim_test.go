package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// TestReclaimCrash is TestCrash with space being reclaimed all the time, while
// three clients back up, give up and delete, and another reads points that may go
// under its hands; by reclaims that come to their end, that are stopped, and that
// only count. After a quiet one exactly what points need is left.
func TestReclaimCrash(t *testing.T) { cutPower(t, 320, true) }

// everything makes a reclaim leave nothing behind.
const everything = 1e-9

// reclaimer reclaims space beside the clients.
type reclaimer struct {
	s     *blockstore.Store
	rng   *rand.Rand
	total *crashCount
}

var errEnough = errors.New("enough")

func (r *reclaimer) work() error {
	for range 1 + r.rng.IntN(4) {
		ctx, cancel := context.WithCancelCause(context.Background())
		o := blockstore.ReclaimOptions{DryRun: r.rng.IntN(6) == 0, Threshold: []float64{0, everything, 0.5}[r.rng.IntN(3)]}
		switch r.rng.IntN(4) {
		case 0: // at the beginning or the end of a phase
			left := r.rng.IntN(8)
			o.Progress = func(blockstore.ReclaimProgress) {
				if left--; left < 0 {
					cancel(errEnough)
				}
			}
		case 1:
			stop := time.AfterFunc(time.Duration(r.rng.IntN(3000))*time.Microsecond, func() { cancel(errEnough) })
			defer stop.Stop()
		}
		rep, err := r.s.Reclaim(ctx, o)
		cancel(nil)
		switch {
		case err == nil:
			r.total.reclaims.Add(1)
		case errors.Is(err, errEnough):
			r.total.broken.Add(1)
		default:
			return fmt.Errorf("reclaim: %w", err)
		}
		r.total.removed.Add(int64(rep.RemovedEntries))
	}
	return nil
}

// read holds points and reads all of their blocks, whether or not somebody deletes
// them meanwhile.
func (c *crashClient) read(total *crashCount) error {
	ctx := context.Background()
	for range 3 {
		var ps []blockstore.Point
		if err := c.s.Points("", "", func(p blockstore.Point) bool { ps = append(ps, p); return true }); err != nil {
			return err
		}
		if len(ps) == 0 {
			return nil
		}
		p := ps[c.rng.IntN(len(ps))]
		release, err := c.s.HoldPoint(p.ID)
		if errors.Is(err, blockstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for range 2 {
			err = diskmap.Walk(ctx, c.s.Reader(p.ID), p.Disks[0].Map, 0, 1<<62, func(_ uint64, d block.Digest) error {
				_, err := c.s.ReadStored(ctx, []block.Digest{d}) // past the cache
				return err
			})
			if err != nil {
				return fmt.Errorf("read held point %s: %w", p.ID, err)
			}
		}
		release()
		total.read.Add(1)
	}
	return nil
}

// quiet reclaims while nothing else happens, and compares what is left with what
// the points need.
func (w *world) quiet(t *testing.T, s *blockstore.Store, total *crashCount) {
	t.Helper()
	ctx := context.Background()
	r, err := s.Reclaim(ctx, blockstore.ReclaimOptions{Threshold: everything})
	if err != nil {
		t.Errorf("quiet reclaim: %v", err)
		return
	}
	need := map[block.Digest]bool{}
	err = s.Points("", "", func(p blockstore.Point) bool {
		for _, d := range p.Disks {
			err := diskmap.WalkPages(ctx, s.Reader(p.ID), d.Map, diskmap.Visitor{
				Enter: func(p diskmap.Page) (bool, error) {
					again := need[p.Digest]
					need[p.Digest] = true
					return !again, nil
				},
				Leaf: func(_ diskmap.Page, ds []block.Digest) error {
					for _, d := range ds {
						if d != block.Zero {
							need[d] = true
						}
					}
					return nil
				},
			})
			if err != nil {
				t.Errorf("point %s: %v", p.ID, err)
			}
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
	v, err := s.Verify(ctx, nil)
	if err != nil || v.BadCount > 0 || v.Orphans > 0 || v.Blocks != uint64(len(need)) {
		t.Errorf("%d blocks are needed; verify: %v, %+v; reclaim %+v", len(need), err, v, r)
	}
	st, err := s.Stats()
	if err != nil || st.Blocks != uint64(len(need)) {
		t.Errorf("%d blocks are needed, the index has %d, %v", len(need), st.Blocks, err)
	}
	// A table costs half a KiB, a block some tens of bytes.
	if most := st.StoredBytes*5/4 + 64*st.Blocks + 1024*uint64(r.TablesWritten+8) + 1024*st.Blocks/4; r.BytesAfter > most {
		t.Errorf("%d blocks of %d bytes take %d, at most %d expected: %+v", st.Blocks, st.StoredBytes, r.BytesAfter, most, r)
	}
	if dry, err := s.Reclaim(ctx, blockstore.ReclaimOptions{DryRun: true}); err != nil || dry.GarbageBlocks != 0 || dry.LeftBytes != 0 {
		t.Errorf("after a quiet reclaim: %+v, %v", dry, err)
	}
	total.quiet.Add(1)
}
