package blockstore

import (
	"context"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Every flush ends a table, however small, and Pebble never looks at tables of
// the bottom level again. A vault that takes an hourly backup of a thousand
// machines would have millions of them in a year. So the committer writes small
// tables together: when the newest eight are small and of one generation, one
// table of the next generation takes their place, in one step (an ingestion that
// excises the range). A block is rewritten once per generation, at most until its
// table is an eighth of the full size: twice or so for what comes in crumbs,
// never for what comes in full tables. Ids stay as they are.

const (
	mergeTables = 8 // tables that become one
	smallTable  = 8 // a table is small below its limit divided by this
)

// merger knows the newest tables, as long as they are small and adjacent. Only
// the committer uses it. What lies there when the vault is opened is left alone.
type merger struct {
	s    *Store
	tail []smallRun
}

type smallRun struct {
	lo, hi     uint64 // first id and last
	size       int64
	generation int
}

// landed is told of every new table, in order.
func (m *merger) landed(t *table) {
	run := smallRun{lo: t.flights[0].entry.id, hi: t.flights[len(t.flights)-1].entry.id, size: t.size}
	m.s.merging.Lock()
	defer m.s.merging.Unlock()
	if len(m.tail) > 0 && m.tail[0].lo < m.s.mergeFloor.Load() {
		m.tail = nil // a Reclaim has these
	}
	for {
		if run.lo < m.s.mergeFloor.Load() {
			return
		}
		if run.size >= t.limit/smallTable {
			m.tail = nil
			return
		}
		m.tail = append(m.tail, run)
		n := len(m.tail) - mergeTables
		if n < 0 || m.tail[n].generation != run.generation {
			return
		}
		merged, err := m.merge(m.tail[n:])
		if err != nil {
			// Nothing is lost. Damage, or a full disk: let them be.
			m.s.o.Logger.Errorf("%s: write small tables together: %v", m.s.dir, err)
			m.tail = nil
			return
		}
		m.tail, run = m.tail[:n], merged
	}
}

// merge replaces adjacent tables by one.
func (m *merger) merge(runs []smallRun) (smallRun, error) {
	first, last := runs[0], runs[len(runs)-1]
	out := smallRun{lo: first.lo, hi: last.hi, generation: first.generation + 1}
	for _, r := range runs {
		out.size += r.size
	}
	if err := m.s.room(m.s.o.MinFree + uint64(out.size)); err != nil {
		return out, err
	}
	_, err := m.s.rewrite(m.s.ctx, "merge-", out.lo, out.hi, m.s.o.MinFree, nil)
	return out, err
}

// rewrite replaces the tables of the ids lo … hi, which have no others, by one
// with those of their blocks that keep has, or all if that is nil. It gives the
// size of the new file.
func (s *Store) rewrite(ctx context.Context, prefix string, lo, hi, reserve uint64, keep *roaring64.Bitmap) (uint64, error) {
	t := s.newTable(lo, prefix, reserve)
	if t.err == nil {
		t.err = s.copy(ctx, t, lo, hi, keep)
	}
	err := t.finish()
	var size uint64
	if err == nil {
		var info vfs.FileInfo
		if info, err = s.fs.Stat(t.path); err == nil {
			size = uint64(info.Size())
		}
	}
	if err == nil {
		span := pebble.KeyRange{Start: blockKey(lo), End: blockKey(hi + 1)}
		s.replacing.Lock()
		_, err = s.blocks.IngestAndExcise(s.ctx, []string{t.path}, nil, nil, span)
		s.replacing.Unlock()
	}
	if err != nil {
		t.discard()
		return 0, err
	}
	return size, s.g.failure()
}

// copy adds blocks of lo … hi to a table. Pebble's checksums are checked on the
// way, digests are not: who reads the block does that.
func (s *Store) copy(ctx context.Context, t *table, lo, hi uint64, keep *roaring64.Bitmap) error {
	it, err := s.blockIter(&pebble.IterOptions{LowerBound: blockKey(lo), UpperBound: blockKey(hi + 1)})
	if err != nil {
		return err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if keep != nil {
			id, err := parseBlockKey(it.Key())
			if err != nil {
				return err
			}
			if !keep.Contains(id) {
				continue
			}
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := t.w.Set(it.Key(), v); err != nil {
			return err
		}
		n++
	}
	if err := it.Error(); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: no blocks from id %d to %d", ErrCorrupt, lo, hi)
	}
	return nil
}
