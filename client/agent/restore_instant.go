package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// Caches of the disk that a machine runs from while it is still in the vault. A
// starting guest reads here and there; what moves the data in reads in order.
const (
	instantReadAhead  = 4 << 20
	instantBlockCache = 32 << 20
)

// backing is a disk in the vault. Its reads end with the job.
type backing struct {
	*diskmap.Image
	ctx  context.Context
	read *atomic.Int64 // bytes given
}

// ReadAt implements io.ReaderAt.
func (b backing) ReadAt(p []byte, off int64) (int, error) { return b.ReadAtContext(b.ctx, p, off) }

// ReadAtContext is ReadAt that ends early with ctx too.
func (b backing) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })()
	n, err := b.Image.ReadAtContext(ctx, p, off)
	b.read.Add(int64(n))
	return n, err
}

// instant starts the new machine from the vault and then moves its data in.
func (r *restore) instant(ctx context.Context, re source.Restore, title string) error {
	r.j.begin(taskStart)
	disks := map[string]source.Backing{}
	for _, d := range r.disks {
		m, err := client.Map(d)
		if err != nil {
			return err
		}
		im := diskmap.NewImage(r.r, m, diskmap.ImageOptions{ReadAhead: instantReadAhead, BlockCache: instantBlockCache})
		defer im.Close()
		disks[d.GetTarget()] = backing{im, ctx, &r.pr.read}
	}
	if err := re.Instant(ctx, disks); err != nil {
		return fmt.Errorf("start from the vault: %w", err)
	}
	r.j.done(taskStart)
	r.j.begin(taskRestore)
	r.j.task(taskRestore, func(t *cairnv1.JobTask) { t.Detail = "the machine runs; its data is moved in behind it" })
	r.outcome("machine %s runs; its data is still being moved in", title)
	err := re.Settle(ctx, func(done, total int64) {
		r.j.update(func(q *cairnv1.ReportJobRequest) { q.Stats.ReadBytes = r.pr.read.Load() })
		r.j.task(taskRestore, func(t *cairnv1.JobTask) { t.DoneBytes, t.TotalBytes = min(done, total), total })
	})
	if err != nil {
		r.outcome("")
		if _, ok := re.(source.Releaser); ok && !errors.Is(context.Cause(ctx), errCancelled) {
			r.outcome("machine %s is kept, and waits for data that is still in the vault: a retry goes on with it", title)
		}
		return fmt.Errorf("move the data in: %w", err)
	}
	r.j.warnings(re.Warnings())
	r.j.done(taskRestore)
	r.j.update(func(q *cairnv1.ReportJobRequest) { q.Stats.ReadBytes = r.pr.read.Load() })
	r.outcome("machine %s runs, with all its data in place", title)
	return nil
}
