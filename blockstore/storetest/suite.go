package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// Run tests an implementation. open makes an empty vault for each test and
// cleans up after itself with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Target) {
	for name, test := range map[string]func(*testing.T, Target, *rand.Rand){
		"RoundTrip":         testRoundTrip,
		"FindMissing":       testFindMissing,
		"OddDisks":          testOddDisks,
		"OverBase":          testOverBase,
		"RefusedBlocks":     testRefusedBlocks,
		"DanglingMap":       testDanglingMap,
		"ClosedUpload":      testClosedUpload,
		"ReadErrors":        testReadErrors,
		"DeletePoint":       testDeletePoint,
		"Cancelled":         testCancelled,
		"ConcurrentUploads": testConcurrentUploads,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t), Rand(t)) })
	}
}

// Rand is a source of randomness whose seed is printed when the test fails, and
// taken from CAIRN_TEST_SEED if that is set.
func Rand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CAIRN_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatalf("CAIRN_TEST_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("CAIRN_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// must is for what has to succeed.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

// putMissing asks and sends, in batches, what a client does.
func putMissing(ctx context.Context, u Upload, rng *rand.Rand, plain [][]byte) (sent int, err error) {
	var ds []block.Digest
	var ps [][]byte
	for _, p := range plain {
		if d := Digest(p); d != block.Zero {
			ds, ps = append(ds, d), append(ps, p)
		}
	}
	missing, err := u.FindMissing(ctx, ds)
	if err != nil {
		return 0, err
	}
	var waits []func() error
	for batch := range slices.Chunk(missing, 8) {
		var bs []blockstore.Block
		for _, i := range batch {
			bs = append(bs, Encode(rng, ps[i])...)
		}
		wait, err := u.Put(ctx, bs)
		if err != nil {
			return 0, err
		}
		waits = append(waits, wait)
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			return 0, err
		}
	}
	return len(missing), nil
}

// backup makes a point of disks with whole contents.
func backup(ctx context.Context, tg Target, rng *rand.Rand, contents map[string][][]byte, sizes []Disk) (string, error) {
	u, err := tg.StartUpload(ctx, sizes, "")
	if err != nil {
		return "", err
	}
	for _, d := range sizes {
		if _, err := putMissing(ctx, u, rng, contents[d.Name]); err != nil {
			return "", fmt.Errorf("disk %s: %w", d.Name, err)
		}
		if _, err := u.WriteMap(ctx, d.Name, false, []Extent{{0, Digests(contents[d.Name])}}); err != nil {
			return "", fmt.Errorf("map of %s: %w", d.Name, err)
		}
	}
	return u.Commit(ctx)
}

type pointBlocks struct {
	tg    Target
	point string
}

func (r pointBlocks) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	return r.tg.ReadBlocks(ctx, r.point, ds)
}

// checkDisk compares a disk of a point with what it should hold.
func checkDisk(ctx context.Context, tg Target, point string, i int, size int64, want [][]byte) error {
	disks, err := tg.Disks(ctx, point)
	if err != nil {
		return err
	}
	if i >= len(disks) || disks[i].Map.Size != size {
		return fmt.Errorf("point %s: disks %v, want one of %d bytes at %d", point, disks, size, i)
	}
	r := pointBlocks{tg, point}
	got := make([][]byte, len(want))
	err = diskmap.Walk(ctx, r, disks[i].Map, 0, uint64(len(want)), func(n uint64, d block.Digest) error {
		b, err := r.ReadBlocks(ctx, []block.Digest{d})
		if err == nil {
			got[n] = b[0]
		}
		return err
	})
	if err != nil {
		return err
	}
	for n := range want {
		if got[n] == nil {
			got[n] = make([]byte, tg.BlockSize())
		}
		if !bytes.Equal(got[n], want[n]) {
			return fmt.Errorf("point %s, disk %d: block %d differs", point, i, n)
		}
	}
	return nil
}

