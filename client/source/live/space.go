package live

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WatchSpace watches the file system that dir is on and calls full once, when
// less than reserve bytes are left to us, in a goroutine of its own: the caller
// ends the snapshot before the guest's writes would fail for it. It watches
// until full was called, ctx is done or stop is called; stop waits until a call
// of full has returned. So full must not call stop.
//
// The file system is looked at often enough that a guest that overwrites 4 GiB
// a second does not get past a reserve of 256 MiB unseen.
func WatchSpace(ctx context.Context, dir string, reserve int64, full func(free int64)) (stop func()) {
	return watchSpace(ctx, freeBytes, dir, reserve, full)
}

const (
	spaceSoon = 50 * time.Millisecond // when little is left
	spaceLate = time.Second           // when there is more than can be filled by then
	spaceRate = 4 << 30               // bytes per second that a guest may overwrite
)

func watchSpace(ctx context.Context, look func(dir string) (int64, error), dir string, reserve int64, full func(int64)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		defer cancel()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			free, err := look(dir)
			switch {
			case err == nil && free < reserve:
				full(free)
				return
			case err == nil && free-reserve > spaceRate:
				timer.Reset(spaceLate)
			default:
				timer.Reset(spaceSoon)
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// freeBytes returns what an ordinary user may still fill: a hypervisor is one.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
