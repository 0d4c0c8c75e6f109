package blockstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"cairn/blockstore/block"
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
	pipe *pipeline // nil when read-only

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

// Create makes a vault in dir, which must not exist, or be empty but for what a
// broken-off Create left, and opens it.
func Create(dir string, o Options) (*Store, error) {
	s, err := create(dir, o)
	if err != nil {
		return nil, fmt.Errorf("create vault %s: %w", dir, err)
	}
	return s, nil
}

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

func create(dir string, o Options) (*Store, error) {
	if o.ReadOnly {
		return nil, ErrReadOnly
	}
	s, err := newStore(dir, o)
	if err != nil {
		return nil, err
	}
	if err := block.ValidSize(s.o.BlockSize); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	s.format = formatFile{version: FormatVersion, uuid: uuid.NewString(), blockSize: s.o.BlockSize}
	if s.ro {
		err = ErrReadOnly
	} else {
		err = s.createFiles()
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// createFiles ends with the rename that makes the directory a vault.
func (s *Store) createFiles() error {
	if err := s.clearForCreate(); err != nil {
		return err
	}
	if err := s.room(s.o.MinFree); err != nil {
		return err
	}
	if err := writeFile(s.fs, s.path(newFormatName), s.format.String()); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.dir); err != nil {
		return err
	}
	if err := s.openDBs(true); err != nil {
		return err
	}
	if err := s.fs.Rename(s.path(newFormatName), s.path(formatName)); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.dir); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.fs.PathDir(s.dir)); err != nil {
		return err
	}
	return s.g.failure() // the guard keeps some errors to itself
}

// clearForCreate removes what a Create left that did not come to its end, which
// shows in the file with which it began, and refuses everything else.
func (s *Store) clearForCreate() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	var begun bool
	var foreign []string
	for _, n := range names {
		switch n {
		case formatName:
			return fmt.Errorf("%w: there is a vault", ErrExists)
		case newFormatName:
			begun = true
		case lockName, "lost+found":
		case indexName, blocksName, incomingName:
			foreign = append(foreign, n)
		default:
			return fmt.Errorf("%w: the directory is not empty, it has %s", ErrExists, n)
		}
	}
	if !begun && len(foreign) > 0 {
		return fmt.Errorf("%w: the directory has %s but no %s: a damaged vault, perhaps", ErrExists, strings.Join(foreign, ", "), formatName)
	}
	for _, n := range foreign {
		if err := s.fs.RemoveAll(s.path(n)); err != nil {
			return err
		}
	}
	return nil
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

// pebbleFormat is the format of both databases in a vault of format 1: the
// first with checksums over sstable footers, and after the one that tells a
// torn WAL from a damaged one.
const pebbleFormat = pebble.FormatTableFormatV6

// pebbleOptions are what the two databases have in common.
func (s *Store) pebbleOptions(create bool) *pebble.Options {
	o := &pebble.Options{
		FS:                 s.fs,
		FormatMajorVersion: pebbleFormat,
		ErrorIfExists:      create,
		ErrorIfNotExists:   !create,
		ReadOnly:           s.ro,
		Logger:             pebbleLogger{s.g},
		BytesPerSync:       1 << 20,
		EventListener: &pebble.EventListener{
			DataCorruption: func(i pebble.DataCorruptionInfo) { s.o.Logger.Errorf("%s: damaged: %v", s.dir, i.Details) },
		},
	}
	o.Experimental.ReadSamplingMultiplier = -1 // no compactions because of reads
	for i := range o.Levels {
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	return o
}

func (s *Store) openDBs(create bool) error {
	s.g.opening.Store(true)
	defer s.g.opening.Store(false)
	if s.res == nil {
		s.res, s.ownRes = NewResources(ResourceOptions{}), true
	}
	io := s.pebbleOptions(create)
	io.Cache, io.FileCache = s.res.index, s.res.indexFiles
	io.MemTableSize = 2 << 20
	io.MemTableStopWritesThreshold = 4
	for i := range io.Levels {
		io.Levels[i].BlockSize = 4 << 10
		io.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		io.Levels[i].FilterType = pebble.TableFilter
	}
	var err error
	if s.index, err = openDB(s.path(indexName), io); err != nil {
		return err
	}
	bo := s.pebbleOptions(create)
	bo.Cache, bo.FileCache = s.res.tables, s.res.tablesFiles
	bo.DisableWAL = true // nothing but tables is written, and those are ingested
	bo.MemTableSize = 256 << 10
	// A table that is gone or cut short shall cost its blocks, not the vault.
	bo.DisableConsistencyCheck = true
	s.blocks, err = openDB(s.path(blocksName), bo)
	return err
}

func openDB(dir string, o *pebble.Options) (*pebble.DB, error) {
	db, err := pebble.Open(dir, o)
	switch {
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		return nil, fmt.Errorf("%w: %s is missing", ErrCorrupt, dir)
	case pebble.IsCorruptionError(err):
		return nil, fmt.Errorf("%w: %s: %v", ErrCorrupt, dir, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return db, nil
}

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
	it, err := s.blocks.NewIter(nil)
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
