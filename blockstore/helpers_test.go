package blockstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// newRand prints its seed, and takes it from CAIRN_TEST_SEED if that is set.
func newRand(tb testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CAIRN_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			tb.Fatalf("CAIRN_TEST_SEED: %v", err)
		}
		seed = n
	}
	tb.Logf("CAIRN_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

const testBlock = block.MinSize

// testOptions are those of a small vault.
func testOptions(o Options) Options {
	o.BlockSize = testBlock
	return o
}

func testCreate(tb testing.TB, dir string, o Options) *Store {
	tb.Helper()
	s, err := Create(dir, testOptions(o))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func testOpen(tb testing.TB, dir string, o Options) *Store {
	tb.Helper()
	s, err := Open(dir, testOptions(o))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func testClose(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

func startUpload(tb testing.TB, s *Store, id string) *Upload {
	tb.Helper()
	u, err := s.StartUpload(id)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// testPlain is the n-th block of a kind that does not compress.
func testPlain(n int) []byte {
	p := make([]byte, testBlock)
	rng := rand.NewPCG(uint64(n), 1)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
	}
	return p
}

func testBlocks(ns ...int) []Block {
	bs := make([]Block, len(ns))
	for i, n := range ns {
		p := testPlain(n)
		bs[i] = Block{block.Sum(p), block.Encode(nil, p, block.None)}
	}
	return bs
}

func digestsOf(bs []Block) []block.Digest {
	ds := make([]block.Digest, len(bs))
	for i, b := range bs {
		ds[i] = b.Digest
	}
	return ds
}

// put stores blocks from, from+1, … to-1.
func (u *Upload) putTest(from, to int) ([]block.Digest, error) {
	var ds []block.Digest
	for n := from; n < to; n++ {
		bs := testBlocks(n)
		if _, err := u.Put(context.Background(), bs); err != nil {
			return nil, err
		}
		ds = append(ds, bs[0].Digest)
	}
	return ds, nil
}

// backupTest commits a point with one disk of blocks [from, to).
func (s *Store) backupTest(id string, from, to int, muts ...Mutation) (Point, error) {
	ctx := context.Background()
	u, err := s.StartUpload("upload of " + id)
	if err != nil {
		return Point{}, err
	}
	defer u.Abort()
	b, err := diskmap.NewBuilder(int64(to-from)*testBlock, testBlock, nil, nil, u)
	if err != nil {
		return Point{}, err
	}
	ds, err := u.putTest(from, to)
	if err != nil {
		return Point{}, err
	}
	for i, d := range ds {
		if err := b.Set(ctx, uint64(i), d); err != nil {
			return Point{}, err
		}
	}
	m, err := b.Finish(ctx)
	if err != nil {
		return Point{}, err
	}
	p := Point{ID: id, Disks: []Disk{{"vda", m}}, Meta: []byte("meta of " + id)}
	return p, u.Commit(ctx, p, muts...)
}

func testBackup(tb testing.TB, s *Store, id string, from, to int) Point {
	tb.Helper()
	p, err := s.backupTest(id, from, to)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// checkPoint verifies a point of backupTest.
func (s *Store) checkPoint(id string, from, to int) error {
	ctx := context.Background()
	p, err := s.Point(id)
	if err != nil {
		return err
	}
	n := from
	err = diskmap.Walk(ctx, s.Reader(id), p.Disks[0].Map, 0, 1<<62, func(i uint64, d block.Digest) error {
		if want := block.Sum(testPlain(from + int(i))); d != want {
			return fmt.Errorf("block %d of %s is %s, want %s", i, id, d, want)
		}
		n++
		return nil
	})
	if err == nil && n != to {
		err = fmt.Errorf("%d blocks, want %d", n-from, to-from)
	}
	r, verr := s.VerifyPoint(ctx, id, nil)
	if verr == nil && r.BadCount > 0 {
		verr = fmt.Errorf("verify %s: %+v", id, r)
	}
	return errors.Join(err, verr)
}

func wantErr(tb testing.TB, what string, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Errorf("%s: error %v, want %v", what, err, want)
	}
}
