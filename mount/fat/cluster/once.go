package cluster

import (
	"errors"
	"sync"

	"cairn/mount/filesys"
)

// Damaged says whether an error tells of the volume, and not of the way to it:
// the same read would fail again.
func Damaged(err error) bool {
	return errors.Is(err, filesys.ErrCorrupt) || errors.Is(err, filesys.ErrUnsupported)
}

// Once remembers what a function gave, unless that was an error that may pass.
func Once[T any](fn func() (T, error)) func() (T, error) {
	var (
		mu    sync.Mutex
		done  bool
		value T
		err   error
	)
	return func() (T, error) {
		mu.Lock()
		defer mu.Unlock()
		if !done {
			value, err = fn()
			done = err == nil || Damaged(err)
		}
		return value, err
	}
}
