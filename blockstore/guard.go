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

// guard stands between Pebble and the disk. It counts what is written, and
// when a write fails that Pebble cannot live without, it lets nothing more
// reach the disk, so that the vault stays as a crash at this moment would have
// left it, and can be read on.
//
// Pebble ends the process in such a case: a failed WAL write or MANIFEST sync
// calls Logger.Fatalf, a WAL that cannot be rotated panics. A server with other
// vaults on other disks must not go down with it. So from the first failed
// write to a WAL on, WAL writes seem to succeed and go nowhere, everything else
// that would change a file fails, and whoever wrote finds out from failure.
// That also keeps Pebble from removing tables that the MANIFEST may name.
type guard struct {
	dir      string
	written  atomic.Uint64
	failed   atomic.Pointer[error]
	readOnly bool // the file system is: no lock files
	log      Logger
}

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

// throttle slows down Pebble's flushes, which it tries again at once, and for
// ever, when they fail.
func throttle(err error) error {
	if err != nil && (errors.Is(err, ErrFailed) || errors.Is(err, syscall.ENOSPC)) {
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// guardFS is a vfs.FS under a guard.
type guardFS struct {
	vfs.FS
	g *guard
}

var _ vfs.FS = guardFS{}

func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

// create opens a file for writing in the way of open.
func (fs guardFS) create(name string, open func() (vfs.File, error)) (vfs.File, error) {
	wal := isWAL(name)
	if err := fs.g.failure(); err != nil {
		if wal {
			return nullFile{}, nil
		}
		return nil, throttle(err)
	}
	f, err := open()
	if err != nil {
		if wal {
			fs.g.fail(err)
			return nullFile{}, nil
		}
		return nil, throttle(err)
	}
	return &guardFile{File: f, g: fs.g, wal: wal}, nil
}

func (fs guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.create(name, func() (vfs.File, error) { return fs.FS.Create(name, c) })
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
	return fs.create(name, func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

func (fs guardFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.create(newname, func() (vfs.File, error) { return fs.FS.ReuseForWrite(oldname, newname, c) })
}

func (fs guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, g: fs.g, wal: true}, nil // a new WAL needs its directory synced
}

func (fs guardFS) Link(oldname, newname string) error {
	if err := fs.g.failure(); err != nil {
		return err
	}
	return fs.FS.Link(oldname, newname)
}

func (fs guardFS) Remove(name string) error {
	if err := fs.g.failure(); err != nil {
		return err
	}
	return fs.FS.Remove(name)
}

func (fs guardFS) RemoveAll(name string) error {
	if err := fs.g.failure(); err != nil {
		return err
	}
	return fs.FS.RemoveAll(name)
}

func (fs guardFS) Rename(oldname, newname string) error {
	if err := fs.g.failure(); err != nil {
		return err
	}
	return fs.FS.Rename(oldname, newname)
}

func (fs guardFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := fs.g.failure(); err != nil {
		return err
	}
	return fs.FS.MkdirAll(dir, perm)
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

// guardFile is a file open for writing, or a directory. Of wal ones no error
// may reach Pebble.
type guardFile struct {
	vfs.File
	g   *guard
	wal bool
}

func (f *guardFile) do(op func() error) error {
	err := f.g.failure()
	if err == nil {
		if err = op(); err == nil {
			return nil
		}
		if f.wal {
			f.g.fail(err)
		}
	}
	if f.wal {
		return nil
	}
	return throttle(err)
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

func (f *guardFile) Sync() error     { return f.do(f.File.Sync) }
func (f *guardFile) SyncData() error { return f.do(f.File.SyncData) }

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

// nullFile stands for a WAL that could not be made.
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
	l.g.log.Errorf("%s: %s", l.g.dir, fmt.Sprintf(format, args...))
}

// Fatalf may return: nothing that Pebble does then reaches the disk.
func (l pebbleLogger) Fatalf(format string, args ...any) { l.g.fail(fmt.Errorf(format, args...)) }
