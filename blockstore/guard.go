package blockstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// guard stands between Pebble and the disk. It counts what is written, and when
// a write fails that Pebble cannot live without, it lets nothing more reach the
// disk: the vault stays as a crash at this moment would have left it, and can be
// read on.
//
// Pebble ends the process in such a case. A failed WAL write or MANIFEST sync
// calls Logger.Fatalf, a WAL that cannot be rotated panics, and a memtable that
// cannot be flushed is tried again for ever, also while the database is being
// opened. A server with other vaults on other disks must not go down with it. So
// from the first failure on Pebble lives in a dream: what it writes seems to
// succeed and goes nowhere, tables that it flushes are kept in memory, and
// nothing is removed. It is a short dream, as the store refuses every write from
// then on. Only what would need space, compactions, and what would change the
// contents, ingestion, fails.
type guard struct {
	dir      string
	log      Logger
	readOnly bool // the file system is: no lock files
	written  atomic.Uint64
	failed   atomic.Pointer[error]
	opening  atomic.Bool  // the databases are: a failed flush must not be tried again
	flushes  atomic.Int64 // that failed one after the other
	tables   *vfs.MemFS   // flushed since the failure
}

func newGuard(dir string, log Logger) *guard {
	return &guard{dir: dir, log: log, tables: vfs.NewMem()}
}

// maxFlushes is how often a flush may fail before the guard gives up the disk:
// for half a second. For lack of space it never does: that may come back.
const maxFlushes = 25

