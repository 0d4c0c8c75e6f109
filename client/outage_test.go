package client

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cairn/blockstore/block"
	cairnv1 "cairn/proto/cairn/v1"
)

// place is a socket on which a server comes and goes.
type place struct {
	t    *testing.T
	path string
	stop func()
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, path: filepath.Join(t.TempDir(), "s"), stop: func() {}}
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *place) serve(register func(*grpc.Server)) {
	p.t.Helper()
	l, err := net.Listen("unix", p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	p.stop = func() { s.Stop(); <-done; p.stop = func() {} }
}

func (p *place) dial() *Client {
	p.t.Helper()
	c, err := Dial("unix:" + p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

var errGone = status.Error(codes.Unavailable, "connection refused")

// TestOutageIsShared: who waits for a server gives up when it has been gone for
// the limit, whenever he began to wait; then nobody waits, until it is back.
func TestOutageIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outage
		var back atomic.Bool
		calls := 0
		read := func() (took time.Duration, n int, err error) {
			start := time.Now()
			calls = 0
			err = o.retry(context.Background(), time.Minute, func() (time.Time, error) {
				calls++
				if back.Load() {
					return time.Now(), nil
				}
				return time.Time{}, errGone
			})
			return time.Since(start), calls, err
		}
		took, n, err := read()
		if !Transient(err) || !strings.Contains(err.Error(), "has been gone for 1m0s") || took != time.Minute || n < 20 {
			t.Errorf("first: %v after %v and %d calls", err, took, n)
		}
		if took, n, err := read(); err == nil || took != 0 || n != 1 {
			t.Errorf("second: %v after %v and %d calls, want one call", err, took, n)
		}
		back.Store(true)
		if _, n, err := read(); err != nil || n != 1 {
			t.Errorf("it is back: %v after %d calls", err, n)
		}
		back.Store(false)
		time.AfterFunc(40*time.Second, func() { back.Store(true) })
		if took, _, err := read(); err != nil || took < 40*time.Second {
			t.Errorf("a second outage: %v after %v", err, took)
		}
		refused := status.Error(codes.NotFound, "no such point")
		err = o.retry(context.Background(), time.Minute, func() (time.Time, error) { return time.Time{}, refused })
		if !errors.Is(err, refused) {
			t.Errorf("an answer: %v", err)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("enough")
		time.AfterFunc(time.Second, func() { cancel(why) })
		err = o.retry(ctx, time.Minute, func() (time.Time, error) { return time.Time{}, errGone })
		if !errors.Is(err, why) {
			t.Errorf("cancelled: %v", err)
		}
		if err := o.retry(context.Background(), 0, func() (time.Time, error) { return time.Time{}, errGone }); !Transient(err) {
			t.Errorf("no patience: %v", err)
		}
	})
}

// TestReadsOutliveARestart: a read that meets a server which is gone waits for
// it, and gets its bytes.
func TestReadsOutliveARestart(t *testing.T) {
	stored, ds, plains := blocks(5, 16<<10)
	f := &fakeBlocks{stored: stored}
	p := newPlace(t)
	with := func(s *grpc.Server) { cairnv1.RegisterBlockServiceServer(s, f) }
	p.serve(with)
	r := p.dial().Reader("p")
	r.RetryFor = time.Minute
	if _, err := r.ReadBlocks(context.Background(), ds[:2]); err != nil {
		t.Fatal(err)
	}
	p.stop()
	type answer struct {
		got [][]byte
		err error
	}
	answers := make(chan answer)
	for range 20 {
		go func() {
			got, err := r.ReadBlocks(context.Background(), ds[2:])
			answers <- answer{got, err}
		}()
	}
	// Wait until one of them has met the outage.
	for met := false; !met; {
		select {
		case a := <-answers:
			t.Fatalf("a read without a server: %v", a.err)
		default:
		}
		r.outage.mu.Lock()
		met = !r.outage.since.IsZero()
		r.outage.mu.Unlock()
	}
	p.serve(with)
	for range 20 {
		a := <-answers
		if a.err != nil {
			t.Fatal(a.err)
		}
		for i, b := range a.got {
			if string(b) != string(plains[2+i]) {
				t.Errorf("block %d is another", i)
			}
		}
	}
}

// silentBlocks takes calls and says nothing.
type silentBlocks struct {
	cairnv1.UnimplementedBlockServiceServer
}

func (silentBlocks) ReadBlocks(_ *cairnv1.ReadBlocksRequest, s cairnv1.BlockService_ReadBlocksServer) error {
	<-s.Context().Done()
	return s.Context().Err()
}

func TestSilentServerIsLeft(t *testing.T) {
	p := newPlace(t)
	p.serve(func(s *grpc.Server) { cairnv1.RegisterBlockServiceServer(s, silentBlocks{}) })
	r := p.dial().Reader("p")
	r.RetryFor = 10 * time.Millisecond
	_, err := r.ReadBlocks(context.Background(), make([]block.Digest, 1))
	if !errors.Is(err, errSilent) || !strings.Contains(err.Error(), "read blocks of p") {
		t.Errorf("got %v", err)
	}
}

// leases gives leases, and forgets them with itself.
type leases struct {
	cairnv1.UnimplementedRecoveryPointServiceServer
	id    string
	asked chan *cairnv1.LeaseRecoveryPointRequest
}

func (l *leases) LeaseRecoveryPoint(_ context.Context, r *cairnv1.LeaseRecoveryPointRequest) (*cairnv1.LeaseRecoveryPointResponse, error) {
	l.asked <- r
	if r.GetLeaseId() != "" && r.GetLeaseId() != l.id {
		return nil, failure(codes.NotFound, cairnv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND, "no such lease")
	}
	return &cairnv1.LeaseRecoveryPointResponse{LeaseId: l.id}, nil
}

func (l *leases) ReleaseRecoveryPoint(_ context.Context, r *cairnv1.ReleaseRecoveryPointRequest) (*cairnv1.ReleaseRecoveryPointResponse, error) {
	l.asked <- &cairnv1.LeaseRecoveryPointRequest{LeaseId: "released " + r.GetLeaseId()}
	return &cairnv1.ReleaseRecoveryPointResponse{}, nil
}

// TestLeaseOutlivesARestart: long before it would be renewed, a new lease is
// taken from a server that has forgotten the old one.
func TestLeaseOutlivesARestart(t *testing.T) {
	p := newPlace(t)
	asked := make(chan *cairnv1.LeaseRecoveryPointRequest, 10)
	next := func(want string) {
		t.Helper()
		select {
		case r := <-asked:
			if r.GetLeaseId() != want {
				t.Errorf("asked for lease %q, want %q", r.GetLeaseId(), want)
			}
		case <-time.After(leaseTime / 5):
			t.Fatalf("nobody asks for lease %q", want)
		}
	}
	with := func(id string) {
		p.serve(func(s *grpc.Server) {
			cairnv1.RegisterRecoveryPointServiceServer(s, &leases{id: id, asked: asked})
		})
	}
	with("one")
	release, err := p.dial().HoldPoint(context.Background(), "p", "test")
	if err != nil {
		t.Fatal(err)
	}
	next("")
	p.stop()
	with("two")
	next("one")
	next("")
	release()
	if r := <-asked; !strings.HasPrefix(r.GetLeaseId(), "released ") {
		t.Errorf("asked for lease %q, want it released", r.GetLeaseId())
	}
}
