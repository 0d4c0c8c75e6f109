package agent

import (
	"context"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cairn/blockstore/diskmap"
	"cairn/client/source"
)

// A sample has the size it must have, ascends, and holds no block that an extent
// touches; the same job draws the same, another one another.
func TestSample(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const bs = 16
		size := rapid.Int64Range(0, 300*bs).Draw(t, "size")
		dirty := map[uint64]bool{}
		var list []source.Extent
		for off := int64(0); off < size; {
			n := min(rapid.Int64Range(1, 20*bs).Draw(t, "length"), size-off)
			if rapid.Bool().Draw(t, "changed") {
				list = append(list, source.Extent{Offset: off, Length: n})
				for b := off / bs; b*bs < off+n; b++ {
					dirty[uint64(b)] = true
				}
			}
			off += n
		}
		m := diskmap.Map{Size: size, BlockSize: bs}
		clean, err := cleanBlocks(context.Background(), extents{list: list}, m)
		if err != nil || int(clean) != int(m.Blocks())-len(dirty) {
			t.Fatalf("%d of %d blocks clean with %d dirty, %v", clean, m.Blocks(), len(dirty), err)
		}
		want := rapid.IntRange(0, int(clean)).Draw(t, "count")
		got, err := sample(context.Background(), extents{list: list}, m, clean, want, sampleSeed("job", "vda"))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != want {
			t.Fatalf("%d blocks, want %d", len(got), want)
		}
		for i, b := range got {
			if dirty[b] || b >= m.Blocks() || i > 0 && got[i-1] >= b {
				t.Fatalf("sample %v of %d blocks, dirty %v", got, m.Blocks(), dirty)
			}
		}
		again, _ := sample(context.Background(), extents{list: list}, m, clean, want, sampleSeed("job", "vda"))
		if !slices.Equal(got, again) {
			t.Fatalf("%v, then %v", got, again)
		}
	})
	for blocks, want := range map[uint64]int{0: 4, 1 << 12: 4, 1 << 16: 64, 1 << 20: 1024, 1 << 30: 1024} {
		if n := sampleCount(blocks); n != want {
			t.Errorf("sample of %d blocks: %d, want %d", blocks, n, want)
		}
	}
	big := diskmap.Map{Size: 1 << 40, BlockSize: 64 << 10}
	a, _ := sample(t.Context(), extents{}, big, big.Blocks(), sampleMost, sampleSeed("job1", "vda"))
	b, _ := sample(t.Context(), extents{}, big, big.Blocks(), sampleMost, sampleSeed("job2", "vda"))
	if slices.Equal(a, b) || len(a) != sampleMost {
		t.Errorf("two jobs draw the same %d blocks", len(a))
	}
}

// TestAllot: no disk goes without a sample, and all together are no more than
// what has changed.
func TestAllot(t *testing.T) {
	for _, c := range []struct {
		want   []int
		budget int
		got    []int
	}{
		{nil, 5, []int{}},
		{[]int{4, 4, 4}, 100, []int{4, 4, 4}},
		{[]int{4, 4, 4}, 7, []int{3, 2, 2}},
		{[]int{4, 4, 4}, 0, []int{1, 1, 1}},
		{[]int{1024, 4, 0}, 20, []int{16, 4, 0}},
	} {
		if got := allot(c.want, c.budget); !slices.Equal(got, c.got) {
			t.Errorf("%v of %d: %v, want %v", c.want, c.budget, got, c.got)
		}
	}
}
