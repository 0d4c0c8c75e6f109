package blockstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Store is an open vault. It is safe for concurrent use.
type Store struct {
	dir    string
	o      Options
	format formatFile
	fs     vfs.FS // guarded
	g      *guard
	lock   io.Closer
	res    *Resources
	ownRes bool
	num    uint64 // names the store in the cache of verified blocks
	ro     bool
	why    error // for which it is read-only, if nobody asked for it

	index, blocks *pebble.DB
	damaged       damagedIDs

	// pins orders look-ups that pin, which hold it for reading, against what
	// takes blocks away, which holds it for writing: the settling of a failed
	// table, and a sweep.
	pins sync.RWMutex
	// barrier is there while a Reclaim marks and sweeps the index. It is guarded
	// by pins.
	barrier                  *barrier
	reclaiming               sync.Mutex    // held by the one Reclaim that runs
	removed                  atomic.Uint64 // stored bytes whose index entries were removed since the store was opened
	made, deleted, abandoned atomic.Uint64 // see Changes
	pipe                     *pipeline     // nil when read-only

	// merging is held while small tables are written together; those with ids
	// below mergeFloor are left alone.
	merging sync.Mutex
	// replacing is held for writing while a table takes the place of others, and
	// for reading while an iterator over blocks/ is made: see blockIter.
	replacing  sync.RWMutex
	mergeFloor atomic.Uint64

	// apply makes batches to the index one after the other; its holder may change
	// st. One at a time is enough, as each is synced, and Pebble panics when a
	// batch meets a WAL that failed under another.
	apply  sync.Mutex
	st     atomic.Pointer[state]
	opened state // as the vault was found

	mu      sync.Mutex
	idle    sync.Cond // no calls
	calls   int       // running calls
	closed  bool
	uploads map[string]*Upload
	held    map[*hold]struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
}

// Info says what vault a Store is.
type Info struct {
	Dir       string
	UUID      string // made with the vault, kept by copies of it
	Version   int    // of the format on disk
	BlockSize int    // bytes of plain data
	ReadOnly  bool   // by Options, or because the file system is read-only or full
	Failed    error  // why nothing can be written: ErrFailed, or ErrFull when it was opened
}

// storeNum counts the stores of this process.
var storeNum atomic.Uint64

// Open opens the vault in dir. The lock is held until Close.
func Open(dir string, o Options) (*Store, error) {
	s, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", dir, err)
	}
	return s, nil
}

func newStore(dir string, o Options) (*Store, error) {
	o = o.withDefaults()
	if o.FS == vfs.Default { // one lock, whatever path leads to it
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		dir = abs
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
	}
	g := newGuard(dir, o.Logger)
	s := &Store{
		dir: dir, o: o, g: g, fs: guardFS{o.FS, g}, ro: o.ReadOnly,
		num: storeNum.Add(1), res: o.Resources,
		uploads: map[string]*Upload{}, held: map[*hold]struct{}{},
	}
	s.idle.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func open(dir string, o Options) (*Store, error) {
	s, err := newStore(dir, o)
	if err != nil {
		return nil, err
	}
	if s.format, err = readFormat(s.fs, s.dir); err != nil {
		return nil, err
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err = s.checkSpace(); err == nil {
		err = s.openDBs(false)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// takeLock locks the vault, or finds out that its file system is read-only and
// needs none.
func (s *Store) takeLock() error {
	lock, err := s.fs.Lock(s.path(lockName))
	var pathErr *fs.PathError
	switch {
	case err == nil:
		s.lock = lock
	case errors.Is(err, syscall.EROFS):
		s.lock, s.ro, s.g.readOnly = nopCloser{}, true, true
	case errors.As(err, &pathErr):
		return fmt.Errorf("lock: %w", err)
	default:
		return fmt.Errorf("%w: another process, or another part of this one, holds %s: one program at a time opens a vault (%v)", ErrLocked, s.path(lockName), err)
	}
	return nil
}

// checkSpace makes the store read-only if the disk has no room for what Pebble
// writes when it opens a database.
func (s *Store) checkSpace() error {
	if s.ro {
		return nil
	}
	err := s.room(s.o.MinFree / 8)
	if errors.Is(err, ErrFull) {
		s.ro, s.why = true, err
		s.o.Logger.Errorf("%s: opened read-only: %v", s.dir, err)
		return nil
	}
	return err
}

func (s *Store) path(name string) string { return s.fs.PathJoin(s.dir, name) }

// start recovers the state and starts the pipeline.
func (s *Store) start() error {
	st := state{next: 1}
	v, closer, err := s.index.Get([]byte(stateKey))
	if err == nil {
		st, err = parseState(v)
		closer.Close()
	} else if errors.Is(err, pebble.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return err
	}
	s.st.Store(&st)
	s.opened = st
	if s.ro {
		return nil
	}
	last, err := s.lastID()
	if err != nil {
		return err
	}
	// Blocks behind st.next were ingested before a crash and never acknowledged.
	st.next = max(st.next, last+1)
	if s.pipe, err = newPipeline(s); err != nil {
		return err
	}
	return s.g.failure()
}

// lastID is the greatest id in blocks/, 0 if there is none. If the last block
// cannot be read, what the manifest says of its table serves as well.
func (s *Store) lastID() (uint64, error) {
	it, err := s.blockIter(nil)
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if it.Last() {
		return parseBlockKey(it.Key())
	}
	if it.Error() == nil {
		return 0, nil
	}
	s.o.Logger.Errorf("%s: the last block cannot be read: %v", s.dir, it.Error())
	levels, err := s.blocks.SSTables()
	if err != nil {
		return 0, err
	}
	var last uint64
	for _, tables := range levels {
		for _, t := range tables {
			id, err := parseBlockKey(t.Largest.UserKey)
			if err != nil {
				return 0, err
			}
			last = max(last, id)
		}
	}
	return last, nil
}

// Close ends running calls, abandons uploads and what they have not flushed,
// and closes the vault. Calls on a closed store return ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	s.mu.Unlock()
	return s.release()
}

func (s *Store) release() error {
	s.cancel()
	if s.pipe != nil {
		s.pipe.wait()
	}
	s.mu.Lock()
	for s.calls > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
	var errs []error
	for _, db := range []*pebble.DB{s.blocks, s.index} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.res != nil {
		s.res.verified.forget(s.num)
		if s.ownRes {
			s.res.Close()
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if s.g.failure() != nil {
		return nil // that is known, and closing cannot make it better
	}
	return errors.Join(errs...)
}

// enter begins a call on an open store; leave ends it.
func (s *Store) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.calls++
	return nil
}

func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls--; s.calls == 0 {
		s.idle.Broadcast()
	}
}

// enterWrite is enter for a call that writes.
func (s *Store) enterWrite() error {
	if s.why != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, s.why)
	}
	if s.ro {
		return fmt.Errorf("%w: %s", ErrReadOnly, s.dir)
	}
	if err := s.g.failure(); err != nil {
		return err
	}
	return s.enter()
}

// Info never changes but for Failed.
func (s *Store) Info() Info {
	return Info{
		Dir: s.dir, UUID: s.format.uuid, Version: s.format.version, BlockSize: s.format.blockSize,
		ReadOnly: s.ro, Failed: cmp.Or(s.why, s.g.failure()),
	}
}

// room checks that the file system has need bytes free.
func (s *Store) room(need uint64) error {
	u, err := s.fs.GetDiskUsage(s.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	if u.AvailBytes < need {
		return &FullError{Path: s.dir, Free: u.AvailBytes, Need: need}
	}
	return nil
}
