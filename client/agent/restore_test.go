package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// memory is a store of blocks, and a disk to restore to.
type memory struct {
	mu      sync.Mutex
	blocks  map[block.Digest][]byte
	disk    []byte
	written int64
}

func (m *memory) ReadBlocks(_ context.Context, ds []block.Digest) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([][]byte, len(ds))
	for i, d := range ds {
		if out[i] = m.blocks[d]; out[i] == nil {
			return nil, fmt.Errorf("no block %s", d)
		}
	}
	return out, nil
}

func (m *memory) WritePage(_ context.Context, p []byte) (block.Digest, error) { return m.add(p), nil }

func (m *memory) add(p []byte) block.Digest {
	d := block.Sum(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[d] = bytes.Clone(p)
	return d
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off+int64(len(p)) > int64(len(m.disk)) {
		return 0, fmt.Errorf("write of %d bytes at %d, disk has %d", len(p), off, len(m.disk))
	}
	m.written += int64(len(p))
	return copy(m.disk[off:], p), nil
}

// A restored disk has every byte, to the end of a last block that is not whole,
// and zeros are not written.
func TestRestoreDisk(t *testing.T) {
	const bs = 16 << 10
	ctx := context.Background()
	for _, size := range []int64{0, 1, bs, 700*bs + 123} {
		rng := rand.New(rand.NewPCG(1, uint64(size)))
		m := &memory{blocks: map[block.Digest][]byte{}, disk: make([]byte, size)}
		want := make([]byte, (size+bs-1)/bs*bs)
		b, err := diskmap.NewBuilder(size, bs, nil, nil, m)
		if err != nil {
			t.Fatal(err)
		}
		var data int64
		for i := uint64(0); i < uint64(len(want)/bs); i++ {
			if rng.IntN(3) == 0 {
				continue // zeros
			}
			p := want[i*bs : (i+1)*bs]
			for j := range p {
				p[j] = byte(rng.Uint32())
			}
			end := min(int64(i+1)*bs, size)
			clear(want[end:]) // padding
			data += end - int64(i)*bs
			if err := b.Set(ctx, i, m.add(p)); err != nil {
				t.Fatal(err)
			}
		}
		dm, err := b.Finish(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var told int64
		err = RestoreDisk(ctx, m, dm, m, func(n int64) { mu.Lock(); told += n; mu.Unlock() })
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.disk, want[:size]) {
			t.Errorf("a disk of %d bytes came back with others", size)
		}
		if m.written != data || told != data {
			t.Errorf("%d bytes of data: wrote %d, told %d", data, m.written, told)
		}
	}
}

// What cannot be read stops the restore with the reason.
func TestRestoreDiskStops(t *testing.T) {
	const bs = 16 << 10
	ctx := context.Background()
	m := &memory{blocks: map[block.Digest][]byte{}, disk: make([]byte, 4*bs)}
	b, err := diskmap.NewBuilder(4*bs, bs, nil, nil, m)
	if err != nil {
		t.Fatal(err)
	}
	lost := block.Sum([]byte("lost"))
	if err := errors.Join(b.Set(ctx, 0, m.add(bytes.Repeat([]byte{1}, bs))), b.Set(ctx, 2, lost)); err != nil {
		t.Fatal(err)
	}
	dm, err := b.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := RestoreDisk(ctx, m, dm, m, nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte(lost.String())) {
		t.Errorf("a lost block: %v", err)
	}
	short := m.add(bytes.Repeat([]byte{2}, bs/2)) // a block that is not as long as it must be
	if b, err = diskmap.NewBuilder(4*bs, bs, nil, nil, m); err != nil {
		t.Fatal(err)
	}
	if err := b.Set(ctx, 1, short); err != nil {
		t.Fatal(err)
	}
	if dm, err = b.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	if err := RestoreDisk(ctx, m, dm, m, nil); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("a short block: %v", err)
	}
}
