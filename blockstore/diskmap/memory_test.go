package diskmap

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"pgregory.net/rapid"

	"cairn/blockstore/block"
)

// memory is a block store for tests, which counts what is asked of it.
type memory struct {
	mu     sync.Mutex
	blocks map[block.Digest][]byte
	counts
	onRead func(ctx context.Context, ds []block.Digest) error // if set, called first
}

type counts struct {
	calls  int // of ReadBlocks
	read   int // blocks read by them
	writes int // calls of WritePage
}

// since resets the counts and returns what they were.
func (m *memory) since() counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.counts
	m.counts = counts{}
	return c
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
	d := m.put(plain)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	return d, nil
}

func (m *memory) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.onRead != nil {
		if err := m.onRead(ctx, ds); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
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
			counts := []*rapid.Generator[uint64]{
				rapid.Just(uint64(1)), rapid.Just(uint64(1)), rapid.Uint64Range(1, min(left, 1000)),
				rapid.Just(min(left, 256)), rapid.Just(min(left, 512)),
			}
			// Long runs of data make the model slow.
			if e.d == block.Zero || rapid.IntRange(0, 9).Draw(t, "long") == 0 {
				counts = append(counts, rapid.Just(min(left, 1<<16)))
			}
			if e.d == block.Zero || left < 5000 {
				counts = append(counts, rapid.Just(left))
			}
			e.count = rapid.OneOf(counts...).Draw(t, "count")
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
