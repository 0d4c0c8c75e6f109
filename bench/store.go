package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"cairn/blockstore"
	"cairn/blockstore/block"
)

// StoreOptions say how much the store's benchmark moves.
type StoreOptions struct {
	Dir       string // on the disk to measure; "" is the system's temporary directory
	BlockSize int    // bytes; 0 is the default
	Bytes     int64  // of unique data to ingest; 0 is 2 GiB
	Entries   int    // in the index when look-ups are measured; 0 is 4 million
	Progress  func(what string)
}

// rounds is how often ingest and its yardstick are measured in turns.
const rounds = 3

// Store measures a block store in a temporary vault.
func Store(ctx context.Context, o StoreOptions) (rep *Report, err error) {
	if o.BlockSize == 0 {
		o.BlockSize = block.DefaultSize
	}
	if o.Bytes == 0 {
		o.Bytes = 2 << 30
	}
	if o.Entries == 0 {
		o.Entries = 4_000_000
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	dir, err := os.MkdirTemp(o.Dir, "cairn-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &storeBench{o: o, dir: dir, n: int(o.Bytes / int64(o.BlockSize)), rep: &Report{
		Title: fmt.Sprintf("Block store: %d MiB of %d KiB blocks, %d cores, in %s", o.Bytes>>20, o.BlockSize>>10, runtime.GOMAXPROCS(0), filepath.Dir(dir)),
	}}
	if b.n < 64 {
		return nil, fmt.Errorf("%d bytes are %d blocks: too few to measure", o.Bytes, b.n)
	}
	for _, step := range []func(context.Context) error{b.ingest, b.others, b.read, b.lookups} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return b.rep, nil
}

type storeBench struct {
	o       StoreOptions
	dir     string
	n       int // blocks of unique data
	rep     *Report
	store   *blockstore.Store // left by ingest, with n unique blocks
	digests []block.Digest
}

// unique fills p with bytes that do not compress and that only block i of a
// seed has: chunks of a pool of random bytes, shifted by i, with i in each.
type unique struct {
	pool []byte
	seed uint64
}

func newUnique(seed uint64) *unique {
	u := &unique{pool: make([]byte, 16<<20), seed: seed}
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	rand.NewChaCha8(s).Read(u.pool)
	return u
}

func (u *unique) fill(p []byte, i int) {
	off := i * 4099 % (len(u.pool) - len(p))
	copy(p, u.pool[off:])
	for at := 0; at+16 <= len(p); at += 4096 {
		binary.LittleEndian.PutUint64(p[at:], u.seed)
		binary.LittleEndian.PutUint64(p[at+8:], uint64(i))
	}
}

// ingest measures unique incompressible blocks against plain files, in turns.
// Both get data that is in memory already; a client's hashing and compressing
// is not part of the store, its own check of every block is.
func (b *storeBench) ingest(ctx context.Context) error {
	var ours, plain, amplification float64
	for round := range rounds {
		b.o.Progress(fmt.Sprintf("ingest of unique blocks, round %d of %d", round+1, rounds))
		data, err := b.prepare(ctx, newUnique(uint64(round+1)).fill)
		if err != nil {
			return err
		}
		sec, err := b.plainFiles(data)
		if err != nil {
			return err
		}
		plain = max(plain, float64(b.o.Bytes)/sec/mb)

		if b.store != nil {
			if err := b.store.Close(); err != nil {
				return err
			}
			if err := os.RemoveAll(filepath.Join(b.dir, "vault")); err != nil {
				return err
			}
		}
		if b.store, err = blockstore.Create(filepath.Join(b.dir, "vault"), blockstore.Options{BlockSize: b.o.BlockSize}); err != nil {
			return err
		}
		if sec, err = put(ctx, b.store, data); err != nil {
			return err
		}
		ours = max(ours, float64(b.o.Bytes)/sec/mb)
		st, err := b.store.Stats()
		if err != nil {
			return err
		}
		amplification = float64(st.BytesWritten) / float64(st.BytesAdded)
		b.digests = b.digests[:0]
		for _, bl := range data {
			b.digests = append(b.digests, bl.Digest)
		}
	}
	b.rep.add("plain files", "append, fsync per 64 MiB", plain, "MB/s")
	b.rep.add("ingest unique", "incompressible, durable", ours, "MB/s").atLeast(0.8*plain, "0.8 × plain files")
	b.rep.add("ingest unique", "ratio to plain files", ours/plain, "×")
	b.rep.add("ingest unique", "bytes written / bytes given", amplification, "×").atMost(1.1, "1.1")
	return nil
}

