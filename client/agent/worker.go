package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// change is one entry of a disk's map that is not as it was.
type change struct {
	index  uint64
	digest block.Digest
}

// worker takes batches through all steps, one after the other. Its buffers are
// reused from batch to batch.
type worker struct {
	t       *transfer
	pr      *progress
	disk    source.SnapshotDisk
	size    int64
	hasBase bool
	base    diskmap.Map

	plain   []byte
	stored  []byte
	digests []block.Digest
	old     []block.Digest
}

func (w *worker) run(ctx context.Context, b batch) ([]change, error) {
	bs := w.t.up.BlockSize
	n := int(b.count)
	if err := w.read(int64(b.first)*int64(bs), n*bs); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	w.digests = resize(w.digests, n)
	for i := range n {
		p := w.plain[i*bs : (i+1)*bs]
		if block.IsZero(p) {
			w.digests[i] = block.Zero
		} else {
			w.digests[i] = block.Sum(p)
		}
	}
	w.old = resize(w.old, n)
	clear(w.old) // without a base, everything was zeros
	if w.hasBase {
		err := diskmap.Walk(ctx, w.t.reader, w.base, b.first, b.first+b.count, func(i uint64, d block.Digest) error {
			w.old[i-b.first] = d
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read map of the base: %w", err)
		}
	}
	var changes []change
	var ask []block.Digest
	var at []int // where ask[i] stands in the batch
	asked := map[block.Digest]struct{}{}
	for i, d := range w.digests {
		if d == w.old[i] && !w.mustSet(b.first+uint64(i)) {
			continue
		}
		changes = append(changes, change{b.first + uint64(i), d})
		if _, twice := asked[d]; d != block.Zero && !twice {
			asked[d] = struct{}{}
			ask = append(ask, d)
			at = append(at, i)
		}
	}
	if len(ask) == 0 {
		return changes, nil
	}
	missing, err := w.t.up.FindMissing(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("find missing blocks: %w", err)
	}
	return changes, w.send(ctx, ask, at, missing)
}

// mustSet says that a block's entry is written though it is the base's: the
// last block of a disk that has another size now. How much of it is padding has
// changed, and a map's builder wants to hear that what it holds is still right.
func (w *worker) mustSet(index uint64) bool {
	bs := int64(w.t.up.BlockSize)
	return w.hasBase && w.base.Size != w.size && index == uint64((w.size-1)/bs)
}

// read fills plain with n bytes from off; behind the end of the disk are zeros.
func (w *worker) read(off int64, n int) error {
	w.plain = resize(w.plain, n)
	have := int(min(int64(n), w.size-off))
	got, err := w.disk.ReadAt(w.plain[:have], off)
	if got < have {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at offset %d: %w", have, off, err)
	}
	clear(w.plain[have:])
	w.pr.read.Add(int64(have))
	w.pr.done.Add(int64(have))
	return nil
}

// send compresses the missing blocks and sends them, a message at a time so
// that the server has work while this goes on.
func (w *worker) send(ctx context.Context, ask []block.Digest, at, missing []int) error {
	bs := w.t.up.BlockSize
	var msg []*cairnv1.Block
	w.stored = w.stored[:0]
	for _, m := range missing {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		i := at[m]
		start := len(w.stored)
		if cap(w.stored)-start < bs+64 { // the message so far points into the buffer
			if err := w.t.stream.Send(msg); err != nil {
				return fmt.Errorf("send blocks: %w", err)
			}
			msg, w.stored, start = msg[:0], w.stored[:0], 0
			if cap(w.stored) < bs+64 {
				w.stored = make([]byte, 0, max(1<<20, bs+64))
			}
		}
		w.stored = block.Encode(w.stored, w.plain[i*bs:(i+1)*bs], w.t.compression)
		msg = append(msg, &cairnv1.Block{Digest: ask[m][:], Stored: w.stored[start:len(w.stored):len(w.stored)]})
	}
	if err := w.t.stream.Send(msg); err != nil {
		return fmt.Errorf("send blocks: %w", err)
	}
	return nil
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// collector puts the workers' results back in order and into the spool.
type collector struct {
	slots chan struct{} // one is freed for every batch that left

	mu      sync.Mutex
	spool   *spool
	next    int // the batch whose entries come next
	waiting map[int][]change
	runs    map[int]piece // zero pieces that wait for their turn
}

func (c *collector) done(b batch, changes []change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[b.seq] = changes
	return c.drain()
}

func (c *collector) zeros(b batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs == nil {
		c.runs = map[int]piece{}
	}
	c.runs[b.seq] = b.piece
	return c.drain()
}

func (c *collector) drain() error {
	for {
		if p, ok := c.runs[c.next]; ok {
			delete(c.runs, c.next)
			if err := c.spool.setZero(p.first, p.count); err != nil {
				return err
			}
		} else if changes, ok := c.waiting[c.next]; ok {
			delete(c.waiting, c.next)
			for _, ch := range changes {
				if err := c.spool.set(ch.index, ch.digest); err != nil {
					return err
				}
			}
		} else {
			return nil
		}
		c.next++
		<-c.slots
	}
}
