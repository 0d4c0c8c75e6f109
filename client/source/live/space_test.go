package live

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestWatchSpace(t *testing.T) {
	var looked atomic.Int64
	look := func(string) (int64, error) {
		switch n := looked.Add(1); {
		case n == 1:
			return 0, errors.New("not for now")
		case n < 4:
			return 1000, nil
		default:
			return 999, nil
		}
	}
	told := make(chan int64, 2)
	stop := watchSpace(t.Context(), look, "", 1000, func(free int64) { told <- free })
	if free := <-told; free != 999 {
		t.Errorf("%d bytes free", free)
	}
	stop()
	stop()
	if len(told) != 0 {
		t.Error("told twice")
	}
}

func TestWatchSpaceEnds(t *testing.T) {
	full := func(int64) { t.Error("full") }
	WatchSpace(t.Context(), t.TempDir(), 1, full)()
	ctx, cancel := context.WithCancel(t.Context())
	stop := WatchSpace(ctx, t.TempDir(), 1, full)
	cancel()
	stop()
	told := make(chan int64, 1)
	stop = WatchSpace(t.Context(), t.TempDir(), 1<<62, func(free int64) { told <- free })
	if free := <-told; free < 0 {
		t.Errorf("%d bytes free", free)
	}
	stop()
}
