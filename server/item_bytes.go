package server

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"cairn/blockstore"
	"cairn/server/job"
)

// itemBytesCache keeps what a vault's items take until its points change. To find
// out, all maps and the index have to be read: seconds for a small vault, minutes
// for one of many TiB.
type itemBytesCache struct {
	flight singleflight.Group

	mu    sync.Mutex
	of    itemBytesOf
	bytes map[string]blockstore.GroupUsage
	took  time.Duration // to find out
}

// itemBytesOf stands for a set of points.
type itemBytesOf struct {
	store         *blockstore.Store // which counts anew when it is opened anew
	made, deleted uint64
}

func pointsOf(st *blockstore.Store) itemBytesOf {
	c := st.Changes()
	return itemBytesOf{st, c.Made, c.Deleted}
}

func (c *itemBytesCache) get(of itemBytesOf) (map[string]blockstore.GroupUsage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.bytes != nil && c.of == of
}

// latest gives what was found out last, be it of earlier points, and how long that
// took; nil if it never was.
func (c *itemBytesCache) latest() (map[string]blockstore.GroupUsage, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.took
}

// itemBytes tells by item id what the points of each item take in the vault's
// store, which the caller keeps open. Items without points are not in it. Callers
// at the same time share one computation, which goes on when they give up. The
// map must not be changed.
func (s *Server) itemBytes(ctx context.Context, v *Vault) (map[string]blockstore.GroupUsage, error) {
	if bytes, ok := v.bytes.get(pointsOf(v.Store)); ok {
		return bytes, nil
	}
	done := v.bytes.flight.DoChan("", func() (any, error) {
		release, err := v.use()
		if err != nil {
			return nil, err
		}
		defer release()
		of, began := pointsOf(v.Store), time.Now()
		bytes, err := v.Store.Usage(s.ctx, func(id string) string {
			item, _, _ := strings.Cut(id, "/")
			return item
		})
		if err != nil {
			return nil, err
		}
		v.bytes.mu.Lock()
		defer v.bytes.mu.Unlock()
		v.bytes.of, v.bytes.bytes, v.bytes.took = of, bytes, time.Since(began)
		return bytes, nil
	})
	select {
	case r := <-done:
		if r.Err != nil {
			if s.ctx.Err() != nil && errors.Is(r.Err, context.Canceled) {
				return nil, job.ErrStopping
			}
			return nil, r.Err
		}
		return r.Val.(map[string]blockstore.GroupUsage), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
