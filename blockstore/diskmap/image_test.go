package diskmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"cairn/blockstore/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store cuts disk into blocks and maps it.
func store(t interface{ Fatal(...any) }, mem *memory, disk []byte) Map {
	var es []edit
	for i := 0; i*testBlock < len(disk); i++ {
		b := make([]byte, testBlock)
		copy(b, disk[i*testBlock:])
		es = append(es, edit{uint64(i), 1, mem.put(b)})
	}
	return build(t, mem, int64(len(disk)), nil, es)
}

// randomDisk has n blocks of data, of which no two are equal.
func randomDisk(n int) []byte {
	disk := make([]byte, n*testBlock)
	rng := rand.NewChaCha8([32]byte{7})
	_, _ = rng.Read(disk)
	return disk
}

// patchy draws a disk of data and holes.
func patchy() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		blocks := rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(250, 300)).Draw(t, "blocks")
		disk := make([]byte, max(0, blocks*testBlock-rapid.IntRange(0, testBlock-1).Draw(t, "short")))
		for pos := 0; pos < len(disk); {
			n := rapid.OneOf(rapid.IntRange(1, 3), rapid.IntRange(1, 300)).Draw(t, "run") * testBlock
			if rapid.Bool().Draw(t, "data") {
				for i := pos; i < min(pos+n, len(disk)); i += testBlock / 2 {
					disk[i] = byte(1 + i/testBlock%5)
				}
			}
			pos += n
		}
		return disk
	})
}

func TestImageReadsTheDisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := patchy().Draw(t, "disk")
		mem := newMemory()
		im := NewImage(mem, store(t, mem, disk), ImageOptions{
			PageCache:  rapid.SampledFrom([]int64{0, 1, 2 * PageSize}).Draw(t, "page cache"),
			BlockCache: rapid.SampledFrom([]int64{-1, 0, 3 * testBlock}).Draw(t, "block cache"),
			ReadAhead:  rapid.SampledFrom([]int64{0, 0, 1 << 20}).Draw(t, "read ahead"),
		})
		defer im.Close()
		if im.Size() != int64(len(disk)) {
			t.Fatalf("size %d, want %d", im.Size(), len(disk))
		}
		for range 10 {
			off := rapid.Int64Range(-1, int64(len(disk))+1).Draw(t, "offset")
			want := make([]byte, rapid.OneOf(rapid.IntRange(0, 3*testBlock), rapid.IntRange(0, 300*testBlock)).Draw(t, "length"))
			got := bytes.Repeat([]byte{0xee}, len(want))
			n, err := im.ReadAt(got, off)
			if off < 0 {
				if n != 0 || err == nil {
					t.Fatalf("read at %d: %d, %v", off, n, err)
				}
				continue
			}
			wantN, wantErr := bytes.NewReader(disk).ReadAt(want, off)
			if n != wantN || err != wantErr || !bytes.Equal(got[:n], want[:n]) {
				t.Fatalf("read of %d at %d: %d, %v; want %d, %v", len(want), off, n, err, wantN, wantErr)
			}
		}
	})
}

func TestImageIsAReader(t *testing.T) {
	disk := randomDisk(2)[:testBlock+77] // few, for it reads byte by byte too
	mem := newMemory()
	im := NewImage(mem, store(t, mem, disk), ImageOptions{ReadAhead: 1 << 20})
	defer im.Close()
	if err := iotest.TestReader(io.NewSectionReader(im, 0, im.Size()), disk); err != nil {
		t.Error(err)
	}
}