func testRoundTrip(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	contents := map[string][][]byte{"vda": Blocks(rng, 300, size), "vdb": Blocks(rng, 3, size)}
	disks := []Disk{{"vda", 300 * int64(size)}, {"vdb", 3 * int64(size)}}
	var points []string
	for range 2 { // the second time nothing is new
		points = append(points, must(backup(ctx, tg, rng, contents, disks))(t))
	}
	for _, p := range points {
		for i, d := range disks {
			if err := checkDisk(ctx, tg, p, i, d.Size, contents[d.Name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, b := must(tg.Disks(ctx, points[0]))(t), must(tg.Disks(ctx, points[1]))(t)
	if !slices.Equal(a, b) {
		t.Errorf("same content, different maps: %v, %v", a, b)
	}
	// An image of it all, in one read.
	img := diskmap.NewImage(pointBlocks{tg, points[0]}, a[0].Map, diskmap.ImageOptions{})
	got := must(io.ReadAll(io.NewSectionReader(img, 0, a[0].Map.Size)))(t)
	if !bytes.Equal(got, bytes.Join(contents["vda"], nil)) {
		t.Error("image differs")
	}
}

func testFindMissing(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	u := must(tg.StartUpload(ctx, nil, ""))(t)
	var plain [][]byte
	for range 30 {
		plain = append(plain, Block(rng, tg.BlockSize()))
	}
	ds := Digests(plain)
	check := func(u Upload, ds []block.Digest, want ...int) {
		t.Helper()
		if got := must(u.FindMissing(ctx, ds))(t); !slices.Equal(got, want) {
			t.Errorf("missing %v, want %v", got, want)
		}
	}
	check(u, nil)
	check(u, ds[:3], 0, 1, 2)
	check(u, []block.Digest{ds[1], ds[0], ds[1]}, 0, 1, 2) // any order, repeated
	// Twice the same block in one batch, and an empty batch.
	for _, bs := range [][]blockstore.Block{Encode(rng, plain[1], plain[3], plain[1]), nil} {
		if err := must(u.Put(ctx, bs))(t)(); err != nil {
			t.Fatal(err)
		}
	}
	check(u, ds[:5], 0, 2, 4)
	other := must(tg.StartUpload(ctx, nil, ""))(t)
	check(other, ds[:5], 0, 2, 4)
	if n := must(putMissing(ctx, other, rng, plain))(t); n != 28 {
		t.Errorf("%d blocks sent, want 28", n)
	}
	check(u, ds)
	_, err := u.FindMissing(ctx, []block.Digest{ds[0], block.Zero})
	wantError(t, "find missing zero", err, blockstore.ErrZeroBlock)
}

func testOddDisks(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	tail := Block(rng, size)
	clear(tail[100:]) // the disk ends after 100 bytes of its last block
	contents := map[string][][]byte{
		"partial": {make([]byte, size), tail},
		"zeros":   {make([]byte, size), make([]byte, size), make([]byte, size)},
		"empty":   {},
		"same":    slices.Repeat([][]byte{Block(rng, size)}, 1000),
	}
	disks := []Disk{{"partial", int64(size) + 100}, {"zeros", 3 * int64(size)}, {"empty", 0}, {"same", 1000 * int64(size)}}
	p := must(backup(ctx, tg, rng, contents, disks))(t)
	for i, d := range disks {
		if err := checkDisk(ctx, tg, p, i, d.Size, contents[d.Name]); err != nil {
			t.Error(err)
		}
	}
	got := must(tg.Disks(ctx, p))(t)
	for i, zero := range []bool{false, true, true, false} {
		if (got[i].Map.Root == block.Zero) != zero {
			t.Errorf("disk %s has root %s", disks[i].Name, got[i].Map.Root)
		}
	}
}

func testOverBase(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	const n = 300
	disks := []Disk{{"vda", n * int64(size)}}
	content := Blocks(rng, n, size)
	base := must(backup(ctx, tg, rng, map[string][][]byte{"vda": content}, disks))(t)
	for range 4 {
		u := must(tg.StartUpload(ctx, disks, base))(t)
		changed := slices.Clone(content)
		var runs []Extent
		for _, i := range []int{rng.IntN(100), 100 + rng.IntN(100), n - 1} {
			changed[i] = Blocks(rng, 1, size)[0]
			runs = append(runs, Extent{uint64(i), Digests(changed[i : i+1])})
			must(putMissing(ctx, u, rng, changed[i:i+1]))(t)
		}
		over := must(u.WriteMap(ctx, "vda", true, runs))(t)
		// Who knows no base and gives everything gets the same map.
		if whole := must(u.WriteMap(ctx, "vda", false, []Extent{{0, Digests(changed)}}))(t); whole != over {
			t.Errorf("over the base: %v, from nothing: %v", over, whole)
		}
		// The base may go while the upload builds on it.
		if rng.IntN(2) == 0 {
			if err := tg.DeletePoint(ctx, base); err != nil {
				t.Fatal(err)
			}
		}
		base, content = must(u.Commit(ctx))(t), changed
		if err := checkDisk(ctx, tg, base, 0, disks[0].Size, content); err != nil {
			t.Fatal(err)
		}
	}
	_, err := tg.StartUpload(ctx, disks, "no-such-point")
	wantError(t, "upload over a missing base", err, blockstore.ErrNotFound)
}

func testRefusedBlocks(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	good := Block(rng, size)
	encode := func(p []byte) []byte { return block.Encode(nil, p, block.None) }
	flipped := encode(good)
	flipped[len(flipped)-1] ^= 1
	zero := make([]byte, size)
	for _, c := range []struct {
		name string
		b    blockstore.Block
		want error
	}{
		{"other digest", blockstore.Block{Digest: block.Sum([]byte("x")), Stored: encode(good)}, blockstore.ErrDigestMismatch},
		{"flipped bit", blockstore.Block{Digest: block.Sum(good), Stored: flipped}, blockstore.ErrDigestMismatch},
		{"cut short", blockstore.Block{Digest: block.Sum(good), Stored: encode(good)[:size/2]}, blockstore.ErrDigestMismatch},
		{"nothing", blockstore.Block{Digest: block.Sum(good)}, blockstore.ErrDigestMismatch},
		{"unknown codec", blockstore.Block{Digest: block.Sum(good), Stored: append([]byte{99}, encode(good)[1:]...)}, blockstore.ErrDigestMismatch},
		{"zeros", blockstore.Block{Digest: block.Sum(zero), Stored: encode(zero)}, blockstore.ErrZeroBlock},
		{"zero digest", blockstore.Block{Stored: encode(good)}, blockstore.ErrZeroBlock},
		{"too short", blockstore.Block{Digest: block.Sum(good[:size-1]), Stored: encode(good[:size-1])}, blockstore.ErrBlockSize},
		{"one byte more", blockstore.Block{Digest: block.Sum(append(good, 1)), Stored: encode(append(good, 1))}, blockstore.ErrBlockSize},
	} {
		// A stream may be over after an error, so each has an upload of its own.
		u := must(tg.StartUpload(ctx, nil, ""))(t)
		with := Block(rng, size)
		wait, err := u.Put(ctx, append(Encode(rng, with), c.b))
		if err == nil {
			err = wait()
		}
		wantError(t, c.name, err, c.want)
		// Nothing of a refused batch is kept.
		if missing := must(u.FindMissing(ctx, []block.Digest{block.Sum(with), block.Sum(good)}))(t); len(missing) != 2 {
			t.Errorf("%s: stored all the same: missing %v", c.name, missing)
		}
		if err := u.Abort(ctx); err != nil {
			t.Error(err)
		}
	}
}

func testDanglingMap(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	disks := []Disk{{"vda", 2 * int64(size)}}
	u := must(tg.StartUpload(ctx, disks, ""))(t)
	plain := [][]byte{Block(rng, size), Block(rng, size)}
	must(putMissing(ctx, u, rng, plain[:1]))(t)
	_, err := u.WriteMap(ctx, "vda", false, []Extent{{0, Digests(plain)}})
	wantError(t, "map with a block that was never sent", err, blockstore.ErrBlockMissing)
	if p, err := u.Commit(ctx); err == nil {
		t.Errorf("commit without a map: got point %s", p)
	}
	// It can be made good.
	must(putMissing(ctx, u, rng, plain))(t)
	must(u.WriteMap(ctx, "vda", false, []Extent{{0, Digests(plain)}}))(t)
	p := must(u.Commit(ctx))(t)
	if err := checkDisk(ctx, tg, p, 0, disks[0].Size, plain); err != nil {
		t.Error(err)
	}
}

func testClosedUpload(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	b := Encode(rng, Block(rng, tg.BlockSize()))
	for _, how := range []string{"abort", "commit"} {
		u := must(tg.StartUpload(ctx, []Disk{{"vda", 0}}, ""))(t)
		must(u.WriteMap(ctx, "vda", false, nil))(t)
		if how == "abort" {
			if err := u.Abort(ctx); err != nil {
				t.Fatal(err)
			}
			_, err := u.Commit(ctx)
			wantError(t, "commit after abort", err, blockstore.ErrUploadClosed)
		} else {
			must(u.Commit(ctx))(t)
		}
		wait, err := u.Put(ctx, b)
		if err == nil {
			err = wait()
		}
		wantError(t, "put after "+how, err, blockstore.ErrUploadClosed)
		_, err = u.FindMissing(ctx, []block.Digest{b[0].Digest})
		wantError(t, "find missing after "+how, err, blockstore.ErrUploadClosed)
		_, err = u.WriteMap(ctx, "vda", false, nil)
		_ = err // an empty map writes no page: it need not notice
	}
}

func testReadErrors(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	plain := [][]byte{Block(rng, size)}
	p := must(backup(ctx, tg, rng, map[string][][]byte{"vda": plain}, []Disk{{"vda", int64(size)}}))(t)
	d := block.Sum(plain[0])
	_, err := tg.ReadBlocks(ctx, p, []block.Digest{d, block.Sum([]byte("absent"))})
	wantError(t, "read an absent block", err, blockstore.ErrBlockMissing)
	_, err = tg.ReadBlocks(ctx, p, []block.Digest{d, block.Zero})
	wantError(t, "read the zero block", err, blockstore.ErrZeroBlock)
	if got := must(tg.ReadBlocks(ctx, p, nil))(t); len(got) != 0 {
		t.Errorf("read nothing: got %d blocks", len(got))
	}
	got := must(tg.ReadBlocks(ctx, p, []block.Digest{d, d}))(t)
	if len(got) != 2 || !bytes.Equal(got[0], plain[0]) || !bytes.Equal(got[1], plain[0]) {
		t.Error("read a block twice: wrong bytes")
	}
	_, err = tg.Disks(ctx, "no-such-point")
	wantError(t, "disks of no point", err, blockstore.ErrNotFound)
}

func testDeletePoint(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	plain := Blocks(rng, 10, size)
	disks := []Disk{{"vda", 10 * int64(size)}}
	a := must(backup(ctx, tg, rng, map[string][][]byte{"vda": plain}, disks))(t)
	b := must(backup(ctx, tg, rng, map[string][][]byte{"vda": plain}, disks))(t)
	if err := tg.DeletePoint(ctx, a); err != nil {
		t.Fatal(err)
	}
	_, err := tg.Disks(ctx, a)
	wantError(t, "disks of a deleted point", err, blockstore.ErrNotFound)
	wantError(t, "delete again", tg.DeletePoint(ctx, a), blockstore.ErrNotFound)
	if err := checkDisk(ctx, tg, b, 0, disks[0].Size, plain); err != nil {
		t.Error(err)
	}
}

func testCancelled(t *testing.T, tg Target, rng *rand.Rand) {
	size := tg.BlockSize()
	u := must(tg.StartUpload(t.Context(), []Disk{{"vda", int64(size)}}, ""))(t)
	plain := [][]byte{Block(rng, size)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := u.FindMissing(ctx, Digests(plain))
	wantError(t, "find missing", err, context.Canceled)
	// A fresh context, and all is well.
	ctx = t.Context()
	must(putMissing(ctx, u, rng, plain))(t)
	must(u.WriteMap(ctx, "vda", false, []Extent{{0, Digests(plain)}}))(t)
	p := must(u.Commit(ctx))(t)
	if err := checkDisk(ctx, tg, p, 0, int64(size), plain); err != nil {
		t.Error(err)
	}
}

func testConcurrentUploads(t *testing.T, tg Target, rng *rand.Rand) {
	ctx := t.Context()
	size := tg.BlockSize()
	const n = 60
	pool := make([][]byte, 80)
	for i := range pool {
		pool[i] = Block(rng, size)
	}
	var wg sync.WaitGroup
	for w := range 6 {
		rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(w)))
		wg.Go(func() {
			disks := []Disk{{"vda", n * int64(size)}}
			for range 3 {
				content := make([][]byte, n)
				for i := range content {
					content[i] = pool[rng.IntN(len(pool))]
				}
				p, err := backup(ctx, tg, rng, map[string][][]byte{"vda": content}, disks)
				if err == nil {
					err = checkDisk(ctx, tg, p, 0, disks[0].Size, content)
				}
				if err == nil && rng.IntN(2) == 0 {
					err = tg.DeletePoint(ctx, p)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
