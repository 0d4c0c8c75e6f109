package upload

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"cairn/blockstore"
)

// What may have become of an upload. Callers tell them apart with errors.Is.
var (
	// ErrNotFound: no upload has that token, or not any more.
	ErrNotFound = errors.New("upload not found")
	// ErrExpired: the upload's lease ran out.
	ErrExpired = errors.New("upload expired")
	// ErrCancelled: the upload's job was cancelled.
	ErrCancelled = errors.New("upload cancelled")
	// ErrStopping: the server stops and takes no new uploads.
	ErrStopping = errors.New("server is stopping")
)

// Options of a Manager. The zero value is good for production.
type Options struct {
	// Clock is SystemClock if nil.
	Clock Clock
	// Random makes tokens; crypto/rand's Reader if nil.
	Random io.Reader
	// Memory bounds the stored bytes in flight, over all streams; 0 is 64 MiB.
	// It must have room for the largest block.
	Memory int64
	// Workers is how many batches are decoded and hashed at a time; 0 is one per
	// core.
	Workers int
}

const (
	defaultMemory = 64 << 20
	// remembered is how many ended sessions are told from unknown ones, and
	// rememberedFor for how long.
	remembered    = 4096
	rememberedFor = time.Hour
)

// Manager holds the open uploads of a server. It is safe for concurrent use.
type Manager struct {
	clock   Clock
	random  io.Reader
	memory  *semaphore.Weighted // bytes of batches in flight
	workers *semaphore.Weighted // batches being decoded

	created atomic.Int64

	mu       sync.Mutex
	stopping bool
	open     map[string]*Session // by token
	byKey    map[string]*Session // by Spec.Key
	ended    map[string]*ending  // by token
	order    []*ending           // oldest first
	idle     chan struct{}       // closed and replaced whenever a session ends
}

// NewManager makes a Manager without uploads.
func NewManager(o Options) *Manager {
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return &Manager{
		clock: o.Clock, random: o.Random,
		memory: semaphore.NewWeighted(o.Memory), workers: semaphore.NewWeighted(int64(o.Workers)),
		open: map[string]*Session{}, byKey: map[string]*Session{}, ended: map[string]*ending{},
		idle: make(chan struct{}),
	}
}

// ending is what is remembered of an upload.
type ending struct {
	token  string
	at     time.Time
	why    error // what calls are told
	result any   // of its commit, nil without
}

// Spec describes an upload.
type Spec struct {
	// Store is where the blocks go.
	Store *blockstore.Store
	// Key allows one open upload: the job's name. Creating another with the
	// same key ends the first, as ErrNotFound: its owner has started anew.
	Key string
	// Disks that the point will have.
	Disks []Disk
	// Base is the id of the point whose disks the maps may build on, empty if
	// there is none. It is pinned for as long as the upload is open.
	Base string
	// Lease is how long the upload lives without a call; 0 is DefaultLease.
	Lease time.Duration
	// Ended, if set, is called once when the upload has ended and uses the store
	// no more; the error says why, nil is a commit. It must not call the session.
	Ended func(error)
	// Owner is the caller's own.
	Owner any
}

// Disk is a disk that an upload announces.
type Disk struct {
	Name string // target, "vda"
	Size int64  // bytes
	Base *Map   // the disk of that name in the base, nil if there is none
}

// Create opens an upload.
func (m *Manager) Create(ctx context.Context, spec Spec) (*Session, error) {
	if spec.Lease == 0 {
		spec.Lease = DefaultLease
	}
	token, err := m.newToken()
	if err != nil {
		return nil, err
	}
	// The token is a secret, and the store's id stands in messages.
	up, err := spec.Store.StartUpload(fmt.Sprintf("%s#%d", spec.Key, m.created.Add(1)))
	if err != nil {
		return nil, err
	}
	if spec.Base != "" {
		if err := up.PinPoint(ctx, spec.Base); err != nil {
			up.Abort()
			return nil, err
		}
	}
	s := newSession(m, token, up, spec)
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		s.cancel(ErrStopping)
		up.Abort()
		return nil, ErrStopping
	}
	older := m.byKey[spec.Key]
	m.open[token], m.byKey[spec.Key] = s, s
	s.startLease() // before anybody else can end it
	m.mu.Unlock()
	if older != nil {
		older.end(fmt.Errorf("%w: a newer upload of the same job has taken its place", ErrNotFound))
	}
	return s, nil
}

// newToken is 160 random bits.
func (m *Manager) newToken() (string, error) {
	var b [20]byte
	if _, err := io.ReadFull(m.random, b[:]); err != nil {
		return "", fmt.Errorf("make an upload token: %w", err)
	}
	return "u" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:])), nil
}

// Get returns an open upload. Otherwise the error says what became of it.
func (m *Manager) Get(token string) (*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.open[token]; s != nil {
		return s, nil
	}
	if e := m.ended[token]; e != nil {
		return nil, e.why
	}
	return nil, ErrNotFound
}

// Result returns what the commit of an ended upload gave, nil if the upload is
// not known to be committed.
func (m *Manager) Result(token string) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.ended[token]; e != nil {
		return e.result
	}
	return nil
}

// End ends the open upload of a key, if there is one, and waits until what it
// had pinned is released. Its later calls fail with why.
func (m *Manager) End(key string, why error) {
	m.mu.Lock()
	s := m.byKey[key]
	m.mu.Unlock()
	if s != nil {
		s.end(why)
	}
}

// Open is the number of open uploads.
func (m *Manager) Open() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.open)
}

// Drain takes no new uploads, waits until the open ones have ended, or ctx has,
// and ends those that are left. When it returns nothing of the Manager uses a
// store any more.
func (m *Manager) Drain(ctx context.Context) {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	for {
		m.mu.Lock()
		n, idle := len(m.open), m.idle
		m.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-idle:
			continue
		case <-ctx.Done():
		}
		break
	}
	m.mu.Lock()
	left := slices.Collect(maps.Values(m.open))
	m.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range left {
		wg.Go(func() { s.end(ErrStopping) })
	}
	wg.Wait()
}

// forget moves a session that has ended to those that are remembered.
func (m *Manager) forget(s *Session, why error, result any) {
	e := &ending{token: s.token, at: m.clock.Now(), why: why, result: result}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, s.token)
	if m.byKey[s.spec.Key] == s {
		delete(m.byKey, s.spec.Key)
	}
	m.ended[e.token] = e
	m.order = append(m.order, e)
	for len(m.order) > remembered || e.at.Sub(m.order[0].at) > rememberedFor {
		delete(m.ended, m.order[0].token)
		m.order[0] = nil
		m.order = m.order[1:]
	}
	close(m.idle)
	m.idle = make(chan struct{})
}