func TestImageExtents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := patchy().Draw(t, "disk")
		mem := newMemory()
		im := NewImage(mem, store(t, mem, disk), ImageOptions{})
		start := int64(0)
		if len(disk) > 0 {
			start = rapid.Int64Range(0, int64(len(disk)-1)).Draw(t, "start")
		}
		last, calls := false, 0
		for off := start; ; calls++ {
			data, n, err := im.Extent(context.Background(), off)
			if off >= int64(len(disk)) {
				if err != io.EOF {
					t.Fatalf("extent at the end: %v", err)
				}
				break
			}
			if err != nil || n <= 0 || n > int64(len(disk))-off || (off+n)%testBlock != 0 && off+n != int64(len(disk)) {
				t.Fatalf("extent at %d of %d: %d bytes, %v", off, len(disk), n, err)
			}
			if calls > 0 && data == last {
				t.Fatalf("a second extent of the same kind at %d of so small a disk", off)
			}
			for pos := off &^ (testBlock - 1); pos < off+n; pos += testBlock {
				if got := !block.IsZero(disk[pos:min(pos+testBlock, int64(len(disk)))]); got != data {
					t.Fatalf("extent at %d, %d bytes: data %t; block at %d: %t", off, n, data, pos, got)
				}
			}
			off, last = off+n, data
		}
		if _, _, err := im.Extent(context.Background(), -1); err == nil || err == io.EOF {
			t.Fatalf("extent at -1: %v", err)
		}
	})
}

// TestExtentIsBounded: holes are skipped at any size; a long run of data costs
// a bounded number of pages per call.
func TestExtentIsBounded(t *testing.T) {
	const first, leaves = 1 << 30, 600
	mem := newMemory()
	var es []edit
	for i := range uint64(leaves) {
		es = append(es, edit{first + i*Fanout, Fanout, block.Sum([]byte{byte(i), byte(i >> 8)})})
	}
	m := build(t, mem, 1<<40*testBlock, nil, es)
	im := NewImage(mem, m, ImageOptions{})
	off := int64(0)
	for i, want := range []struct {
		data   bool
		blocks int64
		read   int
	}{
		{false, first, 5}, // the path to the data behind it
		{true, extentPages * Fanout, extentPages - 1},
		{true, extentPages * Fanout, 1 + extentPages},
		{true, (leaves - 2*extentPages) * Fanout, 1 + leaves - 2*extentPages},
		{false, 1<<40 - first - leaves*Fanout, 0},
	} {
		mem.since()
		data, n, err := im.Extent(context.Background(), off)
		if got := mem.since(); err != nil || data != want.data || n != want.blocks*testBlock || got.read != want.read {
			t.Errorf("extent %d: data %t, %d blocks, %+v, %v; want %+v", i, data, n/testBlock, got, err, want)
		}
		off += n
	}
	if off != m.Size {
		t.Errorf("extents end at %d of %d", off, m.Size)
	}
}

func TestImageBatches(t *testing.T) {
	disk := randomDisk(700)
	mem := newMemory()
	m := store(t, mem, disk)
	p := make([]byte, len(disk))
	for _, c := range []struct {
		off, n int
		want   counts
	}{
		{0, 1, counts{3, 3, 0}},                                 // root, leaf, block
		{testBlock - 1, 2, counts{3, 4, 0}},                     // both blocks at once
		{100 * testBlock, 200 * testBlock, counts{3, 203, 0}},   // two leaves at once, 200 blocks at once
		{0, 700 * testBlock, counts{2 + 1 + 1 + 1 + 1, 704, 0}}, // 3 batches of 4 MiB, 3 leaves
	} {
		im := NewImage(mem, m, ImageOptions{})
		mem.since()
		if _, err := im.ReadAt(p[:c.n], int64(c.off)); err != nil {
			t.Fatal(err)
		}
		got := mem.since()
		if c.n > batchBytes {
			c.want.calls = got.calls // leaves come as they are met
			if got.calls > 8 {
				t.Errorf("read of %d bytes took %d calls", c.n, got.calls)
			}
		}
		if got != c.want || !bytes.Equal(p[:c.n], disk[c.off:c.off+c.n]) {
			t.Errorf("read of %d at %d took %+v, want %+v", c.n, c.off, got, c.want)
		}
		if _, err := im.ReadAt(p[:1], int64(c.off)); err != nil {
			t.Fatal(err)
		}
		if got := mem.since(); got != (counts{}) {
			t.Errorf("read again: took %+v", got)
		}
	}
}

