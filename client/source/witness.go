package source

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// witness remembers what a file was like, to tell later whether it was written
// to. It keeps the file open, so that a file that took over its name does not
// confuse it.
//
// The kernel sets a file's modification time when it is written to or mapped
// pages of it are made dirty, to a resolution of a few milliseconds before
// Linux 6.13.
type witness struct {
	f     *os.File
	path  string
	size  int64
	mtime time.Time
}

func newWitness(path string) (*witness, error) {
	f, st, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	return &witness{f: f, path: path, size: st.Size(), mtime: st.ModTime()}, nil
}

// check returns nil, or an error that wraps ErrTruncated or ErrChanged.
func (w *witness) check() error {
	st, err := w.f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", w.path, err)
	case st.Size() < w.size:
		return w.truncated(st.Size())
	case st.Size() != w.size || !st.ModTime().Equal(w.mtime):
		return &problem{ErrChanged, fmt.Sprintf("%s: image was written to while it was read, last at %s: the copy may mix moments",
			w.path, st.ModTime().Format(time.RFC3339))}
	}
	return nil
}

func (w *witness) truncated(size int64) error {
	return &problem{ErrTruncated, fmt.Sprintf("%s: image was truncated while it was read: %d bytes expected, %d are left", w.path, w.size, size)}
}

// whole returns nil unless the file is shorter than it was.
func (w *witness) whole() error {
	st, err := w.f.Stat()
	if err == nil && st.Size() < w.size {
		err = w.truncated(st.Size())
	}
	return err
}

// openForWriting tells whether a QEMU has an image open for writing. QEMU marks
// that with a lock on one byte of the file. Source: block/file-posix.c,
// RAW_LOCK_PERM_BASE, and BLK_PERM_WRITE.
func openForWriting(path string) bool {
	f, _, err := openRegular(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const writeByte = 100 + 1
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: writeByte, Len: 1}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	return err == nil && lock.Type != unix.F_UNLCK
}
