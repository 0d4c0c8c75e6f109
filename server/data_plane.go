package server

import (
	"context"
	"sync"
	"time"

	"cairn/server/upload"
)

// dataPlane is what the services that move data share: the open uploads of all
// vaults, and the leases of those who read recovery points.
type dataPlane struct {
	uploads *upload.Manager
	leases  *pointLeases
	// points makes changes of points' records one after the other.
	points sync.Mutex
}

func newDataPlane(s *Server) *dataPlane {
	return &dataPlane{
		uploads: upload.NewManager(upload.Options{Clock: serverClock{s.opts.Now}, Random: s.opts.Rand}),
		leases:  newPointLeases(s.opts.Now, s.opts.Rand),
	}
}

// DrainUploads is the data plane's part of a graceful stop: no new uploads are
// taken, those that are open may go on until ctx ends and are then abandoned.
// When it returns, no upload uses a store any more. What was acknowledged stays
// and is found by the next backup.
func (s *Server) DrainUploads(ctx context.Context) { s.data.uploads.Drain(ctx) }

// serverClock tells the server's time. Its timers are real: what they wake asks
// the time again.
type serverClock struct{ now func() time.Time }

func (c serverClock) Now() time.Time { return c.now() }

func (c serverClock) AfterFunc(d time.Duration, f func()) upload.Timer {
	return time.AfterFunc(d, f)
}
