package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// DiskWriter writes one restored disk. WriteAt may be called from many
// goroutines at once, in any order; what is never written reads as zeros. A
// write beyond the size given at creation is refused.
//
// Exactly one of Commit and Abort ends it (Abort after a failed Commit, or
// after a successful one, is harmless, so that it can be deferred). Until
// Commit has returned nil nothing has the final name: the data is in a hidden
// file beside it, .cairn-restore-*.part, which only a crash leaves behind.
type DiskWriter interface {
	io.WriterAt
	// Commit makes the disk durable and gives it its final name. It refuses
	// with ErrTargetExists when that name has been taken meanwhile, and when
	// any write has failed.
	Commit(ctx context.Context) error
	// Abort removes everything. It is idempotent.
	Abort() error
}

// part is a file on its way to its final name.
type part struct {
	path, final string
	size        int64 // of the disk

	mu   sync.Mutex
	over bool  // committed or aborted
	bad  error // of the first write that failed
}

// newPart makes the hidden file, mode 0600, after having looked whether there
// is anything to say against it. need is how many bytes it is going to take.
func newPart(final string, size, need int64) (*part, *os.File, error) {
	if size <= 0 {
		return nil, nil, fmt.Errorf("create %s: size of %d bytes", final, size)
	}
	if _, err := os.Lstat(final); err == nil {
		return nil, nil, fmt.Errorf("create %s: %w", final, ErrTargetExists)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("create %s: %w", final, err)
	}
	dir := filepath.Dir(final)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, nil, fmt.Errorf("create %s: %w", final, &os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return nil, nil, fmt.Errorf("create %s: %w: %d bytes are needed, %d are free on the file system of %s", final, ErrNoSpace, need, free, dir)
	}
	f, err := os.CreateTemp(dir, ".cairn-restore-*.part")
	if err != nil {
		return nil, nil, fmt.Errorf("create %s: %w", final, err)
	}
	return &part{path: f.Name(), final: final, size: size}, f, nil
}

// inside checks a write against the disk's size.
func (p *part) inside(n int, off int64) error {
	if off < 0 || off > p.size || int64(n) > p.size-off {
		return fmt.Errorf("write %s: %d bytes at %d are beyond the disk's %d", p.final, n, off, p.size)
	}
	return nil
}

// failed wraps an error of a write and remembers it: a disk with a piece
// missing is never committed.
func (p *part) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("write %s: %w: %w", p.final, ErrNoSpace, err)
	} else {
		err = fmt.Errorf("write %s: %w", p.final, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bad == nil {
		p.bad = err
	}
	return err
}

// committable returns nil if nothing speaks against a Commit.
func (p *part) committable(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bad == nil && p.over {
		return fmt.Errorf("commit %s: it has been committed or aborted already", p.final)
	}
	return p.bad
}

// end marks the part as over and tells whether it was not before.
func (p *part) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.over
	p.over = true
	return !was
}

// publish syncs the finished file, which f is open on, and gives it its name.
func (p *part) publish(f *os.File) error {
	if err := f.Sync(); err != nil {
		return p.failed(err)
	}
	err := unix.Renameat2(unix.AT_FDCWD, p.path, unix.AT_FDCWD, p.final, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS cannot, but it has links
		if err = unix.Link(p.path, p.final); err == nil {
			err = unix.Unlink(p.path)
		}
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("create %s: %w", p.final, ErrTargetExists)
	case err != nil:
		return fmt.Errorf("create %s: %w", p.final, err)
	}
	dir, err := os.Open(filepath.Dir(p.final))
	if err != nil {
		return p.failed(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return p.failed(err)
	}
	return nil
}

// remove removes the hidden file.
func (p *part) remove() error {
	if err := os.Remove(p.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("abandon %s: %w", p.final, err)
	}
	return nil
}
