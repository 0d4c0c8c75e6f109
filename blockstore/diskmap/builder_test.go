package diskmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cairn/blockstore/block"
)

func TestSameContentSameRoot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := newMemory()
		sizeA, sizeB := sizes().Draw(t, "size a"), sizes().Draw(t, "size b")
		a, b := Map{Size: sizeA, BlockSize: testBlock}, Map{Size: sizeB, BlockSize: testBlock}
		esA, esB := edits(a.Blocks()).Draw(t, "a"), edits(b.Blocks()).Draw(t, "b")
		model := map[uint64]block.Digest{}
		apply(model, esA)
		a = build(t, mem, sizeA, nil, esA)
		if got := contents(t, mem, a); !maps.Equal(got, model) {
			t.Fatalf("a holds %d entries, want %d", len(got), len(model))
		}
		before := maps.Clone(model)
		maps.DeleteFunc(model, func(i uint64, _ block.Digest) bool { return i >= b.Blocks() })
		if n := b.Blocks(); sizeB < sizeA && sizeB%testBlock != 0 {
			if len(esB) == 0 || esB[len(esB)-1].index+esB[len(esB)-1].count < n {
				esB = append(esB, edit{n - 1, 1, digest(2)})
			}
		}
		apply(model, esB)
		b = build(t, mem, sizeB, &a, esB)
		if got := contents(t, mem, b); !maps.Equal(got, model) {
			t.Fatalf("b holds %d entries, want %d", len(got), len(model))
		}
		if c := build(t, mem, sizeB, nil, sorted(model)); c != b {
			t.Fatalf("built over a base %s, from nothing %s", b.Root, c.Root)
		}
		next := uint64(0)
		err := Diff(context.Background(), mem, a, b, func(i uint64, da, db block.Digest) error {
			if i < next || da == db || before[i] != da || model[i] != db {
				return fmt.Errorf("diff says block %d (after %d) %s %s", i, next, da, db)
			}
			next = i + 1
			before[i] = db
			if db == block.Zero {
				delete(before, i)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(before, model) {
			t.Fatal("diff left something out")
		}
	})
}

// TestBuilderTouchesPathsOnly counts pages on a disk with 5 levels.
func TestBuilderTouchesPathsOnly(t *testing.T) {
	const blocks = 1<<32 + 5
	for _, c := range []struct {
		name  string
		size  int64
		edits []edit
		want  counts
	}{
		{"nothing", blocks * testBlock, nil, counts{}},
		{"one block", blocks * testBlock, []edit{{1 << 20, 1, digest(9)}}, counts{5, 5, 5}},
		{"one block, as it was", blocks * testBlock, []edit{{1 << 20, 1, digest(1)}}, counts{5, 5, 0}},
		{"one block where all was zero", blocks * testBlock, []edit{{1 << 30, 1, digest(9)}}, counts{2, 2, 5}},
		{"all cleared", blocks * testBlock, []edit{{0, blocks, block.Zero}}, counts{}},
		{"a run up to the end cleared", blocks * testBlock, []edit{{1 << 24, blocks - 1<<24, block.Zero}}, counts{2, 2, 1}},
		{"a whole subtree cleared", blocks * testBlock, []edit{{1 << 16, 1 << 16, block.Zero}}, counts{3, 3, 3}},
		{"a whole subtree of one block", blocks * testBlock, []edit{{1 << 16, 1 << 16, digest(9)}}, counts{3, 3, 5}},
		{"a run with two ragged edges", blocks * testBlock, []edit{{1<<16 - 1, 1<<16 + 2, block.Zero}}, counts{7, 7, 7}},
		{"grown within the depth", (blocks + 1000) * testBlock, nil, counts{}},
		{"grown by a level", blocks * 256 * testBlock, nil, counts{0, 0, 1}},
		{"shrunk at a page's edge", 1 << 32 * testBlock, nil, counts{2, 2, 0}},
		{"shrunk by three levels", 1 << 16 * testBlock, nil, counts{5, 5, 0}},
		{"shrunk within a leaf", (1<<16 + 3) * testBlock, nil, counts{5, 5, 3}},
		{"shrunk to nothing", 0, nil, counts{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := newMemory()
			base := build(t, mem, blocks*testBlock, nil, []edit{
				{0, 1 << 18, digest(1)}, {1 << 20, 1, digest(1)}, {blocks - 1, 1, digest(2)},
			})
			mem.since()
			m := build(t, mem, c.size, &base, c.edits)
			if got := mem.since(); got != c.want {
				t.Errorf("took %+v, want %+v", got, c.want)
			}
			if m.Root == base.Root != (len(c.edits) == 0 && c.size == base.Size || c.name == "one block, as it was" || c.name == "grown within the depth") {
				t.Errorf("root %s, base %s", m.Root, base.Root)
			}
		})
	}
}

