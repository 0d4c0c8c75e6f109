package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// batchBytes is how much of a disk a worker takes at a time.
const batchBytes = 4 << 20

// window bounds how many batches may be under way or done out of order.
const window = 64

// transfer moves the blocks of a snapshot's disks over one upload.
type transfer struct {
	up     *client.Upload
	stream *client.BlockStream
	reader *client.Reader         // reads the base's maps; nil without a base
	base   map[string]diskmap.Map // by target; nil without a base

	compression block.Compression
}

// transferOnce makes the point over one upload: the one that b.token names, or,
// with none, a new one whose token it leaves there.
func (b *backup) transferOnce(ctx context.Context) (*cairnv1.RecoveryPoint, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // streams that were left in the middle
	b.pr.done.Store(0)
	if p, err := b.committed(ctx); p != nil || err != nil {
		return p, err
	}
	if err := b.measure(ctx); err != nil {
		return nil, err
	}
	up, err := b.startUpload(ctx)
	if err != nil {
		return nil, fmt.Errorf("start upload: %w", err)
	}
	t := &transfer{up: up, compression: b.j.a.Compression, base: map[string]diskmap.Map{}}
	if b.base != nil {
		t.reader = b.j.a.c.Reader(b.base.GetName())
		for _, d := range b.base.GetDisks() {
			m, err := client.Map(d)
			if err != nil {
				return nil, fmt.Errorf("base %s: %w", b.base.GetName(), err)
			}
			t.base[d.GetTarget()] = m
		}
	}
	if err := b.prove(ctx, t); err != nil {
		return nil, err
	}
	if err := b.measure(ctx); err != nil {
		return nil, err
	}
	changed, sent, err := t.disks(ctx, b.snap.Disks(), b.info.StateFiles, b.pr)
	if err != nil {
		return nil, err
	}
	if err := b.snap.Check(ctx); errors.Is(err, source.ErrChanged) {
		b.j.warn(cairnv1.ErrorReason_ERROR_REASON_IMAGE_CHANGED, err)
	} else if err != nil {
		return nil, err
	}
	b.stats(func(s *cairnv1.JobStats) {
		s.NewBlocks, s.NewBytes, s.SentBytes = sent.NewBlocks, sent.NewBytes, sent.StoredBytes
		s.ChangedBlocks, s.ReadBytes = changed, b.pr.read.Load()
	})
	return b.commit(ctx, up)
}

// startUpload opens or resumes the upload. A base that was deleted since the
// snapshot was taken is done without.
func (b *backup) startUpload(ctx context.Context) (*client.Upload, error) {
	for {
		req := &cairnv1.CreateUploadRequest{
			Parent: b.w.GetProtectedItem(), Job: b.j.name, LeaseToken: b.j.token,
			BaseRecoveryPoint: b.base.GetName(), ResumeToken: b.token,
		}
		for _, d := range b.snap.Disks() {
			i := d.Info()
			req.Disks = append(req.Disks, &cairnv1.UploadDisk{Target: i.Target, Size: i.Size, SourceFormat: i.Format, Path: i.Path, Kind: cairnv1.DiskKind_DISK_KIND_DISK})
		}
		for _, f := range b.info.StateFiles {
			req.Disks = append(req.Disks, &cairnv1.UploadDisk{Target: f.Name, Size: int64(len(f.Data)), SourceFormat: "raw", Path: f.Path, Kind: diskKind(f.Kind)})
		}
		up, err := b.j.a.c.StartUpload(ctx, req)
		if b.base != nil && client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND {
			b.loseBase()
			continue
		}
		if err == nil {
			b.token = up.Token
		}
		return up, err
	}
}

// disks scans all disks and state files, waits until what was sent is durable,
// and writes the maps.
func (t *transfer) disks(ctx context.Context, disks []source.SnapshotDisk, files []source.StateFile, pr *progress) (changed int64, sent client.Sent, err error) {
	t.stream, err = t.up.SendBlocks(ctx)
	if err != nil {
		return 0, sent, fmt.Errorf("send blocks: %w", err)
	}
	defer t.stream.Cancel()
	var results []*diskResult
	defer func() {
		for _, r := range results {
			r.spool.close()
		}
	}()
	for _, d := range disks {
		r, err := t.scan(ctx, d, pr)
		if err != nil {
			return 0, sent, err
		}
		results = append(results, r)
	}
	for _, f := range files {
		r, err := t.scan(ctx, newStateDisk(f), &progress{})
		if err != nil {
			return 0, sent, err
		}
		results = append(results, r)
	}
	if sent, err = t.stream.Close(); err != nil {
		return 0, sent, fmt.Errorf("send blocks: %w", err)
	}
	for _, r := range results {
		n, err := t.writeMap(ctx, r)
		if err != nil {
			return 0, sent, err
		}
		changed += n
	}
	return changed, sent, nil
}

// diskResult is what a scan found on one disk.
type diskResult struct {
	target  string
	hasBase bool
	spool   spool
}

// batch is a piece on its way through a worker.
type batch struct {
	seq int
	piece
}

// scan reads one disk and sends what the vault lacks. The result's entries are
// to be written as the disk's map once everything sent is durable.
func (t *transfer) scan(ctx context.Context, d source.SnapshotDisk, pr *progress) (*diskResult, error) {
	info := d.Info()
	baseMap, hasBase := t.base[info.Target]
	if hasBase && baseMap.BlockSize != t.up.BlockSize {
		hasBase = false
	}
	if d.Incremental() && !hasBase {
		return nil, fmt.Errorf("disk %s: the source gave changes only, but there is no point to apply them to", info.Target)
	}
	res := &diskResult{target: info.Target, hasBase: hasBase}
	pr.detail.Store(info.Target)

	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, window)
	work := make(chan batch)
	col := &collector{spool: &res.spool, slots: slots, waiting: map[int][]change{}}
	g.Go(func() error {
		defer close(work)
		seq := 0
		p := planner{
			blockSize: int64(t.up.BlockSize), size: info.Size,
			max: uint64(max(1, batchBytes/t.up.BlockSize)),
			// Without a base everything is zeros until it is said otherwise.
			gapsAreZero: hasBase && !d.Incremental(),
			emit: func(p piece) error {
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				b := batch{seq: seq, piece: p}
				seq++
				if p.zero {
					return col.zeros(b)
				}
				select {
				case work <- b:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			},
		}
		return p.plan(ctx, d)
	})
	for range runtime.GOMAXPROCS(0) + 2 { // some wait for the server while others compute
		g.Go(func() error {
			w := worker{t: t, pr: pr, disk: d, size: info.Size, hasBase: hasBase, base: baseMap}
			for b := range work {
				changes, err := w.run(ctx, b)
				if err != nil {
					return fmt.Errorf("disk %s: %w", info.Target, err)
				}
				if err := col.done(b, changes); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		res.spool.close()
		return nil, err
	}
	return res, nil
}

// writeMap writes the map of a scanned disk and returns how many blocks of it
// differ from the base.
func (t *transfer) writeMap(ctx context.Context, res *diskResult) (changed int64, err error) {
	w, err := t.up.WriteMap(ctx, res.target, res.hasBase)
	if err != nil {
		return 0, fmt.Errorf("write map of disk %s: %w", res.target, err)
	}
	if err := res.spool.replay(w.Set, w.SetZero); err != nil {
		return 0, fmt.Errorf("write map of disk %s: %w", res.target, err)
	}
	_, changed, err = w.Close()
	if err != nil {
		return 0, fmt.Errorf("write map of disk %s: %w", res.target, err)
	}
	return changed, nil
}

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
