package diskmap

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cairn/blockstore/block"
)

// slow is a store behind a network: a millisecond per call.
func slow(ctx context.Context, _ []block.Digest) error {
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestReadAheadHidesLatency reads a disk from beginning to end in pieces of
// 128 KiB, in fake time.
func TestReadAheadHidesLatency(t *testing.T) {
	disk := randomDisk(1024) // 16 MiB
	took := func(opts ImageOptions) (d time.Duration, c counts) {
		synctest.Test(t, func(t *testing.T) {
			mem := newMemory()
			m := store(t, mem, disk)
			im := NewImage(mem, m, opts)
			defer im.Close()
			mem.since()
			mem.onRead = slow
			start := time.Now()
			p := make([]byte, 128<<10)
			for off := 0; off < len(disk); off += len(p) {
				if _, err := im.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, disk[off:off+len(p)]) {
					t.Fatal("wrong bytes, or", err)
				}
				time.Sleep(50 * time.Microsecond) // what the reader does with it
			}
			d = time.Since(start)
			c = mem.since()
		})
		return d, c
	}
	without, c := took(ImageOptions{})
	if want := (counts{1 + 4 + 128, 1 + 4 + 1024, 0}); c != want {
		t.Errorf("without read-ahead: %+v, want %+v", c, want)
	}
	with, c := took(ImageOptions{ReadAhead: 4 << 20})
	if c.read != 1+4+1024 || c.calls > 40 {
		t.Errorf("with read-ahead: %+v", c)
	}
	if with > without/5 {
		t.Errorf("%v with read-ahead, %v without", with, without)
	}
}

// TestReadAheadOfManyReaders: they share the window and do not push each
// other's blocks out of the cache, so no block is fetched twice.
func TestReadAheadOfManyReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const part = 6 << 20 // of which each reader reads the first 4 MiB
		disk := randomDisk(6 * part / testBlock)
		mem := newMemory()
		im := NewImage(mem, store(t, mem, disk), ImageOptions{BlockCache: 1, ReadAhead: 8 << 20})
		defer im.Close()
		var mu sync.Mutex
		fetched := map[block.Digest]int{}
		mem.onRead = func(ctx context.Context, ds []block.Digest) error {
			mu.Lock()
			for _, d := range ds {
				if fetched[d]++; fetched[d] > 1 {
					t.Errorf("block %s fetched again", d)
				}
			}
			mu.Unlock()
			return slow(ctx, ds)
		}
		p := make([]byte, 64<<10)
		for off := 0; off < 4<<20; off += len(p) {
			for i := range 6 {
				at := i*part + off
				if _, err := im.ReadAt(p, int64(at)); err != nil || !bytes.Equal(p, disk[at:at+len(p)]) {
					t.Fatal("wrong bytes, or", err)
				}
			}
		}
		if c := mem.since(); c.calls > 100 {
			t.Errorf("took %+v", c)
		}
	})
}

func TestReadAheadLeavesRandomReadersAlone(t *testing.T) {
	disk := randomDisk(3000)
	mem := newMemory()
	m := store(t, mem, disk)
	im := NewImage(mem, m, ImageOptions{ReadAhead: 8 << 20})
	defer im.Close()
	mem.since()
	p := make([]byte, 4096)
	pos := int64(1)
	const reads = 200
	for range reads {
		pos = pos * 48271 % (1<<31 - 1)
		if _, err := im.ReadAt(p, pos%(im.Size()-4096)); err != nil {
			t.Fatal(err)
		}
	}
	im.ahead.wg.Wait()
	if c := mem.since(); c.read > 2*reads+1+24 { // a read may straddle two blocks
		t.Errorf("%d random reads took %+v", reads, c)
	}
}

// TestReadAheadCloses: what is under way is cancelled, nothing new begins, and
// reads still work.
func TestReadAheadCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := randomDisk(1024)
		mem := newMemory()
		im := NewImage(mem, store(t, mem, disk), ImageOptions{ReadAhead: 4 << 20})
		cancelled := 0
		mem.onRead = func(ctx context.Context, ds []block.Digest) error {
			if ctx.Done() == nil {
				return nil // a reader's own
			}
			<-ctx.Done()
			if errors.Is(context.Cause(ctx), errClosed) {
				cancelled++
			}
			return ctx.Err()
		}
		p := make([]byte, 256<<10)
		for off := range int64(2) {
			if _, err := im.ReadAt(p, off*int64(len(p))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		im.Close()
		if cancelled == 0 {
			t.Error("nothing was read ahead")
		}
		before := cancelled
		for off := range int64(20) {
			if _, err := im.ReadAt(p, off*int64(len(p))); err != nil || !bytes.Equal(p, disk[off*int64(len(p)):][:len(p)]) {
				t.Fatal("wrong bytes after Close, or", err)
			}
		}
		im.Close()
		if cancelled != before {
			t.Error("read ahead after Close")
		}
	})
}