// prepare makes n blocks in their stored form, on all cores.
func (b *storeBench) prepare(ctx context.Context, fill func(p []byte, i int)) ([]blockstore.Block, error) {
	out := make([]blockstore.Block, b.n)
	var g errgroup.Group
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			plain := make([]byte, b.o.BlockSize)
			for i := int(next.Add(1)) - 1; i < b.n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				fill(plain, i)
				if block.IsZero(plain) {
					continue // what a client does; leaves a gap
				}
				out[i] = blockstore.Block{Digest: block.Sum(plain), Stored: block.Encode(nil, plain, block.Fastest)}
			}
			return ctx.Err()
		})
	}
	return out, g.Wait()
}

// plainFiles is the yardstick: the same bytes appended to files, with an fsync
// every 64 MiB.
func (b *storeBench) plainFiles(data []blockstore.Block) (seconds float64, err error) {
	const fileSize = 64 << 20
	dir := filepath.Join(b.dir, "plain")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	start := time.Now()
	for i := 0; i < len(data); {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return 0, err
		}
		for written := 0; written < fileSize && i < len(data); i++ {
			n, err := f.Write(data[i].Stored)
			if err != nil {
				return 0, errors.Join(err, f.Close())
			}
			written += n
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds(), nil
}

// put sends blocks from as many goroutines as there are cores through one
// upload, as the server does, and waits until they are durable.
func put(ctx context.Context, s *blockstore.Store, data []blockstore.Block) (seconds float64, err error) {
	up, err := s.StartUpload("bench")
	if err != nil {
		return 0, err
	}
	defer up.Abort()
	start := time.Now()
	per := max(1, 1<<20/s.Info().BlockSize)
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for {
				to := int(next.Add(int64(per)))
				from := to - per
				if from >= len(data) {
					return nil
				}
				if _, err := up.Put(gctx, data[from:min(to, len(data))]); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if err := up.Flush(ctx); err != nil {
		return 0, err
	}
	return time.Since(start).Seconds(), nil
}

// backUp does for blocks of a disk what an agent does with them in one process:
// make, skip zeros, digest, ask what is missing, compress that and put it.
func backUp(ctx context.Context, s *blockstore.Store, n int, fill func(p []byte, i int), digests []block.Digest) (seconds float64, err error) {
	up, err := s.StartUpload("bench")
	if err != nil {
		return 0, err
	}
	defer up.Abort()
	start := time.Now()
	bs := s.Info().BlockSize
	per := max(1, 1<<20/bs)
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			plain := make([]byte, per*bs)
			for {
				to := int(next.Add(int64(per)))
				from := to - per
				if from >= n {
					return nil
				}
				var ds []block.Digest
				var at []int
				for i := from; i < min(to, n); i++ {
					p := plain[(i-from)*bs : (i-from+1)*bs]
					fill(p, i)
					if block.IsZero(p) {
						continue
					}
					ds, at = append(ds, block.Sum(p)), append(at, i-from)
					if digests != nil {
						digests[i] = ds[len(ds)-1]
					}
				}
				missing, err := up.FindMissing(gctx, ds)
				if err != nil {
					return err
				}
				var blocks []blockstore.Block
				for _, m := range missing {
					blocks = append(blocks, blockstore.Block{Digest: ds[m], Stored: block.Encode(nil, plain[at[m]*bs:(at[m]+1)*bs], block.Fastest)})
				}
				if len(blocks) == 0 {
					continue
				}
				if _, err := up.Put(gctx, blocks); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if err := up.Flush(ctx); err != nil {
		return 0, err
	}
	return time.Since(start).Seconds(), nil
}

// others measures ingest of what is cheaper to store than unique noise.
func (b *storeBench) others(ctx context.Context) error {
	data := newUnique(rounds) // what the store holds
	text := newUnique(77)
	for _, c := range []struct {
		name, what string
		fill       func(p []byte, i int)
	}{
		{"hash, ask: duplicate", "all blocks are there already", data.fill},
		{"hash, ask: zero", "zeros, never stored", func(p []byte, _ int) { clear(p) }},
		{"hash, ask, compress, put", "half noise, half a pattern", func(p []byte, i int) {
			text.fill(p, i)
			for at := 0; at+128 <= len(p); at += 128 {
				copy(p[at+64:at+128], "the same sixty-four bytes of text again and again and again ....")
			}
		}},
	} {
		b.o.Progress(c.name)
		before, err := b.store.Stats()
		if err != nil {
			return err
		}
		sec, err := backUp(ctx, b.store, b.n, c.fill, nil)
		if err != nil {
			return err
		}
		after, err := b.store.Stats()
		if err != nil {
			return err
		}
		b.rep.add(c.name, c.what, float64(b.o.Bytes)/sec/mb, "MB/s")
		added := after.StoredBytes - before.StoredBytes
		b.rep.add(c.name, "stored / given", float64(added)/float64(b.o.Bytes), "×")
	}
	return nil
}

// read measures verified reads: what comes out was re-hashed.
func (b *storeBench) read(ctx context.Context) error {
	b.o.Progress("reads")
	// Open again, so that the caches are the store's own and empty. The
	// kernel's page cache stays: a disk's own speed is not ours to measure.
	dir := b.store.Info().Dir
	if err := b.store.Close(); err != nil {
		return err
	}
	var err error
	if b.store, err = blockstore.Open(dir, blockstore.Options{}); err != nil {
		return err
	}
	start := time.Now()
	const batch = 64
	for i := 0; i < b.n; i += batch {
		if _, err := b.store.ReadBlocks(ctx, b.digests[i:min(i+batch, b.n)]); err != nil {
			return err
		}
	}
	b.rep.add("read sequential", "verified, page cache warm", float64(b.o.Bytes)/time.Since(start).Seconds()/mb, "MB/s")

	rng := rand.New(rand.NewPCG(1, 2))
	start = time.Now()
	count := 0
	for ; time.Since(start) < 3*time.Second && ctx.Err() == nil; count++ {
		if _, err := b.store.ReadBlocks(ctx, []block.Digest{b.digests[rng.IntN(b.n)]}); err != nil {
			return err
		}
	}
	b.rep.add("read random", "single blocks, one reader", float64(count)/time.Since(start).Seconds(), "blocks/s")
	return errors.Join(ctx.Err(), b.store.Close())
}

// lookups measures FindMissing over an index of many entries. The entries are
// real blocks, small ones that compress to next to nothing.
func (b *storeBench) lookups(ctx context.Context) (err error) {
	b.o.Progress(fmt.Sprintf("look-ups: filling an index with %d entries", b.o.Entries))
	dir := filepath.Join(b.dir, "lookups")
	s, err := blockstore.Create(dir, blockstore.Options{BlockSize: block.MinSize})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(), os.RemoveAll(dir)) }()
	there := make([]block.Digest, b.o.Entries)
	_, err = backUp(ctx, s, b.o.Entries, func(p []byte, i int) {
		clear(p[8:])
		binary.LittleEndian.PutUint64(p, uint64(i)+1)
	}, there)
	if err != nil {
		return err
	}
	b.o.Progress("look-ups")
	rng := rand.NewChaCha8([32]byte{9})
	const batch = 4096
	measure := func(next func(d *block.Digest), missing int) (perSecond, perCore float64, err error) {
		up, err := s.StartUpload("lookups")
		if err != nil {
			return 0, 0, err
		}
		defer up.Abort()
		ds := make([]block.Digest, batch)
		var spent, cpu time.Duration
		count := 0
		for count == 0 || spent < 3*time.Second {
			for i := range ds {
				next(&ds[i])
			}
			start, startCPU := time.Now(), cpuTime()
			m, err := up.FindMissing(ctx, ds)
			spent += time.Since(start)
			cpu += cpuTime() - startCPU
			if err != nil {
				return 0, 0, err
			}
			if len(m) != missing {
				return 0, 0, fmt.Errorf("look-ups found %d of %d digests missing, must be %d", len(m), batch, missing)
			}
			count += batch
		}
		return float64(count) / spent.Seconds(), float64(count) / cpu.Seconds(), nil
	}
	rate, core, err := measure(func(d *block.Digest) { rng.Read(d[:]) }, batch)
	if err != nil {
		return err
	}
	b.rep.add("look-up absent", fmt.Sprintf("%d entries, wall clock", b.o.Entries), rate, "1/s")
	b.rep.add("look-up absent", "per second of one core", core, "1/s").atLeast(150_000, "150 000")
	if rate, core, err = measure(func(d *block.Digest) { *d = there[rng.Uint64()%uint64(len(there))] }, 0); err != nil {
		return err
	}
	b.rep.add("look-up present", fmt.Sprintf("%d entries, wall clock", b.o.Entries), rate, "1/s")
	b.rep.add("look-up present", "per second of one core", core, "1/s")
	return nil
}

// cpuTime is what this process has used of all cores.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