func TestImageCacheIsBounded(t *testing.T) {
	disk := randomDisk(300)
	mem := newMemory()
	im := NewImage(mem, store(t, mem, disk), ImageOptions{BlockCache: 5 * testBlock, PageCache: PageSize})
	p := make([]byte, 3*testBlock)
	for i := range 290 {
		if _, err := im.ReadAt(p, int64(i)*testBlock+1); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*cache{im.blocks, im.pages} {
			if c.size > c.limit || len(c.blocks) != c.lru.Len() || c.size > 0 && c.size/int64(c.lru.Len()) > testBlock {
				t.Fatalf("cache holds %d bytes, %d blocks, %d in its list", c.size, len(c.blocks), c.lru.Len())
			}
		}
	}
}

// TestImageKeepsWhatIsUsed: a block that is read again and again stays, however
// many others pass through the cache.
func TestImageKeepsWhatIsUsed(t *testing.T) {
	disk := randomDisk(100)
	mem := newMemory()
	im := NewImage(mem, store(t, mem, disk), ImageOptions{BlockCache: 3 * testBlock})
	mem.since()
	p := make([]byte, 1)
	for i := range int64(100) {
		for _, off := range []int64{0, i * testBlock} {
			if _, err := im.ReadAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := mem.since(); got.read != 1+100 {
		t.Errorf("took %+v", got)
	}
}

func TestImageConcurrentReads(t *testing.T) {
	disk := randomDisk(300)
	clear(disk[100*testBlock : 110*testBlock])
	mem := newMemory()
	im := NewImage(mem, store(t, mem, disk), ImageOptions{BlockCache: 20 * testBlock, ReadAhead: 1 << 20})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			p := make([]byte, 4*testBlock)
			pos := 0
			for range 200 {
				off := rng.IntN(len(disk) - len(p))
				if g%2 == 0 { // a sequential reader
					off = pos % (len(disk) - len(p))
					pos += len(p)
				}
				n := 1 + rng.IntN(len(p))
				if _, err := im.ReadAt(p[:n], int64(off)); err != nil || !bytes.Equal(p[:n], disk[off:off+n]) {
					t.Errorf("read of %d at %d: wrong bytes or %v", n, off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	im.Close()
}

// TestImageFetchesOnce: readers of one block wait for one fetch; when it fails
// because its reader gave up, the others still get their bytes.
func TestImageFetchesOnce(t *testing.T) {
	for _, giveUp := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			disk := randomDisk(3)
			mem := newMemory()
			im := NewImage(mem, store(t, mem, disk), ImageOptions{})
			if _, err := im.ReadAt(make([]byte, 1), 2*testBlock); err != nil { // its page
				t.Fatal(err)
			}
			mem.onRead = func(ctx context.Context, _ []block.Digest) error {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
				return ctx.Err()
			}
			mem.since()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			first := make(chan error, 1)
			go func() {
				_, err := im.ReadAtContext(ctx, make([]byte, 2*testBlock), 0)
				first <- err
			}()
			synctest.Wait()
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					p := make([]byte, 4096)
					if _, err := im.ReadAt(p, 8192); err != nil || !bytes.Equal(p, disk[8192:][:4096]) {
						t.Error("wrong bytes, or", err)
					}
				})
			}
			synctest.Wait()
			impatient, stop := context.WithTimeout(context.Background(), time.Millisecond)
			defer stop()
			if _, err := im.ReadAtContext(impatient, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("impatient reader: %v", err)
			}
			if giveUp {
				cancel()
			}
			wg.Wait()
			if err := <-first; giveUp != errors.Is(err, context.Canceled) || !giveUp && err != nil {
				t.Errorf("first reader (gives up: %t): %v", giveUp, err)
			}
			if got, want := mem.since(), map[bool]counts{false: {1, 2, 0}, true: {1, 1, 0}}[giveUp]; got != want {
				t.Errorf("first reader gives up: %t: took %+v, want %+v", giveUp, got, want)
			}
		})
	}
}

