package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Errors that callers tell apart, with errors.Is.
var (
	// ErrNotFound: no record of that name.
	ErrNotFound = errors.New("record not found")
	// ErrCorrupt marks a record that cannot be read.
	ErrCorrupt = errors.New("record is damaged")
	// ErrFull: writing would leave less free space than Options.MinFree.
	ErrFull = errors.New("not enough disk space for the catalog")
	// ErrLocked: another process has the catalog open.
	ErrLocked = errors.New("catalog is in use by another process")
	// ErrClosed: the catalog was closed.
	ErrClosed = errors.New("catalog is closed")
)

// Options for Open. The zero value is good for production.
type Options struct {
	// FS holds the catalog; nil is the operating system's.
	FS vfs.FS
	// Cache is the size of the block cache in bytes; 0 is 8 MiB.
	Cache int64
	// MinFree is the space in bytes that writing leaves free: Pebble itself
	// gives up the process when it cannot write. 0 is 32 MiB.
	MinFree uint64
	// Logger gets what operators should read; nil discards it.
	Logger *slog.Logger
}

// Catalog is an open catalog. It is safe for concurrent use.
type Catalog struct {
	Reader
	dir     string
	db      *pebble.DB
	fs      vfs.FS
	minFree uint64

	lock *pebble.Lock

	mu     sync.Mutex // held by the one writer
	closed bool
}

// Open opens the catalog in dir, or makes a new one. That dir itself outlasts a
// crash is the caller's business.
func Open(dir string, o Options) (*Catalog, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Cache == 0 {
		o.Cache = 8 << 20
	}
	if o.MinFree == 0 {
		o.MinFree = 32 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	// Asked for first, because Pebble's own answer cannot be told from others.
	lock, err := pebble.LockDirectory(dir, o.FS)
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &pathErr):
		return nil, fmt.Errorf("lock catalog: %w", err)
	case err != nil:
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	cache := pebble.NewCache(o.Cache)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{
		FS:                 o.FS,
		Lock:               lock,
		Cache:              cache,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       100,
		FormatMajorVersion: pebble.FormatTableFormatV6,
		Logger:             logger{o.Logger},
	})
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	return &Catalog{Reader: Reader{db}, dir: dir, db: db, fs: o.FS, minFree: o.MinFree, lock: lock}, nil
}

// Close closes the catalog once the running Update is through. No Reader may be
// used any more.
func (c *Catalog) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return errors.Join(c.db.Close(), c.lock.Close())
}

// Tx is a transaction: it reads what is committed and what it has written
// itself. It is valid only within the function that Update called.
type Tx struct {
	Reader
	batch *pebble.Batch
}

// Update runs fn, and makes durable what it wrote, in one step, if fn answers
// nil. Otherwise nothing is changed and fn's error is Update's. Further errors:
// ErrFull, ErrClosed.
func (c *Catalog) Update(ctx context.Context, fn func(*Tx) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b := c.db.NewIndexedBatch()
	defer b.Close()
	if err := fn(&Tx{Reader{b}, b}); err != nil {
		return err
	}
	if b.Empty() {
		return nil
	}
	if err := c.checkSpace(); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("write catalog: %w", err)
	}
	return nil
}

// checkSpace refuses to write before the disk does.
func (c *Catalog) checkSpace() error {
	u, err := c.fs.GetDiskUsage(c.dir)
	if err != nil {
		return nil // a file system that cannot tell
	}
	if u.AvailBytes < c.minFree {
		return fmt.Errorf("%w: %s has %d bytes free, %d are needed", ErrFull, c.dir, u.AvailBytes, c.minFree)
	}
	return nil
}

// Snapshot is a Reader of one state. It must be closed.
type Snapshot struct {
	Reader
	snap *pebble.Snapshot
}

// Snapshot gives the present state.
func (c *Catalog) Snapshot() *Snapshot {
	s := c.db.NewSnapshot()
	return &Snapshot{Reader{s}, s}
}

// Close gives the snapshot back.
func (s *Snapshot) Close() { s.snap.Close() }

// logger passes Pebble's messages on. Of its chatter only errors matter.
type logger struct{ log *slog.Logger }

func (l logger) Infof(string, ...any) {}
func (l logger) Errorf(format string, args ...any) {
	l.log.Error("catalog: " + fmt.Sprintf(format, args...))
}

// Fatalf is called when a write failed half-way; Pebble relies on it not to
// return. What was committed is safe on disk.
func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("catalog: cannot go on: " + fmt.Sprintf(format, args...))
	os.Exit(1)
}
