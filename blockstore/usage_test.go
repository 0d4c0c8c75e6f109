package blockstore

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
)

// TestUsage compares with sets of digests.
func TestUsage(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	for id, r := range map[string][2]int{"a/1": {0, 300}, "a/2": {0, 320}, "b/1": {200, 500}, "c/1": {1000, 1001}, "c/2": {200, 500}} {
		testBackup(t, s, id, r[0], r[1])
	}
	group := func(id string) string { g, _, _ := strings.Cut(id, "/"); return g }
	check := func(points map[string]int) {
		t.Helper()
		owners := map[block.Digest]map[string]bool{}
		var visit func(g string, d block.Digest)
		visit = func(g string, d block.Digest) {
			if owners[d] == nil {
				owners[d] = map[string]bool{}
			}
			owners[d][g] = true
			es, err := s.lookup([]block.Digest{d})
			if err != nil {
				t.Fatal(err)
			}
			if es[0].page {
				page, err := s.ReadBlocks(ctx, []block.Digest{d})
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range pageChildren(page[0]) {
					visit(g, c)
				}
			}
		}
		if err := s.Points("", "", func(p Point) bool { visit(group(p.ID), p.Disks[0].Map.Root); return true }); err != nil {
			t.Fatal(err)
		}
		want := map[string]GroupUsage{}
		for g, n := range points {
			want[g] = GroupUsage{Points: n}
		}
		for d, gs := range owners {
			es, _ := s.lookup([]block.Digest{d})
			for g := range gs {
				u := want[g]
				if len(gs) > 1 {
					u.SharedBytes += int64(es[0].stored)
				} else {
					u.UniqueBytes += int64(es[0].stored)
				}
				want[g] = u
			}
		}
		got, err := s.Usage(ctx, group)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("usage %+v, %v\nwant  %+v", got, err, want)
		}
	}
	check(map[string]int{"a": 2, "b": 1, "c": 2})
	if err := s.DeletePoint(ctx, "b/1"); err != nil {
		t.Fatal(err)
	}
	testReclaim(t, s, everything)
	check(map[string]int{"a": 2, "c": 2})
	stop, cancel := context.WithCancel(ctx)
	cancel()
	_, err := s.Usage(stop, group)
	wantErr(t, "cancelled", err, context.Canceled)
}
