package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"

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
