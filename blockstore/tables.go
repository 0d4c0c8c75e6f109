package blockstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Giving space back. Deletions that Pebble knows of would lie in tables of their
// own above the bottom level, and make it write whatever they overlap, when it
// sees fit, damaged tables again and again. So none are ever written. What is not
// named by an index entry is not read by anybody, and a table that has too much of
// it is replaced, in the way of merge.go: one ingestion that excises the range of
// its ids brings a table with the rest, or nothing at all if nothing was needed.
// It lies at the bottom, too, and no other table's bytes are moved. What a table
// keeps of garbage, less than the threshold, takes space and harms nobody.

// tableSpan is a table of blocks/, and what is needed of it.
type tableSpan struct {
	lo, hi  uint64 // ids of its first block and its last
	size    uint64 // bytes of the file
	entries uint64 // blocks in it; 0 if not known
	data    uint64 // bytes of their stored forms

	liveBlocks, live  uint64 // blocks that are needed, and their bytes
	named, namedBytes uint64 // garbage that had an index entry when it was counted
}

func (t *tableSpan) keep(e entry) {
	t.liveBlocks++
	t.live += uint64(e.stored)
}

// worth reports whether the table has so much garbage that it goes.
func (t *tableSpan) worth(threshold float64) bool {
	garbage := t.data - min(t.data, t.live)
	return t.liveBlocks == 0 || garbage > 0 && float64(garbage) >= threshold*float64(t.data)
}

// spanOf finds the table of an id; one that does not count if there is none.
func spanOf(ts []tableSpan, id uint64) *tableSpan {
	i, ok := slices.BinarySearchFunc(ts, id, func(t tableSpan, id uint64) int {
		switch {
		case t.hi < id:
			return -1
		case t.lo > id:
			return 1
		}
		return 0
	})
	if !ok {
		return new(tableSpan)
	}
	return &ts[i]
}

// tablesBelow lists the tables all of whose ids are below limit, in their order.
func (s *Store) tablesBelow(limit uint64) ([]tableSpan, error) {
	levels, err := s.blocks.SSTables(pebble.WithProperties())
	if err != nil {
		// One of them is damaged or gone. How much is in the others is then told
		// by their size.
		s.o.Logger.Errorf("%s: a table of blocks cannot be read: %v", s.dir, err)
		if levels, err = s.blocks.SSTables(); err != nil {
			return nil, err
		}
	}
	var ts []tableSpan
	for _, tables := range levels {
		for _, info := range tables {
			t := tableSpan{size: info.Size, data: info.Size}
			var lerr, herr error
			t.lo, lerr = parseBlockKey(info.Smallest.UserKey)
			t.hi, herr = parseBlockKey(info.Largest.UserKey)
			if err := errors.Join(lerr, herr); err != nil {
				return nil, err
			}
			if p := info.Properties; p != nil {
				t.entries, t.data = p.NumEntries, p.RawValueSize
			}
			if t.hi < limit {
				ts = append(ts, t)
			}
		}
	}
	slices.SortFunc(ts, func(a, b tableSpan) int { return cmp.Compare(a.lo, b.lo) })
	return ts, nil
}

// group is adjacent tables that become one, or nothing.
type group struct {
	tables []tableSpan
	live   uint64 // bytes
	blocks uint64
	size   uint64 // bytes of the files
	worth  int    // tables for which it is done
}

func (g *group) add(t tableSpan, worth bool) {
	g.tables = append(g.tables, t)
	g.live += t.live
	g.blocks += t.liveBlocks
	g.size += t.size
	if worth {
		g.worth++
	}
}

// groups says what to do, in this order: tables of which nothing is needed go,
// which makes room; those that are worth it are written anew, together with
// their small neighbours, as long as they fit one table.
func (r *reclaim) groups() (gs []group) {
	limit := uint64(r.s.tableSize())
	var g group
	end := func() {
		if g.worth > 0 || len(g.tables) >= mergeTables {
			gs = append(gs, g)
		}
		g = group{}
	}
	for _, t := range r.tables {
		if t.liveBlocks == 0 {
			g.add(t, true)
		} else {
			end()
		}
	}
	end()
	for _, t := range r.tables {
		if t.liveBlocks == 0 {
			continue
		}
		worth := t.worth(r.o.Threshold)
		if !worth && t.live >= limit/smallTable {
			end()
			continue
		}
		if g.live+t.live > limit || g.blocks+t.liveBlocks > tableEntries {
			end()
		}
		g.add(t, worth)
	}
	end()
	return gs
}

// estimate is for a dry run.
func (r *reclaim) estimate() {
	for _, t := range r.tables {
		if !t.worth(r.o.Threshold) {
			r.report.LeftBytes += t.data - min(t.data, t.live)
		} else if t.data > 0 {
			r.report.FreedBytes += int64(float64(t.size) * (1 - float64(min(t.live, t.data))/float64(t.data)))
		}
	}
}

// shrink gives back the space of the ids that are not kept. What need not be
// written comes first, to make room for the rest. A table that cannot be written,
// for lack of space or because of damage, is left to the next Reclaim.
func (r *reclaim) shrink(ctx context.Context) error {
	gs := r.groups()
	var total, done uint64
	for _, g := range gs {
		total += g.size
	}
	r.show(ReclaimWriting, 0, total, true)
	for _, t := range r.tables {
		r.report.LeftBytes += t.data - min(t.data, t.live)
	}
	for _, g := range gs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.replace(ctx, g); err != nil {
			return err
		}
		done += g.size
		r.show(ReclaimWriting, done, total, false)
	}
	r.report.BytesAfter = 0
	all, err := r.s.tablesBelow(^uint64(0))
	if err != nil {
		return err
	}
	for _, t := range all {
		r.report.BytesAfter += t.size
	}
	r.show(ReclaimWriting, total, total, true)
	return nil
}

// replace does what a group is for.
func (r *reclaim) replace(ctx context.Context, g group) error {
	s := r.s
	lo, hi := g.tables[0].lo, g.tables[len(g.tables)-1].hi
	var size uint64
	var err error
	switch {
	case g.blocks == 0:
		if it := r.b.keep.Iterator(); it.HasNext() {
			if it.AdvanceIfNeeded(lo); it.HasNext() && it.PeekNext() <= hi {
				return fmt.Errorf("%w: %s: block %d is needed, and no index entry was found for it", ErrCorrupt, s.path(indexName), it.PeekNext())
			}
		}
		err = s.blocks.Excise(s.ctx, pebble.KeyRange{Start: blockKey(lo), End: blockKey(hi + 1)})
		if err == nil {
			err = s.g.failure()
		}
	default:
		if err = s.room(s.o.MinFree/4 + g.live + g.live/16); err == nil {
			// Nothing is added to keep any more: nothing below the limit is found
			// that was not found before.
			size, err = s.rewrite(ctx, "reclaim-", lo, hi, s.o.MinFree/4, &r.b.keep)
		}
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.g.failure() != nil:
		return s.g.failure()
	default:
		s.o.Logger.Errorf("%s: blocks %d to %d take more space than they need: %v", s.dir, lo, hi, err)
		r.report.TablesFailed += len(g.tables)
		return nil
	}
	for _, t := range g.tables {
		r.report.LeftBytes -= t.data - min(t.data, t.live)
		if t.liveBlocks == 0 {
			r.report.TablesDropped++
		} else {
			r.report.TablesWritten++
		}
	}
	r.report.FreedBytes += int64(g.size) - int64(size)
	return nil
}
