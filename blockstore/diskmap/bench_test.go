package diskmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/blockstore/block"
)

// numbered is a digest that no other number has.
func numbered(i uint64) (d block.Digest) {
	binary.LittleEndian.PutUint64(d[:], i+1)
	return d
}

// discard takes pages, hashes and forgets them.
type discard struct{}

func (discard) WritePage(_ context.Context, plain []byte) (block.Digest, error) {
	return block.Sum(plain), nil
}

func full(b *testing.B, mem *memory, blocks uint64) Map {
	bld, err := NewBuilder(int64(blocks)*testBlock, testBlock, nil, nil, mem)
	if err != nil {
		b.Fatal(err)
	}
	for i := range blocks {
		if err := bld.Set(context.Background(), i, numbered(i)); err != nil {
			b.Fatal(err)
		}
	}
	m, err := bld.Finish(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// BenchmarkBuilder builds maps of 128 Ki blocks (8 GiB at 64 KiB).
func BenchmarkBuilder(b *testing.B) {
	ctx := context.Background()
	const blocks = 1 << 17
	mem := newMemory()
	base := full(b, mem, blocks)
	for _, c := range []struct {
		name string
		base *Map
		step uint64
	}{{"full", nil, 1}, {"over base, every 128th", &base, 128}, {"over base, every 8192th", &base, 8192}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bld, err := NewBuilder(base.Size, testBlock, c.base, mem, discard{})
				if err != nil {
					b.Fatal(err)
				}
				for i := uint64(0); i < blocks; i += c.step {
					if err := bld.Set(ctx, i, numbered(i+blocks)); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := bld.Finish(ctx); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*blocks/float64(c.step)/b.Elapsed().Seconds()/1e6, "Mset/s")
		})
	}
}

func BenchmarkWalk(b *testing.B) {
	const blocks = 1 << 17
	mem := newMemory()
	m := full(b, mem, blocks)
	for b.Loop() {
		n := 0
		if err := Walk(context.Background(), mem, m, 0, blocks, func(uint64, block.Digest) error { n++; return nil }); err != nil || n != blocks {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.N)*blocks/b.Elapsed().Seconds()/1e6, "Mblocks/s")
}

func BenchmarkDiff(b *testing.B) {
	ctx := context.Background()
	mem := newMemory()
	base := full(b, mem, 1<<17)
	for _, diffs := range []int{0, 1, 1000} {
		bld, _ := NewBuilder(base.Size, testBlock, &base, mem, mem)
		for i := range diffs {
			if err := bld.Set(ctx, uint64(i)*131, block.Zero); err != nil {
				b.Fatal(err)
			}
		}
		m, err := bld.Finish(ctx)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(diffs), func(b *testing.B) {
			for b.Loop() {
				n := 0
				if err := Diff(ctx, mem, base, m, func(uint64, block.Digest, block.Digest) error { n++; return nil }); err != nil || n != diffs {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkImage reads a disk of 256 MiB in blocks of 64 KiB, from memory and
// from a store that takes 200 µs per call and 1 ms per MiB.
func BenchmarkImage(b *testing.B) {
	const bs, blocks = block.DefaultSize, 4096
	mem := newMemory()
	bld, _ := NewBuilder(bs*blocks, bs, nil, nil, mem)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range uint64(blocks) {
		p := make([]byte, bs)
		binary.LittleEndian.PutUint64(p, i+1)
		if err := bld.Set(context.Background(), i, mem.put(p)); err != nil {
			b.Fatal(err)
		}
	}
	m, err := bld.Finish(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	for _, remote := range []bool{false, true} {
		name := "memory"
		mem.onRead = nil
		if remote {
			name = "remote"
			mem.onRead = func(_ context.Context, ds []block.Digest) error {
				time.Sleep(200*time.Microsecond + time.Duration(len(ds))*time.Millisecond/16)
				return nil
			}
		}
		for _, c := range []struct {
			name  string
			n     int
			ahead int64
		}{{"sequential 128K", 128 << 10, 0}, {"sequential 128K, read-ahead", 128 << 10, 8 << 20}, {"sequential 1M, read-ahead", 1 << 20, 8 << 20}, {"random 4K", 4 << 10, 8 << 20}} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				im := NewImage(mem, m, ImageOptions{ReadAhead: c.ahead})
				defer im.Close()
				p := make([]byte, c.n)
				off := int64(0)
				b.SetBytes(int64(c.n))
				b.ReportAllocs()
				for b.Loop() {
					if c.n == 4<<10 {
						off = rng.Int64N(bs*blocks/4096) * 4096
					}
					if _, err := im.ReadAt(p, off); err != nil {
						b.Fatal(err)
					}
					off = (off + int64(c.n)) % (bs * blocks)
				}
			})
		}
	}
}
