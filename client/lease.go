package client

import (
	"context"
	"fmt"
	"os"
	"path"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/types/known/durationpb"

	cairnv1 "cairn/proto/cairn/v1"
)

// leaseTime is how long a lease outlives a reader that died.
const leaseTime = 2 * time.Minute

// HoldPoint leases a recovery point, so that it is not deleted while it is
// read, and keeps renewing the lease until release is called. holder says who
// reads, for the person who wonders why the point cannot be deleted.
//
// A server that was restarted knows of no leases: as soon as the connection is
// back a new one is taken.
func (c *Client) HoldPoint(ctx context.Context, point, holder string) (release func(), err error) {
	l := &lease{c: c, req: &cairnv1.LeaseRecoveryPointRequest{Name: point, Duration: durationpb.New(leaseTime), Holder: holder}}
	resp, err := c.Points.LeaseRecoveryPoint(ctx, l.req)
	if err != nil {
		return nil, err
	}
	l.req.LeaseId = resp.GetLeaseId()
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { l.keep(ctx) })
	return func() {
		stop()
		wg.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		// A lease that cannot be given back runs out by itself.
		_, _ = c.Points.ReleaseRecoveryPoint(ctx, &cairnv1.ReleaseRecoveryPointRequest{Name: point, LeaseId: l.req.GetLeaseId()})
	}, nil
}

// lease is a lease that is kept.
type lease struct {
	c   *Client
	req *cairnv1.LeaseRecoveryPointRequest
}

// keep renews the lease until ctx ends: every quarter of its time, and whenever
// the connection is back.
func (l *lease) keep(ctx context.Context) {
	state := l.c.conn.GetState()
	for next := time.Now().Add(leaseTime / 4); ; {
		until, cancel := context.WithDeadline(ctx, next)
		changed := l.c.conn.WaitForStateChange(until, state)
		cancel()
		if ctx.Err() != nil {
			return
		}
		state = l.c.conn.GetState()
		switch {
		case changed && state == connectivity.Idle:
			l.c.conn.Connect() // don't wait for somebody who reads
			continue
		case changed && state != connectivity.Ready:
			continue
		}
		if l.renew(ctx) {
			l.c.outage.ended()
		}
		next = time.Now().Add(leaseTime / 4)
	}
}

// renew says whether the lease holds.
func (l *lease) renew(ctx context.Context) bool {
	_, err := l.c.Points.LeaseRecoveryPoint(ctx, l.req)
	if Reason(err) == cairnv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND {
		// The server was restarted and has forgotten it: take a new one.
		var resp *cairnv1.LeaseRecoveryPointResponse
		again := &cairnv1.LeaseRecoveryPointRequest{Name: l.req.Name, Duration: l.req.Duration, Holder: l.req.Holder}
		if resp, err = l.c.Points.LeaseRecoveryPoint(ctx, again); err == nil {
			l.req.LeaseId = resp.GetLeaseId()
		}
	}
	return err == nil
}

// Holder describes this process for a lease: "mount on web1, pid 123".
func Holder(what string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s on %s, pid %d", what, path.Base(host), os.Getpid())
}
