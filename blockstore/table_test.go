package blockstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
)

// TestEveryByteIsWrittenOnce fills tables from several uploads, with flushes in
// between, deletes points, and opens the vault again and again. Every table must
// have gone straight to the bottom level and stayed there, ids must be dense, and
// what was written must be little more than what was given.
func TestEveryByteIsWrittenOnce(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	if s, err := Create("v", Options{FS: mem}); err != nil {
		t.Fatal(err)
	} else {
		testClose(t, s)
	}
	var next uint64 = 1
	for round := range 3 {
		s := testOpen(t, "v", Options{FS: mem, TableSize: 2 << 20})
		var wg sync.WaitGroup
		for w := range 3 {
			rng := rand.NewChaCha8([32]byte{byte(round), byte(w)})
			u := startUpload(t, s, fmt.Sprint(w))
			wg.Go(func() {
				for n := range 64 {
					p := make([]byte, block.DefaultSize)
					rng.Read(p)
					if _, err := u.Put(ctx, []Block{{block.Sum(p), block.Encode(nil, p, block.None)}}); err != nil {
						t.Error(err)
					}
					if n%40 == 39 {
						if err := u.Flush(ctx); err != nil {
							t.Error(err)
						}
					}
				}
				if err := u.Commit(ctx, Point{ID: fmt.Sprint(round, w)}); err != nil {
					t.Error(err)
				}
				if err := s.DeletePoint(ctx, fmt.Sprint(round, w)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		it, err := s.blocks.NewIter(nil)
		if err != nil {
			t.Fatal(err)
		}
		next = 1
		for ok := it.First(); ok; ok = it.Next() {
			if id, err := parseBlockKey(it.Key()); err != nil || id != next {
				t.Fatalf("id %d follows %d, %v", id, next-1, err)
			}
			next++
		}
		if err := it.Close(); err != nil || next != uint64(round+1)*3*64+1 {
			t.Errorf("%d blocks, %v", next-1, err)
		}
		st, err := s.Stats()
		if err != nil {
			t.Fatal(err)
		}
		m := st.Tables
		if m.Compact.Count != 0 || m.Ingest.Count == 0 {
			t.Errorf("blocks/: %d compactions, %d ingests", m.Compact.Count, m.Ingest.Count)
		}
		for l, lm := range m.Levels {
			if l < 6 && lm.TablesCount != 0 || lm.TableBytesCompacted != 0 || lm.TableBytesFlushed != 0 {
				t.Errorf("blocks/ level %d: %d tables, %d bytes compacted, %d flushed", l, lm.TablesCount, lm.TableBytesCompacted, lm.TableBytesFlushed)
			}
		}
		if amp := float64(st.BytesWritten) / float64(st.BytesAdded); amp > 1.1 || amp < 1 {
			t.Errorf("write amplification %.3f", amp)
		}
		testClose(t, s)
	}
}

// TestSmallTables: many flushes do not make many tables, and what is written
// together stays what it was.
func TestSmallTables(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	const n = 300
	var ids []uint64
	for i := range n {
		u := startUpload(t, s, "u")
		if _, err := u.putTest(i, i+1+i%3); err != nil { // some of it twice
			t.Fatal(err)
		}
		if err := u.Commit(ctx, Point{ID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	ds := digestsOf(testBlocks(func() (ns []int) {
		for i := range n {
			ns = append(ns, i)
		}
		return ns
	}()...))
	es, err := s.lookup(ds)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range es {
		ids = append(ids, e.id)
		if e.id == 0 {
			t.Fatalf("block %d is gone", i)
		}
	}
	st, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Tables.Levels[6].TablesCount; got > 3*mergeTables {
		t.Errorf("%d flushes left %d tables", n, got)
	}
	if c := st.Tables.Compact.Count; c != 0 {
		t.Errorf("%d compactions", c)
	}
	if amp := float64(st.BytesWritten) / float64(st.BytesAdded); amp > 4.5 {
		t.Errorf("write amplification %.3f", amp)
	}
	for range 2 {
		r, err := s.Verify(ctx, nil)
		if err != nil || r.BadCount > 0 || r.Orphans > 0 || r.Blocks != st.Blocks {
			t.Errorf("verify: %v, %+v", err, r)
		}
		if es, err := s.lookup(ds); err != nil || es[17].id != ids[17] || es[n-1].id != ids[n-1] {
			t.Errorf("ids have changed: %v", err)
		}
		testClose(t, s)
		s = testOpen(t, "v", Options{FS: mem})
	}
	if ls, err := mem.List("v/incoming"); err != nil || len(ls) > 0 {
		t.Errorf("left behind: %v, %v", ls, err)
	}
}

func TestTableSize(t *testing.T) {
	s := &Store{}
	for stored, want := range map[uint64]int64{0: 64 << 20, 4 << 40: 64 << 20, 32 << 40: 512 << 20, 1 << 60: 1 << 30} {
		s.st.Store(&state{stored: stored})
		if got := s.tableSize(); got != want {
			t.Errorf("%d bytes stored: tables of %d, want %d", stored, got, want)
		}
	}
}

// TestTableOfTinyBlocks: however small blocks get, a table is full when its
// index entries are as many as one batch takes.
func TestTableOfTinyBlocks(t *testing.T) {
	tb := &table{limit: 1 << 40, flights: make([]*flight, tableEntries-1)}
	if tb.full() {
		t.Error("full too early")
	}
	tb.flights = append(tb.flights, nil)
	if !tb.full() {
		t.Error("not full")
	}
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	e := entry{id: 1<<64 - 1, stored: 1<<32 - 1, page: true}
	err := s.update(0, func(b *pebble.Batch, _ *state) error {
		for n := range tableEntries {
			d := block.Digest{byte(n), byte(n >> 8)}
			if err := b.Set(digestKey(nil, d), e.append(nil), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	es, err := s.lookup([]block.Digest{{0, 1}, {1, 2, 3}, {255, 127}})
	if err != nil || es[0] != e || es[1] != (entry{}) || es[2] != e {
		t.Errorf("%v, %v", es, err)
	}
}
