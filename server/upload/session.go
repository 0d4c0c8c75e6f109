package upload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cairn/blockstore"
	"cairn/blockstore/block"
)

// MaxDigests is how many digests one FindMissing may ask for.
const MaxDigests = 4096

// Session is one open upload. Its methods are safe for concurrent use. After
// it has ended they return the error that says how.
type Session struct {
	m     *Manager
	token string
	spec  Spec
	up    *blockstore.Upload

	blockSize int

	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	ops    sync.WaitGroup // calls that are using up

	endMu sync.Mutex // held by whoever commits or ends it

	mu     sync.Mutex
	lease  lease
	why    error    // why it ended, nil while it is open
	maps   []*Map   // as Spec.Disks, nil until written
	counts Received // of all streams
}

// Received counts blocks that came in.
type Received struct {
	Batches     int64
	NewBlocks   int64 // blocks that were new to the vault
	NewBytes    int64 // plain bytes of these
	StoredBytes int64 // bytes that these take in the vault
}

func (r *Received) add(o Received) {
	r.Batches += o.Batches
	r.NewBlocks += o.NewBlocks
	r.NewBytes += o.NewBytes
	r.StoredBytes += o.StoredBytes
}

func newSession(m *Manager, token string, up *blockstore.Upload, spec Spec) *Session {
	s := &Session{m: m, token: token, spec: spec, up: up, blockSize: spec.Store.Info().BlockSize, maps: make([]*Map, len(spec.Disks))}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.lease = lease{clock: m.clock, term: spec.Lease}
	return s
}

// Token names the upload.
func (s *Session) Token() string { return s.token }

// Spec is what the upload was created with.
func (s *Session) Spec() Spec { return s.spec }

// Renew extends the lease and says until when.
func (s *Session) Renew() (expires time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return time.Time{}, err
	}
	s.lease.extend()
	return s.lease.expires, nil
}

// open says whether the session goes on; s.mu is held. A lease that has run out
// counts at once, also before the timer has noticed.
func (s *Session) open() error {
	if s.why == nil && s.lease.left() <= 0 {
		return ErrExpired
	}
	return s.why
}

func (s *Session) startLease() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease.start(func() {
		s.mu.Lock()
		left := s.lease.left()
		if s.why == nil && left > 0 {
			s.lease.timer.Reset(left)
		}
		s.mu.Unlock()
		if left <= 0 {
			s.end(ErrExpired)
		}
	})
}

// begin opens a call that uses the store's upload; finish must follow. Both
// extend the lease.
func (s *Session) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return err
	}
	s.lease.extend()
	s.lease.busy++
	s.ops.Add(1)
	return nil
}

func (s *Session) finish() {
	s.idle()
	s.ops.Done()
}

// idle takes back one reason why the lease cannot run out.
func (s *Session) idle() {
	s.mu.Lock()
	s.lease.busy--
	s.lease.extend()
	s.mu.Unlock()
}

// Abort ends the upload without a point and waits until what it had pinned is
// released. Calls under way, and later ones, fail with why.
func (s *Session) Abort(why error) { s.end(why) }

func (s *Session) end(why error) {
	if s.close(why) && s.spec.Ended != nil {
		s.spec.Ended(why)
	}
}

// close is end without telling; false if the upload had ended before.
func (s *Session) close(why error) bool {
	s.endMu.Lock()
	defer s.endMu.Unlock()
	s.mu.Lock()
	ended := s.why != nil
	if !ended {
		s.why = why
		s.lease.timer.Stop()
	}
	s.mu.Unlock()
	if ended {
		return false
	}
	s.cancel(why)
	s.ops.Wait()
	s.up.Abort()
	s.m.forget(s, why, nil)
	return true
}

// reason replaces errors of a store that only say that the upload has ended.
func (s *Session) reason(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil && (errors.Is(err, blockstore.ErrUploadClosed) || errors.Is(err, context.Canceled)) {
		return s.why
	}
	return err
}

// flush makes durable what was put so far.
func (s *Session) flush() error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.finish()
	return s.reason(s.up.Flush(s.ctx))
}

// Received is what came in so far, through all streams.
func (s *Session) Received() Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// count adds what a stream has brought.
func (s *Session) count(got Received) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.add(got)
}

// FindMissing returns the indexes of the digests, at most MaxDigests, that the
// vault lacks, in ascending order. The others are pinned until the upload ends.
// Zero digests are refused: ErrZeroBlock.
func (s *Session) FindMissing(ctx context.Context, ds []block.Digest) ([]int, error) {
	if len(ds) > MaxDigests {
		return nil, &TooLargeError{What: "digests", Have: len(ds), Max: MaxDigests}
	}
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.finish()
	missing, err := s.up.FindMissing(ctx, ds)
	return missing, s.reason(err)
}

// StoreFunc makes the point durable and visible, together with the mutations.
type StoreFunc func(blockstore.Point, ...blockstore.Mutation) error

// Commit makes the recovery point and ends the upload. make is given the maps,
// in the order of Spec.Disks, and the counts of what came in; it calls store,
// and returns what Manager.Result is to give. If it fails the upload stays open.
// Of several callers one commits; the others wait and are told that the upload
// is gone, and find the result at the Manager.
func (s *Session) Commit(ctx context.Context, make func(maps []Map, got Received, store StoreFunc) (result any, err error)) (any, error) {
	result, err := s.closeCommit(ctx, make)
	if err == nil && s.spec.Ended != nil {
		s.spec.Ended(nil)
	}
	return result, err
}

func (s *Session) closeCommit(ctx context.Context, make func([]Map, Received, StoreFunc) (any, error)) (any, error) {
	s.endMu.Lock()
	defer s.endMu.Unlock()
	if err := s.begin(); err != nil {
		return nil, err
	}
	result, err := s.commit(ctx, make)
	s.finish()
	if err != nil {
		return nil, s.reason(err)
	}
	why := fmt.Errorf("%w: it was committed", ErrNotFound)
	s.mu.Lock()
	s.why = why
	s.lease.timer.Stop()
	s.mu.Unlock()
	s.cancel(why)
	s.ops.Wait()
	s.m.forget(s, why, result)
	return result, nil
}

func (s *Session) commit(ctx context.Context, make func([]Map, Received, StoreFunc) (any, error)) (any, error) {
	s.mu.Lock()
	got := s.counts
	var maps []Map
	var lacking []string
	for i, m := range s.maps {
		if m == nil {
			lacking = append(lacking, s.spec.Disks[i].Name)
			continue
		}
		maps = append(maps, *m)
	}
	s.mu.Unlock()
	if len(lacking) > 0 {
		return nil, &MapError{Disk: lacking[0], Lacking: lacking}
	}
	return make(maps, got, func(p blockstore.Point, muts ...blockstore.Mutation) error {
		return s.up.Commit(ctx, p, muts...)
	})
}