// TestBuilderReadsLeavesAhead: scattered changes on most leaves do not cost a
// round trip each, and few changes do not cost leaves that nobody needs.
func TestBuilderReadsLeavesAhead(t *testing.T) {
	const leaves = 1 << 10
	for _, c := range []struct{ step, calls, read int }{
		{1, 100, leaves + 5}, // every leaf
		{2, leaves, leaves},  // every second one
		{100, 2*leaves/100 + 10, 2*leaves/100 + 10},
	} {
		mem := newMemory()
		var es []edit
		for i := range uint64(leaves) {
			es = append(es, edit{i * Fanout, Fanout - i%7, block.Sum([]byte{byte(i), byte(i >> 8)})})
		}
		base := build(t, mem, leaves*Fanout*testBlock, nil, es)
		mem.since()
		es = nil
		for i := 0; i < leaves; i += c.step {
			es = append(es, edit{uint64(i)*Fanout + 5, 1, digest(1)})
		}
		m := build(t, mem, base.Size, &base, es)
		got := mem.since()
		if got.calls > c.calls || got.read > c.read*5/4 {
			t.Errorf("step %d: %d calls for %d pages, want at most %d for %d", c.step, got.calls, got.read, c.calls, c.read)
		}
		n := 0
		if err := Diff(context.Background(), mem, base, m, func(uint64, block.Digest, block.Digest) error { n++; return nil }); err != nil || n != len(es) {
			t.Errorf("step %d: %d differences, want %d (%v)", c.step, n, len(es), err)
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	base := build(t, mem, 1000*testBlock, nil, []edit{{0, 1000, digest(1)}})
	other := base
	other.BlockSize *= 2
	for _, c := range []struct {
		size      int64
		blockSize int
		base      *Map
		want      string
	}{
		{-1, testBlock, nil, "negative size -1"},
		{0, 1000, nil, "block size 1000: must be a power of two"},
		{5, testBlock, &other, "base: block size 32768, the new map's is 16384"},
		{5, testBlock, &Map{Size: 0, BlockSize: testBlock, Root: digest(1)}, "base: disk map: empty disk with root"},
	} {
		if _, err := NewBuilder(c.size, c.blockSize, c.base, mem, mem); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewBuilder(%d, %d): %v, want %q", c.size, c.blockSize, err, c.want)
		}
	}

	for _, c := range []struct {
		name string
		size int64
		do   func(*Builder) error
		want string
	}{
		{"descending", 1000 * testBlock, func(b *Builder) error { return errors.Join(b.Set(ctx, 5, digest(1)), b.Set(ctx, 4, digest(1))) }, "block 4 set after block 5"},
		{"twice", 1000 * testBlock, func(b *Builder) error { return errors.Join(b.Set(ctx, 5, digest(1)), b.Set(ctx, 5, digest(1))) }, "block 5 set after block 5"},
		{"behind the end", 1000 * testBlock, func(b *Builder) error { return b.Set(ctx, 1000, digest(1)) }, "behind the end of a disk of 1000 blocks"},
		{"run behind the end", 1000 * testBlock, func(b *Builder) error { return b.SetRun(ctx, 999, 2, digest(1)) }, "2 blocks from 999 on are behind the end"},
		{"overflowing run", 1000 * testBlock, func(b *Builder) error { return b.SetRun(ctx, 1, math.MaxUint64, block.Zero) }, "behind the end"},
		{"shrunk into a block", 900*testBlock - 1, func(*Builder) error { return nil }, "its last block 899 must be set anew"},
		{"finished", 1000 * testBlock, func(b *Builder) error { _, err := b.Finish(ctx); return err }, "finished"},
	} {
		b, err := NewBuilder(c.size, testBlock, &base, mem, mem)
		if err != nil {
			t.Fatal(err)
		}
		err = c.do(b)
		if _, ferr := b.Finish(ctx); ferr == nil || !strings.Contains(errors.Join(err, ferr).Error(), c.want) {
			t.Errorf("%s: %v, then Finish: %v; want %q", c.name, err, ferr, c.want)
		}
	}
	// Once set, the last block may be anything.
	for _, d := range []block.Digest{digest(3), block.Zero} {
		m := build(t, mem, 900*testBlock-1, &base, []edit{{899, 1, d}})
		want := build(t, mem, 900*testBlock-1, nil, []edit{{0, 899, digest(1)}, {899, 1, d}})
		if m != want {
			t.Errorf("shrunk to %s, built to %s", m.Root, want.Root)
		}
	}
}

// failing is a store that stops working.
type failing struct {
	*memory
	err error
}

func (f failing) WritePage(context.Context, []byte) (block.Digest, error) { return block.Zero, f.err }

func TestBuilderPassesErrorsOn(t *testing.T) {
	ctx := context.Background()
	mem := newMemory()
	base := build(t, mem, 1000*testBlock, nil, []edit{{0, 1000, digest(1)}})
	full := errors.New("store is full")
	b, err := NewBuilder(base.Size, testBlock, &base, mem, failing{mem, full})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Set(ctx, 0, digest(2)); err != nil {
		t.Fatal(err)
	}
	err = b.Set(ctx, 999, digest(2))
	if !errors.Is(err, full) || !strings.Contains(err.Error(), "write map page level 1 index 0") {
		t.Errorf("Set: %v", err)
	}
	if _, err := b.Finish(ctx); !errors.Is(err, full) {
		t.Errorf("Finish after it: %v", err)
	}

	b, _ = NewBuilder(base.Size, testBlock, &base, mem, mem)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Set(cancelled, 0, digest(2)); !errors.Is(err, context.Canceled) {
		t.Errorf("Set with a cancelled context: %v", err)
	}
}
