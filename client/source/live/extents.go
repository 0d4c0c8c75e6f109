package live

import (
	"context"
	"slices"

	"cairn/client/source"
	"cairn/client/source/nbd"
)

// Extents implements source.SnapshotDisk. Its errors are those of ReadAt.
func (d *Disk) Extents(ctx context.Context, fn func(source.Extent) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(context.Cause(d.ctx)) })()
	c, err := d.connection(ctx)
	if err != nil {
		return err
	}
	w := walk{c: c, ctx: ctx, fn: fn, size: d.info.Size, keepZero: d.Incremental(),
		allocation: slices.Contains(c.Info().Contexts, nbd.BaseAllocation)}
	if w.keepZero {
		err = w.changed(d.export.Bitmap)
	} else {
		err = w.span(0, w.size, nil)
	}
	if err == nil {
		err = w.flush()
	}
	if w.told != nil {
		return w.told
	} else if err != nil {
		return d.explain(ctx, c, err)
	}
	return nil
}

const (
	// groupSpan and groupMost bound what is asked of the allocation at once: a
	// request costs a round trip, which many small changes should share.
	groupSpan = 64 << 20
	groupMost = 4096
)

// walk is one run of Extents.
type walk struct {
	c          *nbd.Client
	ctx        context.Context
	fn         func(source.Extent) error
	size       int64
	allocation bool // the server tells what is allocated
	keepZero   bool // ranges of zeros are told, too
	run        source.Extent
	told       error // what fn returned
}

// changed walks what the bitmap says has changed.
func (w *walk) changed(bitmap string) error {
	var group []source.Extent // not overlapping, ascending
	hand := func() error {
		if len(group) == 0 {
			return nil
		}
		last := group[len(group)-1]
		err := w.span(group[0].Offset, last.Offset+last.Length, group)
		group = group[:0]
		return err
	}
	err := w.c.Walk(w.ctx, bitmap, 0, w.size, func(s nbd.Status) error {
		if s.Flags&nbd.StateDirty == 0 {
			return nil
		}
		if len(group) > 0 && (s.Offset+s.Length-group[0].Offset > groupSpan || len(group) == groupMost) {
			if err := hand(); err != nil {
				return err
			}
		}
		group = append(group, source.Extent{Offset: s.Offset, Length: s.Length})
		return nil
	})
	if err == nil {
		err = hand()
	}
	return err
}

// span tells what [from, to) holds, limited to the extents in only unless that
// is nil.
func (w *walk) span(from, to int64, only []source.Extent) error {
	if only == nil {
		only = []source.Extent{{Offset: from, Length: to - from}}
	}
	if !w.allocation {
		for _, e := range only {
			if err := w.add(e); err != nil {
				return err
			}
		}
		return nil
	}
	return w.c.Walk(w.ctx, nbd.BaseAllocation, from, to-from, func(s nbd.Status) error {
		for len(only) > 0 {
			e := only[0]
			lo, hi := max(e.Offset, s.Offset), min(e.Offset+e.Length, s.Offset+s.Length)
			if lo < hi {
				if err := w.add(source.Extent{Offset: lo, Length: hi - lo, Zero: s.Flags&nbd.StateZero != 0}); err != nil {
					return err
				}
			}
			if e.Offset+e.Length > s.Offset+s.Length {
				return nil // the rest of e is in the next status
			}
			only = only[1:]
		}
		return nil
	})
}

// add joins an extent to the one before, or hands that on.
func (w *walk) add(e source.Extent) error {
	if e.Zero && !w.keepZero || e.Length == 0 {
		return nil
	}
	if w.run.Length > 0 && w.run.Offset+w.run.Length == e.Offset && w.run.Zero == e.Zero {
		w.run.Length += e.Length
		return nil
	}
	err := w.flush()
	w.run = e
	return err
}

func (w *walk) flush() error {
	if w.run.Length > 0 {
		w.told = w.fn(w.run)
		w.run = source.Extent{}
	}
	return w.told
}
