package tree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestItem(t *testing.T) {
	at := func(h int) time.Time { return pointTime.Add(time.Duration(h) * time.Hour) }
	var mu sync.Mutex
	refs := []Ref{{"b", at(1)}, {"a", at(0)}, {"c", at(1).Add(time.Millisecond)}}
	var listErr error
	lists, opens, closes := 0, map[string]int{}, 0
	tr := NewItem(Item{
		Name: "web1", Refresh: time.Nanosecond,
		List: func(context.Context) ([]Ref, error) {
			mu.Lock()
			defer mu.Unlock()
			lists++
			return refs, listErr
		},
		Open: func(_ context.Context, id string) (Point, error) {
			opens[id]++
			p := testPoint()
			p.ID, p.JSON, p.Time = id, fmt.Appendf(nil, `{"id":%q}`, id), time.Time{}
			p.Close = func() error { closes++; return nil }
			return p, nil
		},
	}, Options{OpenFS: openFake})
	want := []string{"2026-11-20T22-00-00Z", "2026-11-20T23-00-00Z", "2026-11-20T23-00-00Z-c", "latest"}
	if got := list(t, tr.Root()); !slices.Equal(got, want) {
		t.Fatalf("names %q, want %q", got, want)
	}
	if len(opens) != 0 {
		t.Errorf("listing opened %v", opens)
	}
	if got := content(t, tr, "latest/point.json"); !strings.Contains(got, `"id": "c"`) {
		t.Errorf("latest is %s", got)
	}
	if f := find(t, tr, "latest"); f.Path != "/2026-11-20T23-00-00Z-c" || !f.Attr.Mtime.Equal(refs[2].Time) {
		t.Errorf("latest: %+v", f)
	}
	if got := content(t, tr, want[0]+"/volumes/vda1/etc/hostname"); got != "web1\n" {
		t.Errorf("hostname is %q", got)
	}
	if opens["c"] != 1 || opens["a"] != 1 || opens["b"] != 0 {
		t.Errorf("opens %v", opens)
	}
	one := find(t, tr, want[0]).Attr.Ino

	// One point expires, another appears, and then the server is away.
	mu.Lock()
	refs = []Ref{{"a", at(0)}, {"d", at(5)}}
	mu.Unlock()
	if got := list(t, tr.Root()); !slices.Equal(got, []string{want[0], "2026-11-21T03-00-00Z", "latest"}) {
		t.Errorf("names %q", got)
	}
	mu.Lock()
	listErr = errors.New("server away")
	mu.Unlock()
	if got := list(t, tr.Root()); len(got) != 3 {
		t.Errorf("names while the server is away %q", got)
	}
	if again := find(t, tr, want[0]).Attr.Ino; again != one {
		t.Errorf("the point's inode changed from %d to %d", one, again)
	}
	if err := tr.Close(); err != nil || closes != 2 {
		t.Errorf("%d points closed, %v", closes, err)
	}

	empty := NewItem(Item{List: func(context.Context) ([]Ref, error) { return nil, nil }}, Options{})
	if got := list(t, empty.Root()); len(got) != 0 {
		t.Errorf("an item without points has %q", got)
	}
}
