package blockstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// GroupUsage is what the points of a group take. Bytes are those of stored forms,
// each block once, pages included.
type GroupUsage struct {
	Points      int
	UniqueBytes int64 // of blocks that no point of another group needs
	SharedBytes int64 // of blocks that a point of another group needs as well
}

// usageWindow is how many ids' lengths are kept in memory at a time, 4 bytes
// each; the index is read once for every so many.
const usageWindow = 32 << 20

// Usage tells how much of the vault the points of each group need; group gives a
// point's. It reads all pages of all maps, once for each group that needs them,
// and the index. Pages that cannot be read are left out, with what only they lead
// to. Memory is a bitmap of each group's blocks, and 128 MiB at most.
func (s *Store) Usage(ctx context.Context, group func(pointID string) string) (map[string]GroupUsage, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })()
	usage, err := s.usage(ctx, group)
	if err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("usage of vault %s: %w", s.dir, err)
	}
	return usage, nil
}

func (s *Store) usage(ctx context.Context, group func(pointID string) string) (map[string]GroupUsage, error) {
	usage := map[string]GroupUsage{}
	needs := map[string]*roaring64.Bitmap{}
	var ids []string
	if err := s.Points("", "", func(p Point) bool { ids = append(ids, p.ID); return true }); err != nil {
		return nil, err
	}
	for _, id := range ids {
		name := group(id)
		if needs[name] == nil {
			needs[name] = roaring64.New()
		}
		if err := s.reach(ctx, id, needs[name]); errors.Is(err, ErrNotFound) {
			continue // deleted meanwhile
		} else if err != nil {
			return nil, err
		}
		u := usage[name]
		u.Points++
		usage[name] = u
	}
	var once, shared roaring64.Bitmap
	for _, ids := range needs {
		both := ids.Clone()
		both.And(&once)
		shared.Or(both)
		once.Or(ids)
	}
	if once.IsEmpty() {
		return usage, nil
	}
	end := once.Maximum() + 1
	lengths := make([]uint32, min(usageWindow, end))
	for lo := uint64(0); lo < end; lo += usageWindow {
		clear(lengths)
		hi := min(end, lo+usageWindow)
		err := s.scanEntries(ctx, hi, func(v victim) error {
			if v.entry.id >= lo {
				lengths[v.entry.id-lo] = v.entry.stored
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for name, ids := range needs {
			u := usage[name]
			it := ids.Iterator()
			for it.AdvanceIfNeeded(lo); it.HasNext() && it.PeekNext() < hi; {
				id := it.Next()
				if n := int64(lengths[id-lo]); shared.Contains(id) {
					u.SharedBytes += n
				} else {
					u.UniqueBytes += n
				}
			}
			usage[name] = u
		}
	}
	for name, u := range usage {
		if u.Points == 0 {
			delete(usage, name)
		}
	}
	return usage, nil
}

// reach adds the blocks that a point needs. Error: ErrNotFound.
func (s *Store) reach(ctx context.Context, id string, ids *roaring64.Bitmap) error {
	h, err := s.hold(id)
	if err != nil {
		return err
	}
	defer s.drop(h)
	w := &walker{
		s: s,
		mark: func(es []entry, fresh []bool) {
			for i, e := range es {
				fresh[i] = e.id != 0 && ids.CheckedAdd(e.id)
			}
		},
		fail: func(pageRef, error) error { return nil },
	}
	roots, err := w.roots([]Point{h.point})
	if err != nil {
		return err
	}
	return w.walk(ctx, roots)
}
