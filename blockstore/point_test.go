package blockstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

func TestPointsAndRecords(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	commit := func(id string, muts ...Mutation) {
		t.Helper()
		if err := startUpload(t, s, id).Commit(ctx, Point{ID: id, Meta: []byte(id)}, muts...); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 5 {
		commit(fmt.Sprintf("web/%d", n), Mutation{Key: fmt.Sprintf("of/web/%d", n), Value: []byte{byte(n)}})
	}
	commit("db/1")
	commit("web0")
	points := func(prefix, after string, limit int) (ids []string) {
		t.Helper()
		err := s.Points(prefix, after, func(p Point) bool {
			if string(p.Meta) != p.ID {
				t.Errorf("point %s has meta %q", p.ID, p.Meta)
			}
			ids = append(ids, p.ID)
			_, err := s.Point(p.ID) // calls from within are fine
			return err == nil && len(ids) != limit
		})
		if err != nil {
			t.Error(err)
		}
		return ids
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 0, "db/1 web/0 web/1 web/2 web/3 web/4 web0"},
		{"web/", "", 0, "web/0 web/1 web/2 web/3 web/4"},
		{"web/", "", 2, "web/0 web/1"},
		{"web/", "web/1", 2, "web/2 web/3"},
		{"web/", "web/4", 2, ""},
		{"web/", "a", 1, "web/0"},
		{"web/", "x", 1, ""},
		{"nothing", "", 0, ""},
	} {
		if got := strings.Join(points(c.prefix, c.after, c.limit), " "); got != c.want {
			t.Errorf("points %q after %q: %s, want %s", c.prefix, c.after, got, c.want)
		}
	}
	record := func(key string) string {
		v, err := s.Record(key)
		if err != nil {
			return err.Error()
		}
		return string(v)
	}
	// Changes come with records, or not at all.
	if err := s.UpdatePoint(ctx, "web/1", []byte("web/1"), Mutation{Key: "k", Value: []byte("v")}, Mutation{Key: "of/web/1", Delete: true}); err != nil {
		t.Error(err)
	}
	if record("k") != "v" || !strings.Contains(record("of/web/1"), ErrNotFound.Error()) {
		t.Errorf("records %q, %q", record("k"), record("of/web/1"))
	}
	for what, err := range map[string]error{
		"update": s.UpdatePoint(ctx, "none", nil, Mutation{Key: "k", Value: []byte("bad")}),
		"delete": s.DeletePoint(ctx, "none", Mutation{Key: "k", Delete: true}),
	} {
		wantErr(t, what+" no point", err, ErrNotFound)
	}
	if record("k") != "v" {
		t.Errorf("a failed change changed a record to %q", record("k"))
	}
	if err := s.DeletePoint(ctx, "web/2", Mutation{Key: "k", Value: []byte{}}); err != nil {
		t.Error(err)
	}
	if v, err := s.Record("k"); err != nil || v == nil || len(v) != 0 {
		t.Errorf("empty record: %v, %v", v, err)
	}
	if err := s.Apply(ctx, Mutation{Key: "k", Delete: true}, Mutation{Key: "never", Delete: true}, Mutation{Key: "x", Value: []byte("1")}, Mutation{Key: "x", Value: []byte("2")}); err != nil {
		t.Error(err)
	}
	for range 2 { // the second time after opening again
		var keys []string
		if err := s.Records("", "of/web/0", func(k string, v []byte) bool { keys = append(keys, k+"="+string(v)); return true }); err != nil {
			t.Error(err)
		}
		if !slices.Equal(keys, []string{"of/web/2=\x02", "of/web/3=\x03", "of/web/4=\x04", "x=2"}) {
			t.Errorf("records %q", keys)
		}
		if got := points("web/", "", 0); !slices.Equal(got, []string{"web/0", "web/1", "web/3", "web/4"}) {
			t.Errorf("points %v", got)
		}
		if st, err := s.Stats(); err != nil || st.Points != 6 || st.Records != 5 {
			t.Errorf("stats %+v, %v", st, err)
		}
		testClose(t, s)
		s = testOpen(t, "v", Options{FS: mem})
	}
}

func TestInvalidPoints(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	u := startUpload(t, s, "u")
	good := diskmap.Map{Size: testBlock, BlockSize: testBlock}
	disk := func(name string, m diskmap.Map) Point { return Point{ID: "p", Disks: []Disk{{name, m}}} }
	for what, p := range map[string]Point{
		"no id":              {},
		"long id":            {ID: strings.Repeat("x", maxKey+1)},
		"id not UTF-8":       {ID: "\xff"},
		"large meta":         {ID: "p", Meta: make([]byte, maxValue+1)},
		"too many disks":     {ID: "p", Disks: make([]Disk, maxDisks+1)},
		"two of a name":      {ID: "p", Disks: []Disk{{"a", good}, {"a", good}}},
		"no disk name":       disk("", good),
		"negative size":      disk("a", diskmap.Map{Size: -1, BlockSize: testBlock}),
		"other block size":   disk("a", diskmap.Map{Size: 1, BlockSize: 2 * testBlock}),
		"odd block size":     disk("a", diskmap.Map{Size: 1, BlockSize: 5}),
		"root of empty disk": disk("a", diskmap.Map{BlockSize: testBlock, Root: block.Sum(nil)}),
	} {
		wantErr(t, what, u.Commit(ctx, p), ErrInvalid)
	}
	for what, m := range map[string]Mutation{
		"no key":      {Value: []byte("x")},
		"long key":    {Key: strings.Repeat("x", maxKey+1)},
		"large value": {Key: "k", Value: make([]byte, maxValue+1)},
	} {
		wantErr(t, what, s.Apply(ctx, m), ErrInvalid)
		wantErr(t, what, u.Commit(ctx, Point{ID: "p"}, m), ErrInvalid)
	}
	if _, err := s.Point("p"); err == nil {
		t.Error("there is a point")
	}
	// As large as allowed.
	p := Point{ID: strings.Repeat("p", maxKey), Meta: make([]byte, maxValue)}
	for n := range 32 {
		p.Disks = append(p.Disks, Disk{fmt.Sprint("disk", n), good})
	}
	if err := u.Commit(ctx, p, Mutation{Key: strings.Repeat("k", maxKey), Value: make([]byte, maxValue)}); err != nil {
		t.Error(err)
	}
}
