package diskmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cairn/blockstore/block"
)

func TestWalkRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := newMemory()
		size := sizes().Draw(t, "size")
		m := Map{Size: size, BlockSize: testBlock}
		es := edits(m.Blocks()).Draw(t, "edits")
		m = build(t, mem, size, nil, es)
		from := rapid.Uint64Range(0, m.Blocks()+3).Draw(t, "from")
		to := rapid.Uint64Range(0, m.Blocks()+3).Draw(t, "to")
		want := map[uint64]block.Digest{}
		apply(want, es)
		maps.DeleteFunc(want, func(i uint64, _ block.Digest) bool { return i < from || i >= to })
		next := from
		err := Walk(context.Background(), mem, m, from, to, func(i uint64, d block.Digest) error {
			if i < next || want[i] != d {
				return fmt.Errorf("block %d (after %d) is %s, want %s", i, next, d, want[i])
			}
			next = i + 1
			delete(want, i)
			return nil
		})
		if err != nil || len(want) > 0 {
			t.Fatalf("%v; %d blocks left out", err, len(want))
		}
	})
}

// wide is a map of three levels, with 600 leaves of which no two are equal.
func wide(t interface{ Fatal(...any) }, mem *memory) Map {
	var es []edit
	for i := range uint64(600) {
		es = append(es, edit{i * Fanout, 1 + i%Fanout, block.Sum([]byte{byte(i), byte(i >> 8)})})
	}
	return build(t, mem, 1<<18*testBlock, nil, es)
}