// failure is nil, or an error that matches ErrFailed and says why.
func (g *guard) failure() error {
	if p := g.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (g *guard) fail(cause error) {
	err := fmt.Errorf("%w: %s: %w: it can still be read; open it again when the cause is removed", ErrFailed, g.dir, cause)
	if g.failed.CompareAndSwap(nil, &err) {
		g.log.Errorf("%v", err)
	}
}

// flushFailed takes note, and slows down the next attempt, which comes at once.
func (g *guard) flushFailed(err error) {
	if n := g.flushes.Add(1); g.opening.Load() || n >= maxFlushes && !isNoSpace(err) {
		g.fail(err)
	}
	time.Sleep(20 * time.Millisecond)
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// role is what a file is to the guard.
type role int

const (
	vital   role = iota // WAL, MANIFEST, markers, directories: Pebble must see no error
	flushed             // a table made of a memtable
	other               // any other table: an error is an error
)

// Pebble's name for the writes of a flush, part of its statistics.
const flushCategory vfs.DiskWriteCategory = "pebble-memtable-flush"

func roleOf(name string, c vfs.DiskWriteCategory) role {
	switch {
	case !strings.HasSuffix(name, ".sst"):
		return vital
	case c == flushCategory:
		return flushed
	}
	return other
}

// guardFS is a vfs.FS under a guard.
type guardFS struct {
	vfs.FS
	g *guard
}

var _ vfs.FS = guardFS{}

// memName is a table's name in guard.tables.
func memName(name string) string { return strings.ReplaceAll(name, "/", "_") }

// create opens a file for writing in the way of open.
func (fs guardFS) create(name string, c vfs.DiskWriteCategory, open func() (vfs.File, error)) (vfs.File, error) {
	r := roleOf(name, c)
	if fs.g.failure() == nil {
		f, err := open()
		if err == nil {
			return &guardFile{File: f, g: fs.g, role: r}, nil
		}
		switch r {
		case vital:
			fs.g.fail(err)
		case flushed:
			fs.g.flushFailed(err)
		}
		if fs.g.failure() == nil {
			return nil, err
		}
	}
	switch r {
	case vital:
		return nullFile{}, nil
	case flushed:
		return fs.g.tables.Create(memName(name), c)
	}
	time.Sleep(100 * time.Millisecond) // compactions are tried again at once, too
	return nil, fs.g.failure()
}

func (fs guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.create(name, c, func() (vfs.File, error) { return fs.FS.Create(name, c) })
	if err == nil && strings.HasPrefix(fs.PathBase(name), "MANIFEST-") {
		// Pebble syncs the directory only after it made the marker file that
		// names the new MANIFEST. A file system that keeps one entry and loses
		// the other would leave a marker to nowhere.
		if err = syncDir(fs, fs.PathDir(name)); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return f, err
}

func (fs guardFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.create(name, c, func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

func (fs guardFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.create(newname, c, func() (vfs.File, error) { return fs.FS.ReuseForWrite(oldname, newname, c) })
}

func (fs guardFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if fs.g.failure() != nil {
		if f, err := fs.g.tables.Open(memName(name)); err == nil {
			return f, nil
		}
	}
	return fs.FS.Open(name, opts...)
}

func (fs guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, g: fs.g, role: vital}, nil
}

func (fs guardFS) Stat(name string) (vfs.FileInfo, error) {
	if fs.g.failure() != nil {
		if fi, err := fs.g.tables.Stat(memName(name)); err == nil {
			return fi, nil
		}
	}
	return fs.FS.Stat(name)
}

func (fs guardFS) Link(oldname, newname string) error {
	if err := fs.g.failure(); err != nil {
		return err
	}
	return fs.FS.Link(oldname, newname)
}

// unless runs op if the guard has not failed.
func (fs guardFS) unless(op func() error) error {
	if fs.g.failure() != nil {
		return nil
	}
	return op()
}

func (fs guardFS) Remove(name string) error {
	return fs.unless(func() error { return fs.FS.Remove(name) })
}

func (fs guardFS) RemoveAll(name string) error {
	return fs.unless(func() error { return fs.FS.RemoveAll(name) })
}

// Rename is vital: when Pebble fails to open a database because of it, it leaves
// a goroutine behind.
func (fs guardFS) Rename(oldname, newname string) error {
	return fs.unless(func() error {
		if err := fs.FS.Rename(oldname, newname); err != nil {
			fs.g.fail(err)
		}
		return nil
	})
}

func (fs guardFS) MkdirAll(dir string, perm os.FileMode) error {
	return fs.unless(func() error { return fs.FS.MkdirAll(dir, perm) })
}

func (fs guardFS) Lock(name string) (io.Closer, error) {
	if fs.g.readOnly {
		return nopCloser{}, nil
	}
	return fs.FS.Lock(name)
}

func (fs guardFS) Unwrap() vfs.FS { return fs.FS }

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// guardFile is a file open for writing, or a directory.
type guardFile struct {
	vfs.File
	g    *guard
	role role
}

// do runs an operation that changes the file.
func (f *guardFile) do(op func() error) error {
	err := f.g.failure()
	if err == nil {
		if err = op(); err == nil {
			return nil
		}
		switch f.role {
		case vital:
			f.g.fail(err)
		case flushed:
			f.g.flushFailed(err)
		}
	}
	if f.role == vital {
		return nil
	}
	return err
}

func (f *guardFile) Write(p []byte) (n int, err error) {
	err = f.do(func() error {
		n, err = f.File.Write(p)
		f.g.written.Add(uint64(n))
		return err
	})
	if err == nil {
		n = len(p)
	}
	return n, err
}

func (f *guardFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.do(func() error {
		n, err = f.File.WriteAt(p, off)
		f.g.written.Add(uint64(n))
		return err
	})
	if err == nil {
		n = len(p)
	}
	return n, err
}

func (f *guardFile) Sync() error     { return f.synced(f.do(f.File.Sync)) }
func (f *guardFile) SyncData() error { return f.synced(f.do(f.File.SyncData)) }

// synced ends a row of failed flushes.
func (f *guardFile) synced(err error) error {
	if err == nil && f.role == flushed {
		f.g.flushes.Store(0)
	}
	return err
}

func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	err = f.do(func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Preallocate only saves time: a disk too full for it is noticed elsewhere.
func (f *guardFile) Preallocate(off, length int64) error {
	if f.g.failure() == nil {
		_ = f.File.Preallocate(off, length)
	}
	return nil
}

// nullFile takes what must not reach the disk.
type nullFile struct{ vfs.File }

func (nullFile) Close() error                   { return nil }
func (nullFile) Write(p []byte) (int, error)    { return len(p), nil }
func (nullFile) Sync() error                    { return nil }
func (nullFile) SyncData() error                { return nil }
func (nullFile) SyncTo(int64) (bool, error)     { return true, nil }
func (nullFile) Preallocate(int64, int64) error { return nil }
func (nullFile) Prefetch(int64, int64) error    { return nil }
func (nullFile) Fd() uintptr                    { return vfs.InvalidFd }
func (nullFile) Stat() (vfs.FileInfo, error)    { return nil, ErrFailed }

// pebbleLogger passes on what an operator can act on.
type pebbleLogger struct{ g *guard }

var _ pebble.Logger = pebbleLogger{}

func (pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	if l.g.failure() == nil {
		l.g.log.Errorf("%s: %s", l.g.dir, fmt.Sprintf(format, args...))
	}
}

// Fatalf may return: nothing that Pebble does then reaches the disk.
func (l pebbleLogger) Fatalf(format string, args ...any) { l.g.fail(fmt.Errorf(format, args...)) }
