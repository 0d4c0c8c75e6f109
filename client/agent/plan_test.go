package agent

import (
	"context"
	"testing"

	"pgregory.net/rapid"

	"cairn/client/source"
)

// extents is a source.SnapshotDisk that only has extents.
type extents struct {
	source.SnapshotDisk
	list []source.Extent
}

func (d extents) Extents(_ context.Context, fn func(source.Extent) error) error {
	for _, e := range d.list {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Whatever the extents: every byte that one mentions is in a piece that is
// read, unless the whole block is known to be zeros; no block is in two pieces;
// pieces ascend and respect their limit; with gapsAreZero they cover the disk.
func TestPlanCoversEveryExtent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const bs = 16
		size := rapid.Int64Range(0, 40*bs).Draw(t, "size")
		gaps := rapid.Bool().Draw(t, "gapsAreZero")
		limit := rapid.Uint64Range(1, 8).Draw(t, "max")
		// What each byte of the disk is: 0 not mentioned, 1 data, 2 zeros.
		kind := make([]byte, size)
		var list []source.Extent
		for off := int64(0); off < size; {
			n := rapid.Int64Range(1, 5*bs).Draw(t, "length")
			n = min(n, size-off)
			k := rapid.IntRange(0, 2).Draw(t, "kind")
			for i := range n {
				kind[off+i] = byte(k)
			}
			if k != 0 {
				list = append(list, source.Extent{Offset: off, Length: n, Zero: k == 2})
			}
			off += n
		}
		blocks := uint64((size + bs - 1) / bs)
		const untouched, read, zero = 0, 1, 2
		got := make([]byte, blocks)
		next := uint64(0)
		p := planner{blockSize: bs, size: size, max: limit, gapsAreZero: gaps, emit: func(p piece) error {
			if p.count == 0 || p.first < next {
				t.Fatalf("piece %+v after block %d", p, next)
			}
			next = p.first + p.count
			if !p.zero && (p.count > limit || p.first/limit != (next-1)/limit) {
				t.Fatalf("piece %+v crosses a multiple of %d", p, limit)
			}
			if next > blocks {
				t.Fatalf("piece %+v on a disk of %d blocks", p, blocks)
			}
			for b := p.first; b < next; b++ {
				got[b] = read
				if p.zero {
					got[b] = zero
				}
			}
			return nil
		}}
		if err := p.plan(context.Background(), extents{list: list}); err != nil {
			t.Fatal(err)
		}
		for b := range blocks {
			var data, mentioned, all bool
			all = true
			for off := int64(b) * bs; off < min(size, int64(b+1)*bs); off++ {
				data = data || kind[off] == 1
				mentioned = mentioned || kind[off] != 0
				all = all && kind[off] != 1
			}
			switch {
			case data && got[b] != read:
				t.Fatalf("block %d holds data and was not read: %d", b, got[b])
			case mentioned && got[b] == untouched:
				t.Fatalf("block %d is in an extent and was left out", b)
			case gaps && got[b] == untouched:
				t.Fatalf("block %d was left out although gaps are zeros", b)
			case got[b] == zero && !all:
				t.Fatalf("block %d was taken for zeros", b)
			case !mentioned && !gaps && got[b] != untouched:
				t.Fatalf("block %d, which no extent mentions, became %d", b, got[b])
			}
		}
	})
}
