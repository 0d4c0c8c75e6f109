package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// Changed-block tracking is believed only as far as it can be proven: of every
// incremental disk a random sample of the blocks that allegedly have not changed
// is read again and compared with the point that the backup builds on. It is 1
// in sampleShare of the disk's blocks, within these bounds; but all samples of a
// backup together are not more than the blocks that have changed, so that little
// change is read with little more, and at least one for every disk.
//
// When a share of the blocks said to be unchanged has changed after all, this is
// how likely a backup with n samples is to notice: 1 − (1 − share)^n.
//
//	share lost    n = 4    n = 64   n = 1,024
//	   50 %       94 %    > 99.9 %  > 99.9 %
//	   10 %       34 %    > 99.8 %  > 99.9 %
//	    1 %        4 %      47 %    > 99.9 %
//	  0.1 %      0.4 %       6 %      64 %
//	 0.01 %     0.04 %     0.6 %      10 %
//
// (64 KiB blocks: n is 4 up to 256 MiB, 64 for a disk of 4 GiB, 1,024 from
// 64 GiB on, if that much has changed.) So tracking that is broken as a whole, a bitmap of another lineage
// or one that missed a restart, is noticed at once; one that loses single blocks
// within some backups, for every backup draws another sample.
const (
	sampleShare = 1024
	sampleLeast = 4
	sampleMost  = 1024
)

// sampleCount is how many blocks of a disk with that many are read again.
func sampleCount(blocks uint64) int {
	return int(min(max(blocks/sampleShare, sampleLeast), sampleMost))
}

// sampleSeed makes the sample another for every job and disk, and the same for
// whoever wants to see it again.
func sampleSeed(job, target string) [32]byte { return block.Sum([]byte(job + "\x00" + target)) }

// unchanged calls fn with runs of the blocks that no extent of an incremental
// disk touches.
func unchanged(ctx context.Context, d source.SnapshotDisk, m diskmap.Map, fn func(first, count uint64)) error {
	bs := int64(m.BlockSize)
	next := uint64(0)
	err := d.Extents(ctx, func(e source.Extent) error {
		if first := uint64(e.Offset / bs); first > next {
			fn(next, first-next)
		}
		next = max(next, uint64((e.Offset+e.Length+bs-1)/bs))
		return nil
	})
	if err == nil && next < m.Blocks() {
		fn(next, m.Blocks()-next)
	}
	return err
}

// cleanBlocks is how many blocks of an incremental disk allegedly have not
// changed.
func cleanBlocks(ctx context.Context, d source.SnapshotDisk, m diskmap.Map) (clean uint64, err error) {
	err = unchanged(ctx, d, m, func(_, count uint64) { clean += count })
	return clean, err
}

// allot cuts what the disks want down to budget in all, but to no less than one
// for each. Those that want most lose first.
func allot(want []int, budget int) []int {
	got := make([]int, len(want))
	for more := true; more; {
		more = false
		for i := range want {
			if got[i] < want[i] && (got[i] == 0 || budget > 0) {
				got[i]++
				budget--
				more = true
			}
		}
	}
	return got
}

// sample draws n blocks, each as likely as any other, from the clean ones of an
// incremental disk. They ascend.
func sample(ctx context.Context, d source.SnapshotDisk, m diskmap.Map, clean uint64, count int, seed [32]byte) ([]uint64, error) {
	n := uint64(count)
	rnd := rand.New(rand.NewChaCha8(seed))
	var ranks []uint64 // among the unchanged blocks
	for drawn := map[uint64]bool{}; uint64(len(ranks)) < n; {
		if k := rnd.Uint64N(clean); !drawn[k] {
			drawn[k] = true
			ranks = append(ranks, k)
		}
	}
	slices.Sort(ranks)
	var out []uint64
	before := uint64(0) // unchanged blocks before the run
	err := unchanged(ctx, d, m, func(first, count uint64) {
		for len(ranks) > 0 && ranks[0] < before+count {
			out = append(out, first+ranks[0]-before)
			ranks = ranks[1:]
		}
		before += count
	})
	return out, err
}

// verdict is what re-reading a sample of one disk has shown.
type verdict struct {
	blocks, wrong int
	offset        int64 // of the first wrong block
	bytes         int64 // that were read
}

// prove reads the given blocks of an incremental disk again.
func (t *transfer) prove(ctx context.Context, d source.SnapshotDisk, m diskmap.Map, at []uint64) (v verdict, err error) {
	v.blocks, v.offset = len(at), -1
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8) // most of it is waiting
	for _, i := range at {
		g.Go(func() error {
			w := worker{t: t, disk: d, size: d.Info().Size, pr: &progress{}}
			off := int64(i) * int64(m.BlockSize)
			if err := w.read(off, m.BlockSize); err != nil {
				return err
			}
			was, is := block.Zero, block.Zero
			if !block.IsZero(w.plain) {
				is = block.Sum(w.plain)
			}
			err := diskmap.Walk(ctx, t.reader, m, i, i+1, func(_ uint64, d block.Digest) error {
				was = d
				return nil
			})
			if err != nil {
				return fmt.Errorf("read map of the base: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			v.bytes += w.pr.read.Load()
			if was != is {
				v.wrong++
				if v.offset < 0 || off < v.offset {
					v.offset = off
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return v, fmt.Errorf("disk %s: read a sample: %w", d.Info().Target, err)
	}
	return v, nil
}

// prove proves the tracking of every incremental disk, once for a snapshot. A
// disk whose tracking was caught with a mistake is read in full.
func (b *backup) prove(ctx context.Context, t *transfer) error {
	if b.proven {
		return nil
	}
	var disks []source.SnapshotDisk
	var clean []uint64
	var want []int
	budget := 0 // blocks that have changed
	for _, d := range b.snap.Disks() {
		if !d.Incremental() {
			continue
		}
		m := t.base[d.Info().Target]
		n, err := cleanBlocks(ctx, d, m)
		if err != nil {
			return fmt.Errorf("draw a sample: %w", err)
		}
		disks, clean = append(disks, d), append(clean, n)
		want = append(want, int(min(uint64(sampleCount(m.Blocks())), n)))
		budget += int(m.Blocks() - n)
	}
	var sampled int64
	for i, n := range allot(want, budget) {
		d := disks[i]
		target := d.Info().Target
		at, err := sample(ctx, d, t.base[target], clean[i], n, sampleSeed(b.j.name, target))
		if err != nil {
			return fmt.Errorf("draw a sample: %w", err)
		}
		v, err := t.prove(ctx, d, t.base[target], at)
		if err != nil {
			return err
		}
		sampled += v.bytes
		if v.wrong == 0 {
			continue
		}
		b.j.warn(cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, fmt.Errorf(
			"disk %s: %d of %d blocks that allegedly had not changed since the last point have, the first at offset %d: change tracking is wrong, so the disk is read in full",
			target, v.wrong, v.blocks, v.offset), "disk", target, "offset", strconv.FormatInt(v.offset, 10))
		d.Distrust()
		b.measured = false
	}
	b.proven = true
	b.pr.read.Add(sampled)
	b.stats(func(s *cairnv1.JobStats) { s.SampledBytes = sampled })
	return nil
}
