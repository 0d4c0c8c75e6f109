package server

import (
	"context"
	"sync"
)

// ordered reads ahead: produce yields pieces of work, up to ahead of them are
// fetched at a time, each on a goroutine of its own, and emit gets the results
// in the order of the pieces, on the caller's. The first error, in that order,
// ends it and is returned; when ordered returns, all its goroutines have ended.
func ordered[T, R any](ctx context.Context, ahead int, produce func(yield func(T) error) error,
	fetch func(context.Context, T) (R, error), emit func(R) error) error {
	type result struct {
		r   R
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	queue := make(chan chan result, ahead-1) // one more is in emit's hands
	var produced error
	wg.Go(func() {
		defer close(queue)
		produced = produce(func(t T) error {
			c := make(chan result, 1)
			select {
			case queue <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
			wg.Go(func() {
				r, err := fetch(ctx, t)
				c <- result{r, err}
			})
			return nil
		})
	})
	for c := range queue {
		res := <-c
		if res.err != nil {
			return res.err
		}
		if err := emit(res.r); err != nil {
			return err
		}
	}
	return produced
}