func TestImageErrors(t *testing.T) {
	disk := randomDisk(600)
	mem := newMemory()
	m := store(t, mem, disk)
	var bad block.Digest
	err := Walk(context.Background(), mem, m, 300, 301, func(_ uint64, d block.Digest) error { bad = d; return nil })
	if err != nil {
		t.Fatal(err)
	}
	good := mem.blocks[bad]
	p := make([]byte, len(disk))
	for _, b := range [][]byte{nil, {}, good[:testBlock-1], append(bytes.Clone(good), 0), good[:PageSize]} {
		mem.blocks[bad] = b
		im := NewImage(mem, m, ImageOptions{})
		n, err := im.ReadAt(p, 0)
		if want := fmt.Sprintf("disk block 300 (%s)", bad); !errors.Is(err, block.ErrCorrupt) || !strings.Contains(err.Error(), want) || n != 256*testBlock {
			t.Errorf("block of %d bytes: read %d, %v; want %q", len(b), n, err, want)
		}
		if _, err := im.ReadAt(p[:testBlock], 299*testBlock); err != nil {
			t.Errorf("the block before it: %v", err)
		}
	}
	delete(mem.blocks, bad)
	im := NewImage(mem, m, ImageOptions{})
	if _, err := im.ReadAt(p[:1], 300*testBlock); err == nil || !strings.Contains(err.Error(), "read disk image at 4915200") {
		t.Errorf("missing block: %v", err)
	}
	mem.blocks[bad] = good
	if _, err := im.ReadAt(p[:1], 300*testBlock); err != nil {
		t.Errorf("the block is back: %v", err)
	}
}

// intoMemory is a store that puts blocks where it is told to.
type intoMemory struct{ *memory }

func (m intoMemory) ReadBlocksInto(ctx context.Context, ds []block.Digest, into [][]byte) error {
	got, err := m.ReadBlocks(ctx, ds)
	for i := range got {
		into[i] = append(into[i][:0], got[i]...)
	}
	if err != nil {
		for i := range into { // as a decoder that fails halfway
			into[i] = append(into[i][:0], "no block"...)
		}
	}
	return err
}

// TestImagesShareACache: disks of one cache, whose memory is used again and
// again, under parallel readers, random and sequential, that also give up: none
// of them ever sees bytes of another block.
func TestImagesShareACache(t *testing.T) {
	mem := newMemory()
	c := NewCache(CacheOptions{Blocks: 6 * testBlock, ReadAhead: 2 << 20})
	c.blocks.limit = 6 * testBlock // less than what is read ahead
	var images []*Image
	var disks [][]byte
	for i := range 3 {
		disk := randomDisk(400)
		for at := 0; at < len(disk); at += (i + 1) * 7 * testBlock { // else they have all in common
			disk[at] ^= byte(i)
		}
		clear(disk[100*testBlock : (101+i)*testBlock])
		im := NewImage(intoMemory{mem}, store(t, mem, disk), ImageOptions{Cache: c})
		images, disks = append(images, im), append(disks, disk)
	}
	var failing sync.Map
	mem.onRead = func(_ context.Context, ds []block.Digest) error {
		if _, ok := failing.LoadOrStore(ds[0], true); !ok && ds[0][0]&7 == 0 {
			return errors.New("not now")
		}
		return nil
	}
	var wg sync.WaitGroup
	for g := range 9 {
		wg.Go(func() {
			im, disk := images[g%3], disks[g%3]
			rng := rand.New(rand.NewPCG(uint64(g), 2))
			p := make([]byte, 5*testBlock)
			pos := 0
			for range 300 {
				off := rng.IntN(len(disk) - len(p))
				if g < 6 { // a sequential reader
					off = pos % (len(disk) - len(p))
					pos += len(p)
				}
				n := 1 + rng.IntN(len(p))
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(10) == 0 {
					cancel()
				}
				k, err := im.ReadAtContext(ctx, p[:n], int64(off))
				cancel()
				if !bytes.Equal(p[:k], disk[off:off+k]) || err == nil && k < n {
					t.Errorf("read of %d at %d: %d, %v, wrong bytes", n, off, k, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, im := range images {
		im.Close()
	}
	for d, e := range c.blocks.blocks {
		if e.pins != 0 || e.elem == nil {
			t.Errorf("block %s is still held", d)
		}
	}
	if c.blocks.size > c.blocks.limit || len(c.blocks.free) == 0 || len(c.blocks.free)*testBlock > maxFree {
		t.Errorf("the cache has %d bytes, and %d blocks to be used again", c.blocks.size, len(c.blocks.free))
	}
	if len(c.ahead.streams) != 0 {
		t.Errorf("%d streams of closed images", len(c.ahead.streams))
	}
}
