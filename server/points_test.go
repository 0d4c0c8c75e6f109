package server

import (
	"crypto/rand"
	"testing"
	"time"
)

// Point ids sort by the time of the snapshot, also within a second: the newest
// point is the one with the greatest id.
func TestPointIDsSortByTime(t *testing.T) {
	at := time.Date(2026, 11, 22, 0, 49, 56, 0, time.UTC)
	last := ""
	for range 1500 {
		id, err := newPointID(at, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if id <= last {
			t.Fatalf("%s, of %v, sorts before %s", id, at, last)
		}
		if !validID(id) {
			t.Fatalf("%q is no id", id)
		}
		last, at = id, at.Add(time.Millisecond)
	}
}