func TestWalkReadsWhatItNeeds(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	m := wide(t, mem)
	for _, c := range []struct {
		from, to uint64
		want     counts
	}{
		{0, m.Blocks(), counts{calls: 1 + 1 + 5, read: 1 + 3 + 600}}, // 600 leaves, 128 at once
		{0, 1, counts{3, 3, 0}},
		{300, 300, counts{}},
		{255, 257, counts{3, 4, 0}},
		{601 * Fanout, m.Blocks(), counts{2, 2, 0}}, // zero behind, within the second level
		{768 * Fanout, m.Blocks(), counts{1, 1, 0}}, // and within the third
	} {
		mem.since()
		if err := Walk(ctx, mem, m, c.from, c.to, func(uint64, block.Digest) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if got := mem.since(); got != c.want {
			t.Errorf("Walk from %d to %d took %+v, want %+v", c.from, c.to, got, c.want)
		}
	}
}

func TestWalkEnds(t *testing.T) {
	mem := newMemory()
	m := wide(t, mem)
	stop := errors.New("enough")
	n := 0
	err := Walk(context.Background(), mem, m, 0, m.Blocks(), func(uint64, block.Digest) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if err != stop || n != 3 {
		t.Errorf("%d calls, error %v", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	err = Walk(ctx, mem, m, 0, m.Blocks(), func(uint64, block.Digest) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	fails := 0
	err = WalkPages(ctx, mem, m, Visitor{Fail: func(Page, error) error { fails++; return nil }})
	if !errors.Is(err, context.Canceled) || fails != 0 {
		t.Errorf("cancelled with Fail: %v, %d pages failed", err, fails)
	}
}

// TestWalkPagesPrunes visits two versions of a disk as reclaim does: pages seen
// before are left out with all below them, and nothing is missed.
func TestWalkPagesPrunes(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	a := wide(t, mem)
	b := build(t, mem, a.Size, &a, []edit{{70_000, 1, digest(1)}, {100_000, 1, digest(2)}})
	seen := map[block.Digest]bool{}
	blocks := map[block.Digest]bool{}
	entered, last := 0, Page{Level: 99}
	v := Visitor{
		Enter: func(p Page) (bool, error) {
			entered++
			if p.Level == last.Level && p.Index <= last.Index || p.Digest == block.Zero {
				t.Errorf("%s entered after %s", p, last)
			}
			last = p
			if seen[p.Digest] {
				return false, nil
			}
			seen[p.Digest] = true
			return true, nil
		},
		Leaf: func(p Page, entries []block.Digest) error {
			if p.Level != 1 || len(entries) != Fanout || block.Sum(mem.blocks[p.Digest]) != p.Digest {
				t.Errorf("leaf %s with %d entries", p, len(entries))
			}
			for i, d := range entries {
				if d != entry(mem.blocks[p.Digest], i) {
					t.Errorf("%s: entry %d is %s", p, i, d)
				}
				if d != block.Zero {
					blocks[d] = true
				}
			}
			return nil
		},
	}
	mem.since()
	if err := WalkPages(ctx, mem, a, v); err != nil {
		t.Fatal(err)
	}
	if got := mem.since(); entered != 604 || got.read != 604 || len(blocks) != 600 {
		t.Errorf("first: entered %d pages, took %+v, found %d blocks", entered, got, len(blocks))
	}
	entered, last = 0, Page{Level: 99}
	if err := WalkPages(ctx, mem, b, v); err != nil {
		t.Fatal(err)
	}
	// The root, its 3 children, the 256 children of the one that changed twice:
	// entered; but only the paths to the 2 changed leaves read.
	if got := mem.since(); entered != 1+3+256 || got.read != 1+1+2 || len(blocks) != 602 {
		t.Errorf("second: entered %d pages, took %+v, found %d blocks", entered, got, len(blocks))
	}
	for d := range mem.blocks {
		if !seen[d] {
			t.Errorf("page %s was not visited", d)
		}
	}

	stop := errors.New("enough")
	for _, v := range []Visitor{
		{Enter: func(p Page) (bool, error) { return p.Level > 1, map[bool]error{p.Level == 1: stop}[true] }},
		{Leaf: func(Page, []block.Digest) error { return stop }},
	} {
		if err := WalkPages(ctx, mem, a, v); err != stop {
			t.Errorf("a visitor's error came back as %v", err)
		}
	}
}

// TestWalkPagesFail: a walk that goes on after bad pages reports each of them
// and misses nothing else.
func TestWalkPagesFail(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	m := wide(t, mem)
	var pages []Page
	if err := WalkPages(ctx, mem, m, Visitor{Enter: func(p Page) (bool, error) { pages = append(pages, p); return true, nil }}); err != nil {
		t.Fatal(err)
	}
	missing, short, inner := pages[20], pages[300], pages[2]
	if missing.Level != 1 || short.Level != 1 || inner.Level != 2 {
		t.Fatal(missing, short, inner)
	}
	delete(mem.blocks, missing.Digest)
	mem.blocks[short.Digest] = mem.blocks[short.Digest][:100]
	mem.blocks[inner.Digest] = make([]byte, PageSize)

	failed := map[Page]error{}
	leaves := 0
	err := WalkPages(ctx, mem, m, Visitor{
		Leaf: func(Page, []block.Digest) error { leaves++; return nil },
		Fail: func(p Page, err error) error { failed[p] = err; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	// The inner page's 256 leaves cannot be reached, short among them.
	if len(failed) != 2 || failed[missing] == nil || !errors.Is(failed[inner], block.ErrCorrupt) || leaves != 600-1-256 {
		t.Errorf("%d leaves, failed: %v", leaves, failed)
	}
	stop := errors.New("stop at the first")
	err = WalkPages(ctx, mem, m, Visitor{Fail: func(Page, error) error { return stop }})
	if err != stop {
		t.Errorf("Fail's error came back as %v", err)
	}
	if err := WalkPages(ctx, mem, m, Visitor{}); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("without Fail: %v", err)
	}
}

func TestDiffReadsThePathsOnly(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	a := wide(t, mem)
	for _, c := range []struct {
		name  string
		size  int64
		edits []edit
		diffs int
		want  counts
	}{
		{"same", a.Size, nil, 0, counts{}},
		{"one block", a.Size, []edit{{70_000, 1, digest(1)}}, 1, counts{3, 6, 0}},
		{"two blocks of a leaf", a.Size, []edit{{70_000, 1, digest(1)}, {70_001, 1, digest(1)}}, 2, counts{3, 6, 0}},
		{"grown", a.Size * 2, nil, 0, counts{}},
		// The two pages above the old root are read, but nothing below it.
		{"grown by two levels", a.Size << 16, nil, 0, counts{2, 2, 0}},
		{"grown by two levels, and a block there", a.Size << 16, []edit{{1 << 32, 1, digest(1)}}, 1, counts{5, 6, 0}},
	} {
		b := build(t, mem, c.size, &a, c.edits)
		for _, swap := range []bool{false, true} {
			x, y := a, b
			if swap {
				x, y = b, a
			}
			mem.since()
			diffs := 0
			err := Diff(ctx, mem, x, y, func(_ uint64, dx, dy block.Digest) error { diffs++; return nil })
			got := mem.since()
			if err != nil || diffs != c.diffs || got != c.want {
				t.Errorf("%s (swapped: %t): %d differences, %+v, %v; want %d, %+v", c.name, swap, diffs, got, err, c.diffs, c.want)
			}
		}
	}

	stop := errors.New("enough")
	b := build(t, mem, 0, &a, nil)
	if err := Diff(ctx, mem, a, b, func(uint64, block.Digest, block.Digest) error { return stop }); err != stop {
		t.Errorf("the function's error came back as %v", err)
	}
	b.BlockSize *= 2
	if err := Diff(ctx, mem, a, b, nil); err == nil {
		t.Error("maps of two block sizes compared")
	}
	b.BlockSize = 17
	if err := Diff(ctx, mem, a, b, nil); err == nil {
		t.Error("an invalid map compared")
	}
}

// TestDiffRange: of a part of two maps only the pages of that part are read.
func TestDiffRange(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	a := wide(t, mem)
	b := build(t, mem, a.Size, &a, []edit{{10, 1, digest(1)}, {300, 2, digest(2)}, {70_000, 1, digest(3)}})
	for _, c := range []struct {
		from, to uint64
		want     []uint64
		read     int
	}{
		{0, 1 << 40, []uint64{10, 300, 301, 70_000}, 12},
		{301, 70_000, []uint64{301}, 10},
		{300, 301, []uint64{300}, 6},
		{512, 60_000, nil, 4},
		{11, 12, nil, 6},
		{5, 5, nil, 0},
	} {
		mem.since()
		var got []uint64
		err := DiffRange(ctx, mem, a, b, c.from, c.to, func(i uint64, _, _ block.Digest) error {
			got = append(got, i)
			return nil
		})
		if read := mem.since().read; err != nil || !slices.Equal(got, c.want) || read > c.read {
			t.Errorf("%d to %d: blocks %d, %d pages read, %v; want %d, %d", c.from, c.to, got, read, err, c.want, c.read)
		}
	}
}
