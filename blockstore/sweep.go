package blockstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// sweepBatch is how many index entries are removed at a time, while no upload can
// look for blocks: some milliseconds. Tests make it small.
var sweepBatch = 2048

const (
	// sweepPages is how many pages' digests are kept in memory to be removed in
	// the order of their ids; for every so many the index is read once more.
	sweepPages = 1 << 19
	// scanEntries is how long one iterator reads the index: it keeps Pebble from
	// removing what it has written anew.
	scanEntries = 1 << 20
)

// victim is an index entry to be removed.
type victim struct {
	digest block.Digest
	entry  entry
}

// count reads the index, and tells garbage from what is needed, table by table.
func (r *reclaim) count(ctx context.Context) error {
	s := r.s
	total := s.st.Load().blocks
	var done, named, namedBytes uint64
	r.show(ReclaimCounting, 0, total, true)
	err := s.scanEntries(ctx, r.limit, func(v victim) error {
		if done++; done%1024 == 0 {
			r.show(ReclaimCounting, done, total, false)
		}
		t := spanOf(r.tables, v.entry.id)
		if r.kept(v.entry) {
			t.keep(v.entry)
			return nil
		}
		t.named++
		t.namedBytes += uint64(v.entry.stored)
		named++
		namedBytes += uint64(v.entry.stored)
		if v.entry.page {
			r.pages.Add(v.entry.id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What no entry names, a crash has left, or a Reclaim that did not get so far.
	for i := range r.tables {
		if t := &r.tables[i]; t.entries > 0 && t.worth(r.o.Threshold) {
			r.lost += t.entries - min(t.entries, t.liveBlocks+t.named)
			r.lostBytes += t.data - min(t.data, t.live+t.namedBytes)
		}
	}
	r.report.GarbageBlocks, r.report.GarbageBytes = named+r.lost, namedBytes+r.lostBytes
	r.show(ReclaimCounting, total, total, true)
	return nil
}

// sweep removes the index entries of what is doomed: pages by descending id, and
// then data. What is left is counted once more, as some of the doomed was saved.
func (r *reclaim) sweep(ctx context.Context) error {
	s := r.s
	// Ids of blocks that no entry names must not be given again when these are
	// gone and the store is opened anew.
	err := s.update(s.o.MinFree/4, func(b *pebble.Batch, st *state) error {
		return b.Set([]byte(stateKey), st.append(nil), nil)
	})
	if err != nil {
		return err
	}
	r.show(ReclaimRemoving, 0, r.report.GarbageBlocks, true)
	if r.report.GarbageBlocks == r.lost {
		return nil
	}
	for !r.pages.IsEmpty() {
		n := r.pages.GetCardinality()
		from, err := r.pages.Select(n - min(n, sweepPages))
		if err != nil {
			return err
		}
		var vs []victim
		err = s.scanEntries(ctx, r.limit, func(v victim) error {
			if v.entry.page && v.entry.id >= from && r.pages.Contains(v.entry.id) {
				vs = append(vs, v)
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.SortFunc(vs, func(a, b victim) int { return cmp.Compare(b.entry.id, a.entry.id) })
		for batch := range slices.Chunk(vs, sweepBatch) {
			if err := r.remove(ctx, batch, func(entry) {}); err != nil {
				return err
			}
		}
		r.pages.RemoveRange(from, r.limit)
	}
	for i := range r.tables {
		r.tables[i].liveBlocks, r.tables[i].live = 0, 0
	}
	saved := func(e entry) { spanOf(r.tables, e.id).keep(e) }
	var batch []victim
	err = s.scanEntries(ctx, r.limit, func(v victim) error {
		if r.kept(v.entry) {
			saved(v.entry)
			return nil
		}
		if batch = append(batch, v); len(batch) < sweepBatch {
			return nil
		}
		err := r.remove(ctx, batch, saved)
		batch = batch[:0]
		return err
	})
	if err == nil {
		err = r.remove(ctx, batch, saved)
	}
	if err != nil {
		return err
	}
	r.report.GarbageBlocks, r.report.GarbageBytes = r.report.RemovedEntries+r.lost, r.removedBytes+r.lostBytes
	return nil
}

func (r *reclaim) kept(e entry) bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.b.keep.Contains(e.id)
}

// remove removes index entries, and calls saved for those that somebody came to
// need.
func (r *reclaim) remove(ctx context.Context, vs []victim, saved func(entry)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(vs) == 0 {
		return nil
	}
	s := r.s
	var gone, bytes uint64
	s.pins.Lock()
	err := s.update(s.o.MinFree/4, func(b *pebble.Batch, st *state) error {
		var key []byte
		for _, v := range vs {
			if r.kept(v.entry) {
				saved(v.entry)
				continue
			}
			key = digestKey(key[:0], v.digest)
			if err := b.Delete(key, nil); err != nil {
				return err
			}
			plain := uint64(s.format.blockSize)
			if v.entry.page {
				plain = diskmap.PageSize
			}
			gone++
			bytes += uint64(v.entry.stored)
			st.blocks--
			st.stored -= uint64(v.entry.stored)
			st.plain -= plain
		}
		return nil
	})
	s.pins.Unlock()
	if err != nil {
		return err
	}
	s.removed.Add(bytes)
	r.removedBytes += bytes
	r.report.RemovedEntries += gone
	r.show(ReclaimRemoving, r.report.RemovedEntries, r.report.GarbageBlocks, false)
	return nil
}

// scanEntries calls fn for the index entries with ids below limit, by digest. fn may
// remove them.
func (s *Store) scanEntries(ctx context.Context, limit uint64, fn func(victim) error) error {
	next := []byte{digestSpace}
	for next != nil {
		it, err := s.index.NewIter(&pebble.IterOptions{LowerBound: next, UpperBound: []byte{digestSpace + 1}})
		if err != nil {
			return s.readError(err)
		}
		next, err = scanSome(ctx, it, limit, fn)
		if err = errors.Join(err, it.Close()); err != nil {
			return s.readError(err)
		}
	}
	return nil
}

// scanSome reads a part of the index, and gives the key at which to go on.
func scanSome(ctx context.Context, it *pebble.Iterator, limit uint64, fn func(victim) error) (next []byte, err error) {
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n > scanEntries {
			return slices.Clone(it.Key()), nil
		}
		if n%1024 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if len(it.Key()) != digestKeyLen {
			return nil, fmt.Errorf("%w: index key %x", ErrCorrupt, it.Key())
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		e, err := parseEntry(value)
		if err != nil {
			return nil, err
		}
		if e.id < limit {
			if err := fn(victim{block.Digest(it.Key()[1:]), e}); err != nil {
				return nil, err
			}
		}
	}
	return nil, it.Error()
}
