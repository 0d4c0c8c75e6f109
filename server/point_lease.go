package server

import (
	"encoding/base32"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	pb "cairn/proto/cairn/v1"
)

const (
	defaultPointLease = 5 * time.Minute
	minPointLease     = time.Second
	maxPointLease     = 24 * time.Hour
	// maxPointLeases bounds what forgetful readers can leave behind.
	maxPointLeases = 10000
)

// pointLeases are what keeps recovery points from being deleted while somebody
// reads them. They live in memory: a lease is renewed every minute or so, which
// is not worth a write, and after a restart of the server its reader is told
// LEASE_NOT_FOUND with the next renewal and takes a new one. A point deleted in
// between is gone for its reader, as it is for one that takes no lease.
type pointLeases struct {
	now  func() time.Time
	rand io.Reader

	mu      sync.Mutex
	count   int
	byPoint map[PointName]*leasedPoint
}

type leasedPoint struct {
	leases map[string]pointLease // by id
	closed bool                  // being deleted: no new leases
}

type pointLease struct {
	expires time.Time
	holder  string
}

func newPointLeases(now func() time.Time, rand io.Reader) *pointLeases {
	return &pointLeases{now: now, rand: rand, byPoint: make(map[PointName]*leasedPoint)}
}

// take makes a lease, or renews the one of that id. Errors: LEASE_NOT_FOUND,
// RECOVERY_POINT_NOT_FOUND, QUOTA_DENIED.
func (l *pointLeases) take(n PointName, id, holder string, d time.Duration) (string, time.Time, error) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(n, now)
	p := l.byPoint[n]
	if id != "" {
		if p == nil || p.leases[id].expires.IsZero() {
			return "", time.Time{}, errLeaseNotFound(n, id)
		}
		if holder == "" {
			holder = p.leases[id].holder
		}
		p.leases[id] = pointLease{now.Add(d), holder}
		return id, now.Add(d), nil
	}
	if l.count >= maxPointLeases {
		for other := range l.byPoint {
			l.prune(other, now)
		}
		if l.count >= maxPointLeases {
			return "", time.Time{}, newError(pb.ErrorReason_ERROR_REASON_QUOTA_DENIED,
				"%d leases on recovery points are open, which is as many as the server keeps; release some, or try again when they have run out", l.count).
				code(codes.ResourceExhausted).retry(time.Minute)
		}
	}
	if p == nil {
		p = &leasedPoint{leases: make(map[string]pointLease)}
		l.byPoint[n] = p
	}
	if p.closed {
		return "", time.Time{}, errPointNotFound(n)
	}
	var b [10]byte
	if _, err := io.ReadFull(l.rand, b[:]); err != nil {
		return "", time.Time{}, fmt.Errorf("make a lease id: %w", err)
	}
	id = "l" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
	p.leases[id] = pointLease{now.Add(d), holder}
	l.count++
	return id, now.Add(d), nil
}

// release ends a lease. Error: LEASE_NOT_FOUND.
func (l *pointLeases) release(n PointName, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(n, l.now())
	p := l.byPoint[n]
	if p == nil || p.leases[id].expires.IsZero() {
		return errLeaseNotFound(n, id)
	}
	delete(p.leases, id)
	l.count--
	l.drop(n)
	return nil
}

// closePoint lets no one lease the point until reopen is called, so that it can
// be deleted. Error: RECOVERY_POINT_IN_USE, naming who reads it.
func (l *pointLeases) closePoint(n PointName) (reopen func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(n, l.now())
	p := l.byPoint[n]
	if p == nil {
		p = &leasedPoint{leases: make(map[string]pointLease)}
		l.byPoint[n] = p
	}
	if len(p.leases) > 0 {
		return nil, errPointInUse(n, p.leases)
	}
	if p.closed {
		return nil, errPointNotFound(n)
	}
	p.closed = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		p.closed = false
		l.drop(n)
	}, nil
}

// closePoint is leases.closePoint, and heeds the restores that are to read the
// point too: these hold it by being there, from the making of their job to its
// end, also over a restart.
func (s *Server) closePoint(n PointName) (reopen func(), err error) {
	reopen, err = s.data.leases.closePoint(n)
	if err != nil {
		return nil, err
	}
	// Who makes such a job has a lease meanwhile: so it is there, or comes too late.
	if job, ok := s.jobs.Reading(n.String()); ok {
		reopen()
		return nil, newError(pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE,
			"recovery point %q is being restored, or is to be, by %s; cancel that job, or wait for its end", n, job).
			with("name", n.String()).with("holders", "restore "+job).with("job", job)
	}
	return reopen, nil
}

// prune forgets the leases of a point that have run out.
func (l *pointLeases) prune(n PointName, now time.Time) {
	p := l.byPoint[n]
	if p == nil {
		return
	}
	for id, lease := range p.leases {
		if !now.Before(lease.expires) {
			delete(p.leases, id)
			l.count--
		}
	}
	l.drop(n)
}

func (l *pointLeases) drop(n PointName) {
	if p := l.byPoint[n]; p != nil && len(p.leases) == 0 && !p.closed {
		delete(l.byPoint, n)
	}
}

func errLeaseNotFound(n PointName, id string) error {
	return newError(pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		"lease %s on recovery point %q has run out, was released, or was lost with a restart of the server; take a new one with an empty lease_id", quote(id), n).
		with("name", n.String()).with("lease_id", id)
}

func errPointInUse(n PointName, leases map[string]pointLease) error {
	var holders []string
	var last time.Time
	for _, l := range leases {
		if !slices.Contains(holders, l.holder) && l.holder != "" {
			holders = append(holders, l.holder)
		}
		if l.expires.After(last) {
			last = l.expires
		}
	}
	slices.Sort(holders)
	who := "somebody"
	if len(holders) > 0 {
		who = strings.Join(holders[:min(3, len(holders))], ", ")
	}
	return newError(pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE,
		"recovery point %q is being read by %s; end that, or wait until %s when the last lease runs out unless it is renewed",
		n, who, last.UTC().Format(time.RFC3339)).
		with("name", n.String()).with("holders", strings.Join(holders, "; ")).with("expire_time", last.UTC().Format(time.RFC3339))
}
