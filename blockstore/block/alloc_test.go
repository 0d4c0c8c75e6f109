//go:build !race

package block

import "testing"

// TestNoAllocation is not for the race detector, under which sync.Pool forgets
// on purpose.
func TestNoAllocation(t *testing.T) {
	p := random(DefaultSize)
	clear(p[DefaultSize/2:])
	dst := make([]byte, 0, MaxEncodedLen(len(p)))
	plain := make([]byte, 0, len(p))
	for _, c := range []Compression{None, Fastest, Default} {
		s := Encode(nil, p, c)
		if n := testing.AllocsPerRun(100, func() { Encode(dst, p, c) }); n > 0 {
			t.Errorf("Encode %s: %v allocations", c, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := Open(plain, s, Sum(p)); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("Open %s: %v allocations", c, n)
		}
	}
}
