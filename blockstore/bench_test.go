package blockstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// benchBlocks makes n incompressible blocks that differ, each on demand, and
// knows their digests beforehand.
type benchBlocks struct {
	base    []byte
	digests []block.Digest
}

func newBenchBlocks(b *testing.B, n int) *benchBlocks {
	bb := &benchBlocks{base: make([]byte, block.DefaultSize), digests: make([]block.Digest, n)}
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(bb.base)
	var g errgroup.Group
	for w := range 2 {
		g.Go(func() error {
			p := make([]byte, len(bb.base))
			for i := w; i < n; i += 2 {
				bb.digests[i] = block.Sum(bb.plain(p, i))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return bb
}

func (bb *benchBlocks) plain(dst []byte, i int) []byte {
	copy(dst, bb.base)
	binary.LittleEndian.PutUint64(dst[1000:], uint64(i)+1)
	return dst
}

func (bb *benchBlocks) stored(i int) []byte {
	s := append(make([]byte, 0, len(bb.base)+4), 0, 0, 0, 1) // raw, 65536 bytes
	s = append(s, bb.base...)
	binary.LittleEndian.PutUint64(s[4+1000:], uint64(i)+1)
	return s
}

// put sends blocks [from, to) in batches of 2 MiB, from as many clients as given.
func (bb *benchBlocks) put(b *testing.B, u *Upload, from, to, clients int) {
	ctx := context.Background()
	var g errgroup.Group
	const batch = 32
	var mu sync.Mutex
	for range clients {
		g.Go(func() error {
			for {
				mu.Lock()
				lo := from
				from += batch
				mu.Unlock()
				if lo >= to {
					return nil
				}
				var bs []Block
				for i := lo; i < min(lo+batch, to); i++ {
					bs = append(bs, Block{bb.digests[i], bb.stored(i)})
				}
				if _, err := u.Put(ctx, bs); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := u.Flush(ctx); err != nil {
		b.Fatal(err)
	}
}

func benchStore(b *testing.B, o Options) *Store {
	dir := os.Getenv("CAIRN_BENCH_DIR") // the disk to measure
	if dir == "" {
		dir = b.TempDir()
	} else {
		d, err := os.MkdirTemp(dir, "bench")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(d) })
		dir = d
	}
	s, err := Create(filepath.Join(dir, "vault"), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// BenchmarkIngest compares what the store takes with the limit: files that are
// appended to and synced every 64 MiB, in turns on the same disk.
//
//	go test -run '^$' -bench Ingest -benchtime 3x ./blockstore
func BenchmarkIngest(b *testing.B) {
	const n = 16 << 10 // 1 GiB
	bb := newBenchBlocks(b, n)
	for _, clients := range []int{1, 2} {
		b.Run(fmt.Sprintf("unique/clients=%d", clients), func(b *testing.B) {
			var store, files time.Duration
			var amp float64
			for b.Loop() {
				s := benchStore(b, Options{})
				u := startUpload(b, s, "bench")
				start := time.Now()
				bb.put(b, u, 0, n, clients)
				store += time.Since(start)
				st, err := s.Stats()
				if err != nil {
					b.Fatal(err)
				}
				amp = float64(st.BytesWritten) / float64(st.BytesAdded)
				u.Abort()
				start = time.Now()
				plainFiles(b, bb, n)
				files += time.Since(start)
			}
			mb := float64(b.N) * n * block.DefaultSize / 1e6
			b.ReportMetric(mb/store.Seconds(), "MB/s")
			b.ReportMetric(mb/files.Seconds(), "files-MB/s")
			b.ReportMetric(files.Seconds()/store.Seconds(), "×files")
			b.ReportMetric(amp, "write-amp")
			b.ReportMetric(0, "ns/op")
		})
	}
	b.Run("duplicate", func(b *testing.B) {
		s := benchStore(b, Options{})
		u := startUpload(b, s, "bench")
		bb.put(b, u, 0, n, 2)
		b.SetBytes(n * block.DefaultSize)
		for b.Loop() {
			bb.put(b, u, 0, n, 2)
		}
	})
}

// plainFiles is the yardstick.
func plainFiles(b *testing.B, bb *benchBlocks, n int) {
	dir := b.TempDir()
	if d := os.Getenv("CAIRN_BENCH_DIR"); d != "" {
		dir = d
	}
	var f *os.File
	var err error
	for i := range n {
		if i%1024 == 0 {
			if f, err = os.Create(filepath.Join(dir, fmt.Sprintf("plain%d", i))); err != nil {
				b.Fatal(err)
			}
			defer os.Remove(f.Name())
		}
		if _, err := f.Write(bb.stored(i)); err != nil {
			b.Fatal(err)
		}
		if i%1024 == 1023 || i == n-1 {
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	}
}

// cpuTime is what the process has used of all cores.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func BenchmarkRead(b *testing.B) {
	const n = 16 << 10
	bb := newBenchBlocks(b, n)
	s := benchStore(b, Options{Resources: smallResources(b)})
	u := startUpload(b, s, "bench")
	bb.put(b, u, 0, n, 2)
	ctx := context.Background()
	b.Run("random", func(b *testing.B) {
		b.SetBytes(block.DefaultSize)
		rng := rand.New(rand.NewPCG(1, 2))
		for b.Loop() {
			if _, err := s.ReadBlocks(ctx, []block.Digest{bb.digests[rng.IntN(n)]}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
	for name, read := range map[string]func(context.Context, []block.Digest) ([][]byte, error){"sequential": s.ReadBlocks, "stored": s.ReadStored} {
		b.Run(name, func(b *testing.B) {
			const batch = 32
			b.SetBytes(batch * block.DefaultSize)
			for i := 0; b.Loop(); i = (i + batch) % n {
				if _, err := read(ctx, bb.digests[i:i+batch]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(n * block.DefaultSize)
		for b.Loop() {
			if r, err := s.Verify(ctx, nil); err != nil || r.Blocks != n {
				b.Fatal(err, r.Blocks)
			}
		}
	})
}

// BenchmarkScatteredMap writes the map of a disk of 8 GiB, 1,000 random blocks of
// which have changed since its base: nearly every leaf is rewritten.
func BenchmarkScatteredMap(b *testing.B) {
	const blocks = 128 << 10
	ctx := context.Background()
	s := benchStore(b, Options{FS: vfs.NewMem()})
	u := startUpload(b, s, "base")
	tiny := func(n int) Block {
		p := make([]byte, block.DefaultSize)
		binary.LittleEndian.PutUint64(p, uint64(n)+1)
		return Block{block.Sum(p), block.Encode(nil, p, block.Fastest)}
	}
	bld, err := diskmap.NewBuilder(blocks*block.DefaultSize, block.DefaultSize, nil, u, u)
	if err != nil {
		b.Fatal(err)
	}
	for i := range blocks {
		t := tiny(i)
		_, err := u.Put(ctx, []Block{t})
		if err := errors.Join(err, bld.Set(ctx, uint64(i), t.Digest)); err != nil {
			b.Fatal(err)
		}
	}
	base, err := bld.Finish(ctx)
	if err == nil {
		err = u.Commit(ctx, Point{ID: "base", Disks: []Disk{{"vda", base}}})
	}
	if err != nil {
		b.Fatal(err)
	}
	for n := 0; b.Loop(); n++ {
		u := startUpload(b, s, "next")
		bld, err := diskmap.NewBuilder(base.Size, base.BlockSize, &base, u, u)
		if err != nil {
			b.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(uint64(n), 0))
		for i := rng.IntN(262); i < blocks; i += 1 + rng.IntN(261) {
			t := tiny(blocks + n*blocks + i)
			_, err := u.Put(ctx, []Block{t})
			if err := errors.Join(err, bld.Set(ctx, uint64(i), t.Digest)); err != nil {
				b.Fatal(err)
			}
		}
		m, err := bld.Finish(ctx)
		if err == nil {
			err = u.Commit(ctx, Point{ID: fmt.Sprint("next", n), Disks: []Disk{{"vda", m}}})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// smallResources has caches that hold next to nothing.
func smallResources(tb testing.TB) *Resources {
	r := NewResources(ResourceOptions{VerifiedCache: 1 << 20, TableCache: 4 << 20})
	tb.Cleanup(r.Close)
	return r
}

// BenchmarkLookup measures FindMissing over an index of 4 million blocks, in
// batches of 4096.
func BenchmarkLookup(b *testing.B) {
	const n, batch = 4 << 20, 4096
	s := benchStore(b, Options{})
	rng := rand.NewChaCha8([32]byte{7})
	there := make([]block.Digest, n)
	for i := 0; i < n; {
		err := s.update(0, func(bt *pebble.Batch, st *state) error {
			for range 1024 {
				rng.Read(there[i][:])
				if err := bt.Set(digestKey(nil, there[i]), entry{id: uint64(i + 1), stored: 65540}.append(nil), nil); err != nil {
					return err
				}
				i++
			}
			st.blocks += 1024
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for quiet := 0; quiet < 5; quiet++ { // compactions are not what is measured
		time.Sleep(50 * time.Millisecond)
		if m := s.index.Metrics(); m.Compact.NumInProgress > 0 || m.Flush.NumInProgress > 0 {
			quiet = 0
		}
	}
	ctx := context.Background()
	measure := func(b *testing.B, next func(ds []block.Digest), missing int) {
		ds := make([]block.Digest, batch)
		u := startUpload(b, s, b.Name())
		defer u.Abort()
		var spent, cpu time.Duration
		for b.Loop() {
			next(ds)
			start, startCPU := time.Now(), cpuTime()
			m, err := u.FindMissing(ctx, ds)
			spent += time.Since(start)
			cpu += cpuTime() - startCPU
			if err != nil || len(m) != missing {
				b.Fatal(len(m), err)
			}
		}
		b.ReportMetric(float64(b.N*batch)/spent.Seconds(), "lookups/s")
		b.ReportMetric(float64(b.N*batch)/cpu.Seconds(), "lookups/core-s") // what a busy machine does not distort
		b.ReportMetric(0, "ns/op")
	}
	b.Run("absent", func(b *testing.B) {
		measure(b, func(ds []block.Digest) {
			for i := range ds {
				rng.Read(ds[i][:])
			}
		}, batch)
	})
	r := rand.New(rand.NewPCG(1, 2))
	b.Run("present", func(b *testing.B) {
		measure(b, func(ds []block.Digest) {
			for i := range ds {
				ds[i] = there[r.IntN(n)]
			}
		}, 0)
	})
}
