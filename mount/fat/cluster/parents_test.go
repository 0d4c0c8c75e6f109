package cluster

import (
	"errors"
	"testing"

	"cairn/mount/filesys"
)

// TestParentsUnreadable: what the device says is passed on, and hides nothing
// from the next search.
func TestParentsUnreadable(t *testing.T) {
	away := errors.New("the device is away")
	tree := map[uint64][]uint64{1: {2, 3}, 2: {4}, 3: {5}}
	failing := uint64(2)
	p := NewParents(1, func(dir uint64, fn func(uint64) bool) error {
		if dir == failing {
			return away
		}
		for _, child := range tree[dir] {
			if !fn(child) {
				break
			}
		}
		return nil
	})
	if got, err := p.Of(4); !errors.Is(err, away) || errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("%d, %v", got, err)
	}
	if got, err := p.Of(5); err == nil && got != 3 || err != nil && !errors.Is(err, away) {
		t.Errorf("%d, %v", got, err)
	}
	failing = 0
	if got, err := p.Of(4); err != nil || got != 2 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := p.Of(6); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
