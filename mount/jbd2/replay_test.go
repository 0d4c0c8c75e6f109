package jbd2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

const volumeBlocks = 120

func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func load(t testing.TB, image []byte) *Log {
	t.Helper()
	l, err := Load(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// expect compares the overlay over a random volume with the model after n
// transactions, in whole and in pieces.
func expect(t testing.TB, w *writer, l *Log, n int) {
	t.Helper()
	bs := w.blockSize
	base := randomBytes(w.rng, volumeBlocks*bs)
	want := bytes.Clone(base)
	blocks := w.replayed(n)
	for b, data := range blocks {
		copy(want[int(b)*bs:], data)
	}
	r := l.Report()
	if r.Transactions != n || r.Blocks != len(blocks) {
		t.Fatalf("replayed %d transactions of %d blocks, want %d of %d: %s", r.Transactions, r.Blocks, n, len(blocks), r)
	}
	if n > 0 && (r.First != w.sequence || r.Last != w.sequence+uint32(n)-1) {
		t.Fatalf("transactions %d to %d, want %d and %d more", r.First, r.Last, w.sequence, n-1)
	}
	o := l.Overlay(bytes.NewReader(base))
	got := make([]byte, len(base))
	if _, err := o.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := range volumeBlocks {
			if !bytes.Equal(got[i*bs:(i+1)*bs], want[i*bs:(i+1)*bs]) {
				t.Fatalf("block %d is wrong (%s)", i, r)
			}
		}
	}
	for range 30 {
		off := w.rng.IntN(len(base))
		size := 1 + w.rng.IntN(5*bs)
		p := make([]byte, size)
		n, err := o.ReadAt(p, int64(off))
		left := min(size, len(base)-off)
		if n != left || (err == nil) != (n == size) || n < size && err != io.EOF {
			t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", size, off, n, err)
		}
		if !bytes.Equal(p[:n], want[off:off+n]) {
			t.Fatalf("ReadAt(%d bytes, %d) is wrong", size, off)
		}
	}
}

// formats are the combinations that a log can have.
func formats() []format {
	var out []format
	for _, bs := range []int{1024, 4096} {
		for _, sum := range []int{0, 1, 2, 3} {
			for i := range 8 {
				if bs > 1024 && i != 0 && i != 7 {
					continue
				}
				out = append(out, format{
					blockSize: bs, version: 2, checksum: sum,
					wide: i&1 != 0, async: i&2 != 0, uuids: i&4 != 0,
					first: 1, start: 1, maxLen: 200, sequence: 7,
				})
			}
		}
		out = append(out, format{blockSize: bs, version: 1, first: 1, start: 1, maxLen: 200, sequence: 7})
	}
	return out
}

func (f format) String() string {
	return fmt.Sprintf("bs=%d,sb=v%d,csum=v%d,64bit=%t,async=%t,uuids=%t", f.blockSize, f.version, f.checksum, f.wide, f.async, f.uuids)
}

// TestReplay: random logs of every format, that wrap around the ring and around
// the sequence numbers.
func TestReplay(t *testing.T) {
	rng := seeded(t)
	for _, f := range formats() {
		t.Run(f.String(), func(t *testing.T) {
			for i := range 6 {
				f := f
				f.first = 1 + rng.Uint32N(4)
				f.maxLen = f.first + 60 + rng.Uint32N(100)
				f.start = f.first + rng.Uint32N(f.maxLen-f.first)
				f.sequence = []uint32{1, rng.Uint32(), 0, 1<<32 - 3, 1<<31 - 2, 1<<32 - 1}[i]
				w := newWriter(f, rng)
				n := w.fill(f.maxLen-f.first, volumeBlocks, true)
				expect(t, w, load(t, w.image), n)
			}
		})
	}
}

// TestCutOff: a log of which only the first blocks reached the disk, for each
// number of blocks and over each kind of leftover, holds the transactions whose
// commit record is among them.
func TestCutOff(t *testing.T) {
	rng := seeded(t)
	for _, f := range formats() {
		if f.async || f.uuids || f.blockSize > 1024 {
			continue
		}
		t.Run(f.String(), func(t *testing.T) {
			f.maxLen = 90
			f.start = 60 // wraps
			// What was in the ring before: an older log, with lower numbers.
			old := newWriter(f, rng)
			old.sequence, old.tid = 3, 3
			old.fill(f.maxLen-f.first, volumeBlocks, true)
			f.sequence = 1000
			w := newWriter(f, rng)
			w.uuid = old.uuid
			w.superblock()
			w.fill(f.maxLen-f.first, volumeBlocks, true)
			full := w.image
			leftover := []func(at uint32, to []byte){
				func(_ uint32, to []byte) { clear(to) },
				func(_ uint32, to []byte) { copy(to, randomBytes(rng, len(to))) },
				func(at uint32, to []byte) { copy(to, old.slot(at)) },
			}
			for cut := range w.at + 1 {
				for _, fill := range leftover {
					w.image = bytes.Clone(full)
					for at := cut; at < f.maxLen-f.first; at++ {
						fill(at, w.slot(at))
					}
					n := 0
					for n < len(w.commits) && w.commits[n] < cut {
						n++
					}
					expect(t, w, load(t, w.image), n)
				}
			}
		})
	}
}

// TestOneRead: what touches no logged block is one read of the volume, whatever
// its size, and nothing else of the volume is read than what is asked for.
func TestOneRead(t *testing.T) {
	w := newWriter(format{blockSize: 1024, version: 2, checksum: 3, first: 1, start: 1, maxLen: 50, sequence: 1}, seeded(t))
	w.log([]uint64{100, 102, 103}, [][]byte{randomBytes(w.rng, 1024), randomBytes(w.rng, 1024), randomBytes(w.rng, 1024)})
	w.commit()
	var reads []string
	base := readerFunc(func(p []byte, off int64) (int, error) {
		reads = append(reads, fmt.Sprintf("%d+%d", off, len(p)))
		return len(p), nil
	})
	o := load(t, w.image).Overlay(base)
	for _, c := range []struct {
		off, size int
		want      string
	}{
		{0, 100 * 1024, "[0+102400]"},
		{104 * 1024, 1 << 24, "[106496+16777216]"},
		{100 * 1024, 1024, "[]"},
		{100*1024 + 5, 100, "[]"},
		{102 * 1024, 2048, "[]"},
		{100*1024 - 1, 2 * 1024, "[102399+1 103424+1023]"},
		{99 * 1024, 6 * 1024, "[101376+1024 103424+1024 106496+1024]"},
		{7, 0, "[]"},
	} {
		reads = nil
		if n, err := o.ReadAt(make([]byte, c.size), int64(c.off)); n != c.size || err != nil {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v", c.size, c.off, n, err)
		}
		if got := fmt.Sprint(reads); c.size > 0 && got != c.want {
			t.Errorf("ReadAt(%d bytes, %d) read %s of the volume, want %s", c.size, c.off, got, c.want)
		}
	}
	if n, err := o.ReadAt(make([]byte, 1), -1); n != 0 || err == nil {
		t.Errorf("ReadAt(-1) = %d, %v", n, err)
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// TestBaseErrors: an error of the volume or of the journal is passed on, with
// the bytes before it.
func TestBaseErrors(t *testing.T) {
	w := newWriter(format{blockSize: 1024, version: 2, first: 1, start: 1, maxLen: 50, sequence: 1}, seeded(t))
	w.log([]uint64{1}, [][]byte{randomBytes(w.rng, 1024)})
	w.commit()
	broken := errors.New("broken disk")
	l := load(t, w.image)
	o := l.Overlay(readerFunc(func(p []byte, off int64) (int, error) {
		if off >= 2048 {
			return 0, broken
		}
		return len(p), nil
	}))
	p := make([]byte, 4096)
	if n, err := o.ReadAt(p, 0); n != 2048 || !errors.Is(err, broken) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	for at := range w.at + 1 { // the superblock and each record
		_, err := Load(readerFunc(func(p []byte, off int64) (int, error) {
			if off == int64(at)*1024 {
				return 0, broken
			}
			return copy(p, w.image[off:]), nil
		}), int64(len(w.image)))
		if data := at == 2; data == errors.Is(err, broken) {
			t.Errorf("journal unreadable at block %d: %v", at, err)
		}
	}
}

// TestConcurrent: many readers of one overlay.
func TestConcurrent(t *testing.T) {
	rng := seeded(t)
	w := newWriter(format{blockSize: 1024, version: 2, checksum: 3, first: 1, start: 1, maxLen: 500, sequence: 1}, rng)
	n := w.fill(400, volumeBlocks, true)
	l := load(t, w.image)
	want := make([]byte, volumeBlocks*1024)
	for b, data := range w.replayed(n) {
		copy(want[int(b)*1024:], data)
	}
	o := l.Overlay(bytes.NewReader(make([]byte, len(want))))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			p := make([]byte, 3000)
			for i := range 200 {
				off := (i*7919 + g*1013) % (len(want) - len(p))
				if _, err := o.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("read at %d is wrong (%v)", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
