package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"cairn/mount/filesys"
)

// tableOf makes a table of 32-bit entries that links the chain.
func tableOf(clusters uint32, chain []uint32, last uint32) *Table {
	b := make([]byte, 4*(int64(clusters)+First))
	for i, c := range chain {
		next := last
		if i+1 < len(chain) {
			next = chain[i+1]
		}
		binary.LittleEndian.PutUint32(b[4*c:], next)
	}
	t := &Table{Volume: NewVolume(bytes.NewReader(b), int64(len(b))), Width: 32, Mask: 1<<32 - 1, End: 1<<32 - 1, Clusters: clusters, Bits: 9}
	t.Init()
	return t
}

// TestChain: wherever the clusters lie, each is found, and memory is bounded.
func TestChain(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const clusters = 400000
	for _, runs := range []struct {
		name string
		next func() int // the length of the next run
	}{
		{"all apart", func() int { return 1 }},
		{"pairs", func() int { return 2 }},
		{"short", func() int { return 1 + random.IntN(9) }},
		{"mixed", func() int {
			if random.IntN(500) == 0 {
				return 5000
			}
			return 1 + random.IntN(2)
		}},
		{"one", func() int { return clusters }},
	} {
		// Runs in random order.
		var list [][]uint32
		for c := uint32(First); c < clusters; {
			n := min(uint32(runs.next()), clusters-c)
			run := make([]uint32, n)
			for i := range run {
				run[i] = c + uint32(i)
			}
			list = append(list, run)
			c += n
		}
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		var chain []uint32
		for _, run := range list {
			chain = append(chain, run...)
		}
		table := tableOf(clusters, chain, 1<<32-1)
		for _, need := range []int64{int64(len(chain)), int64(len(chain)) / 3, 1} {
			c, err := table.Chain(chain[0], need)
			if err != nil || c.Whole() != nil || c.Clusters() != need {
				t.Fatalf("%s: %v, %v", runs.name, err, c)
			}
			if len(c.marks) > maxMarks || c.gap > 64+4*clusters/maxMarks {
				t.Errorf("%s: %d marks with gaps of %d", runs.name, len(c.marks), c.gap)
			}
			for range 3000 {
				i := random.Int64N(need)
				want := 1 + random.Int64N(100)
				first, n, err := c.At(i, want)
				if err != nil || n < 1 || n > want || i+n > need {
					t.Fatalf("%s: cluster %d: %d, %v", runs.name, i, n, err)
				}
				for k := range n {
					if first+uint32(k) != chain[i+k] {
						t.Fatalf("%s: cluster %d is %d, want %d", runs.name, i+k, first+uint32(k), chain[i+k])
					}
				}
			}
			if _, _, err := c.At(need, 1); !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%s: a cluster behind the last: %v", runs.name, err)
			}
		}
	}
}

// TestCircles: a chain that comes back to any of its clusters is refused if the
// file is long enough to come there.
func TestCircles(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for n := 1; n < 60; n++ {
		chain := make([]uint32, n)
		for i, c := range random.Perm(100)[:n] {
			chain[i] = uint32(c) + First
		}
		for back := range n {
			table := tableOf(200, chain, chain[back])
			for need := range int64(3 * n) {
				if need == 0 {
					continue
				}
				_, err := table.Chain(chain[0], need)
				if need > int64(n) && !errors.Is(err, filesys.ErrCorrupt) {
					t.Fatalf("%d clusters back to number %d, %d needed: %v", n, back, need, err)
				}
			}
		}
	}
}

// TestParents: ways that were forgotten are found again.
func TestParents(t *testing.T) {
	// Directory n has the subdirectories 2n and 2n+1.
	const last = 1 << 16
	lists := 0
	p := NewParents(1, func(dir uint64, fn func(uint64) bool) error {
		lists++
		for _, child := range []uint64{2 * dir, 2*dir + 1} {
			if child < last && !fn(child) {
				return nil
			}
		}
		return nil
	})
	for _, dir := range []uint64{2, 3, 4, 77, 60000, 1} {
		parent, err := p.Of(dir)
		if want := max(1, dir/2); parent != want || err != nil {
			t.Errorf("parent of %d is %d, %v", dir, parent, err)
		}
	}
	before := lists
	var way []uint64
	if err := p.Up(60000, func(dir uint64) error { way = append(way, dir); return nil }); err != nil || len(way) != 15 || way[14] != 1 || lists != before {
		t.Errorf("up: %v, %v, %d lists", way, err, lists-before)
	}
	if _, err := p.Of(last + 5); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("parent of what is not there: %v", err)
	}
	for i := range uint64(3 * generation) {
		if err := p.Note(1<<40+i, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.young) > generation || len(p.old) > generation {
		t.Errorf("%d and %d are remembered", len(p.young), len(p.old))
	}
	if parent, err := p.Of(60000); parent != 30000 || err != nil {
		t.Errorf("parent is %d, %v after it was forgotten", parent, err)
	}
}

// TestCacheLimit: a cache stays within its bytes, and keeps what is in use.
func TestCacheLimit(t *testing.T) {
	c := NewCache[int, int](100 * (1000 + itemCost))
	for i := range 10000 {
		c.Put(i, i, 1000)
		if v, ok := c.Get(0); !ok || v != 0 {
			t.Fatal("what is in use was dropped")
		}
		if c.used > c.limit || len(c.items) > 100 {
			t.Fatalf("%d bytes of %d, %d items", c.used, c.limit, len(c.items))
		}
	}
	c.Put(-1, 0, 1<<30)
	if _, ok := c.Get(-1); ok {
		t.Error("a value larger than the cache was kept")
	}
}

// TestMemory: all that a volume can be made to keep is less than 64 MiB.
func TestMemory(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	v := NewVolume(zeros{}, 1<<40)
	for i := range int64(3000) {
		if _, err := v.page(i); err != nil {
			t.Fatal(err)
		}
	}
	chain := make([]uint32, 100000)
	for i, c := range rand.Perm(len(chain)) {
		chain[i] = uint32(c) + First
	}
	table := tableOf(1<<17, chain, 1<<32-1)
	dirs := NewCache[int, *Slots](4 << 20)
	for i := range int64(200) {
		c, err := table.Chain(chain[0], 90000+i)
		if err != nil {
			t.Fatal(err)
		}
		s := ChainSlots(c, 1<<30)
		dirs.Put(int(i), s, s.Cost())
	}
	indexes := NewIndexes()
	for i := range uint64(20) {
		_, err := indexes.Get(i, func(x *Index) error {
			for k := range maxIndex + 10 - 20*int64(i) {
				x.Add(uint32(k), k)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	parents := NewParents(1, func(uint64, func(uint64) bool) error { return nil })
	for i := range uint64(3 * generation) {
		if err := parents.Note(i, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := heap() - before; n > 48<<20 {
		t.Errorf("%d MiB are kept", n>>20)
	} else {
		t.Logf("%d MiB are kept", n>>20)
	}
	runtime.KeepAlive([]any{v, table, dirs, indexes, parents, chain})
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
