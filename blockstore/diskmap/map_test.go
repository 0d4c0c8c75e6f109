package diskmap

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"cairn/blockstore/block"
)

// memory is a block store for tests, which counts what is asked of it.
type memory struct {
	mu     sync.Mutex
	blocks map[block.Digest][]byte
	reads  int // ReadBlocks calls
	read   int // blocks read
	writes int // WritePage calls
}

func newMemory() *memory { return &memory{blocks: map[block.Digest][]byte{}} }

func (m *memory) put(plain []byte) block.Digest {
	if block.IsZero(plain) {
		return block.Zero
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := block.Sum(plain)
	m.blocks[d] = append([]byte(nil), plain...)
	return d
}

func (m *memory) WritePage(_ context.Context, plain []byte) (block.Digest, error) {
	if block.IsZero(plain) || len(plain) != PageSize {
		panic("zero or odd page written")
	}
	m.writes++
	return m.put(plain), nil
}

func (m *memory) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	m.read += len(ds)
	out := make([][]byte, len(ds))
	for i, d := range ds {
		if d == block.Zero {
			panic("zero block read")
		}
		p, ok := m.blocks[d]
		if !ok {
			return nil, fmt.Errorf("no block %s", d)
		}
		out[i] = p
	}
	return out, nil
}

const testBlock = block.MinSize

func sizes() *rapid.Generator[int64] {
	return rapid.Custom(func(t *rapid.T) int64 {
		blocks := rapid.OneOf(
			rapid.Int64Range(0, 5), rapid.Int64Range(250, 260), rapid.Int64Range(500, 2000),
			rapid.Int64Range(65530, 65540), rapid.Int64Range(1<<16, 1<<25),
		).Draw(t, "blocks")
		return max(0, blocks*testBlock-rapid.SampledFrom([]int64{0, 1, 511, testBlock - 1}).Draw(t, "short"))
	})
}

func digest(i int) (d block.Digest) {
	if i > 0 {
		d = block.Sum([]byte{byte(i)})
	}
	return d
}

// edit is one Set or SetRun.
type edit struct {
	index, count uint64
	d            block.Digest
}

func edits(blocks uint64) *rapid.Generator[[]edit] {
	return rapid.Custom(func(t *rapid.T) []edit {
		var es []edit
		next := uint64(0)
		for range rapid.IntRange(0, 12).Draw(t, "edits") {
			left := blocks - next
			if left == 0 {
				break
			}
			e := edit{d: digest(rapid.IntRange(0, 4).Draw(t, "digest"))}
			e.index = next + rapid.OneOf(rapid.Uint64Range(0, min(left-1, 3)), rapid.Uint64Range(0, left-1)).Draw(t, "skip")
			if rapid.Bool().Draw(t, "align") {
				e.index = max(next, e.index&^255)
			}
			left = blocks - e.index
			e.count = rapid.OneOf(rapid.Just(uint64(1)), rapid.Uint64Range(1, min(left, 1000)),
				rapid.Just(min(left, 256)), rapid.Just(min(left, 1<<16)), rapid.Just(left)).Draw(t, "count")
			es = append(es, e)
			next = e.index + e.count
		}
		return es
	})
}

func build(t interface{ Fatal(...any) }, mem *memory, size int64, base *Map, es []edit) Map {
	b, err := NewBuilder(size, testBlock, base, mem, mem)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if err := b.SetRun(context.Background(), e.index, e.count, e.d); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Finish(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func contents(t interface{ Fatal(...any) }, mem *memory, m Map) map[uint64]block.Digest {
	got := map[uint64]block.Digest{}
	next := uint64(0)
	err := Walk(context.Background(), mem, m, 0, m.Blocks(), func(i uint64, d block.Digest) error {
		if d == block.Zero || i < next {
			return fmt.Errorf("block %d digest %s after %d", i, d, next)
		}
		got[i], next = d, i+1
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// small keeps runs of data countable; zero runs may be as long as they like.
func small(es []edit) []edit {
	for i := range es {
		if es[i].d != block.Zero {
			es[i].count = min(es[i].count, 1<<17)
		}
	}
	return es
}

func apply(model map[uint64]block.Digest, es []edit) {
	for _, e := range es {
		if e.d == block.Zero {
			maps.DeleteFunc(model, func(i uint64, _ block.Digest) bool { return e.index <= i && i-e.index < e.count })
			continue
		}
		for i := range e.count {
			model[e.index+i] = e.d
		}
	}
}

func sorted(model map[uint64]block.Digest) (es []edit) {
	for i, d := range model {
		es = append(es, edit{i, 1, d})
	}
	slices.SortFunc(es, func(a, b edit) int { return cmp.Compare(a.index, b.index) })
	return es
}

func TestSameContentSameRoot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := newMemory()
		sizeA, sizeB := sizes().Draw(t, "size a"), sizes().Draw(t, "size b")
		a, b := Map{Size: sizeA, BlockSize: testBlock}, Map{Size: sizeB, BlockSize: testBlock}
		esA, esB := small(edits(a.Blocks()).Draw(t, "a")), small(edits(b.Blocks()).Draw(t, "b"))
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
