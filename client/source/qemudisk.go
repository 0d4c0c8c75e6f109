package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"cairn/client/source/nbd"
)

// qemuDisk is an image that QEMU reads for us.
type qemuDisk struct {
	disk      Disk
	ctx       context.Context // the snapshot's
	export    *export
	witnesses []*witness
}

var _ SnapshotDisk = (*qemuDisk)(nil)

// readConnections is how many connections to qemu-nbd there are for reading.
const readConnections = 2

func openQEMU(ctx context.Context, d Disk, l *layer) (_ *qemuDisk, err error) {
	q := &qemuDisk{disk: d, ctx: ctx}
	defer func() {
		if err != nil {
			q.Close()
		}
	}()
	// Before QEMU opens the files: what is written from here on is noticed.
	for _, path := range l.files() {
		w, err := newWitness(path)
		if err != nil {
			return nil, err
		}
		q.witnesses = append(q.witnesses, w)
	}
	if err := l.check(ctx); err != nil {
		return nil, err
	}
	q.export, err = openExport(ctx, l.filename(false), readConnections,
		nbd.Options{Contexts: []string{nbd.BaseAllocation}}, "--read-only")
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		return nil, l.refused(refused.words)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	q.disk.Size = q.export.Info().Size
	return q, nil
}

func (q *qemuDisk) Info() Disk        { return q.disk }
func (q *qemuDisk) Incremental() bool { return false }
func (q *qemuDisk) Distrust()         {}

// ReadAt implements io.ReaderAt.
func (q *qemuDisk) ReadAt(p []byte, off int64) (int, error) {
	n, err := q.export.Read(q.ctx, p, off)
	if err != nil && err != io.EOF {
		err = q.explain(q.ctx, err)
	}
	return n, err
}

// Extents implements SnapshotDisk.
func (q *qemuDisk) Extents(ctx context.Context, fn func(Extent) error) error {
	if err := context.Cause(q.ctx); err != nil {
		return err
	}
	if !slices.Contains(q.export.Info().Contexts, nbd.BaseAllocation) {
		return fn(Extent{Length: q.disk.Size})
	}
	var told error
	var run Extent
	err := q.export.Walk(ctx, nbd.BaseAllocation, 0, q.disk.Size, func(s nbd.Status) error {
		switch {
		case s.Flags&nbd.StateZero != 0:
			return nil
		case run.Length > 0 && run.Offset+run.Length == s.Offset:
			run.Length += s.Length
			return nil
		case run.Length > 0:
			told = fn(run)
		}
		run = Extent{Offset: s.Offset, Length: s.Length}
		return told
	})
	switch {
	case told != nil:
		return told
	case err != nil:
		return q.explain(ctx, err)
	case run.Length > 0:
		return fn(run)
	}
	return nil
}

// explain adds to an error what the server's end of it was.
func (q *qemuDisk) explain(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	if c := context.Cause(q.ctx); c != nil {
		return c
	}
	words := q.export.server.words()
	if words != "" {
		words = " (" + words + ")"
	}
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL) {
		for _, w := range q.witnesses {
			if err := w.whole(); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("disk %s, %s: %w%s", q.disk.Target, q.disk.Path, err, words)
}

// check returns nil, or what happened to the files meanwhile.
func (q *qemuDisk) check() error {
	var errs []error
	for _, w := range q.witnesses {
		errs = append(errs, w.check())
	}
	return worst(errs)
}

// Close implements SnapshotDisk.
func (q *qemuDisk) Close() error {
	if q.export != nil {
		q.export.kill()
	}
	for _, w := range q.witnesses {
		w.f.Close()
	}
	return nil
}
