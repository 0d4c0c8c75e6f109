package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// volumeWriter is the DiskWriter of something that exists already.
type volumeWriter struct {
	ctx  context.Context
	path string
	f    *os.File
	size int64

	mu   sync.Mutex
	over bool
	bad  error // of the first write that failed
}

// zeroChunk is how much is made zero between two looks at the context.
const zeroChunk = 256 << 20

// OpenVolume replaces the contents of an existing block device, or of an
// existing regular file, of at least size bytes. Its first size bytes read as
// zeros where nothing is written; what lies behind them is left alone. The name
// stays, and with it owner, mode and everything that refers to it.
//
// What was there is gone as soon as OpenVolume returns: Abort closes the volume
// and cannot bring anything back, nor can a crash. A caller who wants it back
// saves it first.
//
// Errors: ErrInUse for a device that is mounted, or held by LVM, RAID or the
// like; ErrNoSpace for one that is too small.
func OpenVolume(ctx context.Context, path string, size int64) (_ DiskWriter, err error) {
	if size <= 0 {
		return nil, fmt.Errorf("write to %s: size of %d bytes", path, size)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("write to %s: %w", path, err)
	}
	device := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	if !device && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("write to %s: it is neither a block device nor a regular file", path)
	}
	flags := os.O_RDWR | unix.O_CLOEXEC
	if device {
		flags |= unix.O_EXCL // without O_CREAT: nobody else of the kernel may have it
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("write to %s: %w: it is mounted, or part of another device", path, ErrInUse)
	} else if err != nil {
		return nil, fmt.Errorf("write to %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if now, err := f.Stat(); err != nil || now.Mode().Type() != st.Mode().Type() {
		return nil, fmt.Errorf("write to %s: it was replaced meanwhile", path)
	}
	if !device { // another writer of this kind
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("write to %s: %w: another program has locked it", path, ErrInUse)
		}
	}
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("write to %s: %w", path, err)
	}
	if have < size {
		return nil, fmt.Errorf("write to %s: %w: it has %d bytes, the disk has %d", path, ErrNoSpace, have, size)
	}
	w := &volumeWriter{ctx: ctx, path: path, f: f, size: size}
	for off := int64(0); off < size; off += zeroChunk {
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("write to %s: %w", path, err)
		}
		if err := w.zero(off, min(zeroChunk, size-off)); err != nil {
			return nil, fmt.Errorf("make %s zero: %w", path, err)
		}
	}
	return w, nil
}

// zero makes a range read as zeros.
//
// Linux promises zeros after fallocate(2) with either mode, on files and block
// devices alike, and fails where it cannot do it without writing (punching) or
// at all. On a device, punching is a discard that is known to give zeros, and
// zeroing is BLKZEROOUT. (BLKDISCARD promises nothing of what is read after it.)
// A range that is no multiple of the device's sectors is written.
func (w *volumeWriter) zero(off, n int64) error {
	for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE} {
		err := unix.Fallocate(int(w.f.Fd()), mode, off, n)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EIO) {
			return err
		}
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		if err := context.Cause(w.ctx); err != nil {
			return err
		}
		k, err := w.f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// WriteAt implements io.WriterAt.
func (w *volumeWriter) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > w.size || int64(len(b)) > w.size-off {
		return 0, fmt.Errorf("write to %s: %d bytes at %d are beyond the disk's %d", w.path, len(b), off, w.size)
	}
	err := context.Cause(w.ctx)
	n := 0
	if err == nil {
		n, err = w.f.WriteAt(b, off)
	}
	if err != nil {
		err = fmt.Errorf("write to %s: %w", w.path, err)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.bad == nil {
			w.bad = err
		}
	}
	return n, err
}

// Commit implements DiskWriter: it makes what was written durable.
func (w *volumeWriter) Commit(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch err := context.Cause(ctx); {
	case err != nil:
		return err
	case w.bad != nil:
		return w.bad
	case w.over:
		return fmt.Errorf("commit %s: it has been committed or aborted already", w.path)
	}
	if err := w.f.Sync(); err != nil {
		w.bad = fmt.Errorf("write to %s: %w", w.path, err)
		return w.bad
	}
	w.over = true
	return w.f.Close()
}

// Abort implements DiskWriter. What was on the volume does not come back.
func (w *volumeWriter) Abort() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return nil
	}
	w.over = true
	return w.f.Close()
}
