package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestWatch: every way to change what Machines answers is told.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	s := images(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	lists := make(chan []string)
	ended := make(chan error)
	go func() {
		ended <- s.Watch(ctx, func() {
			machines, err := s.Machines(ctx)
			if err != nil {
				machines = []Machine{{ID: "error"}}
			}
			ids := []string{}
			for _, m := range machines {
				if m.Problem != "" {
					m.ID += "!"
				}
				ids = append(ids, m.ID)
			}
			select {
			case lists <- ids:
			case <-ctx.Done():
			}
		})
	}()
	// A change can be told in two parts, so wait for what must come in the end.
	want := func(ids ...string) {
		t.Helper()
		for {
			select {
			case got := <-lists:
				if slices.Equal(got, ids) {
					return
				}
			case <-time.After(time.Minute):
				t.Fatalf("machines %v are not told", ids)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	rnd := newRand(t)
	want()
	writeFile(t, at("a.raw"), rnd, 4096)
	want("a")
	must(os.Mkdir(at("sub"), 0o700))
	writeFile(t, at("sub/x.raw"), rnd, 4096)
	want("a", "sub")
	put(t, at("sub/y.raw"), "") // the sub-directory is watched by now
	want("a", "sub!")
	must(os.Remove(at("sub/y.raw")))
	want("a", "sub")
	must(os.Rename(at("a.raw"), at("b.raw")))
	want("b", "sub")
	must(os.Truncate(at("b.raw"), 0))
	must(os.Chmod(at("b.raw"), 0o600))
	want("b!", "sub")
	must(os.RemoveAll(at("sub")))
	want("b!")
	// Also the directory itself may go and come back.
	must(os.Rename(dir, dir+"-away"))
	want("error")
	must(os.Rename(dir+"-away", dir))
	want("b!")
	must(os.Remove(at("b.raw")))
	want()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("watch: %v", err)
	}
}
