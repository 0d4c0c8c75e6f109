package source

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// rawWriter is the DiskWriter of raw images.
type rawWriter struct {
	*part
	ctx context.Context
	f   *os.File
}

// CreateRaw starts a sparse raw image of size bytes at path. allocated is how
// many bytes the caller is going to write; when the file system has less room
// than that, the answer is ErrNoSpace at once. An existing path, whatever it
// is, is refused with ErrTargetExists. Cancelling ctx makes writes fail.
func CreateRaw(ctx context.Context, path string, size, allocated int64) (DiskWriter, error) {
	p, f, err := newPart(path, size, allocated)
	if err != nil {
		return nil, err
	}
	w := &rawWriter{part: p, ctx: ctx, f: f}
	if err := f.Truncate(size); err != nil {
		w.Abort()
		return nil, fmt.Errorf("create %s of %d bytes: %w", path, size, err)
	}
	return w, nil
}

// WriteAt implements io.WriterAt.
func (w *rawWriter) WriteAt(b []byte, off int64) (int, error) {
	if err := w.inside(len(b), off); err != nil {
		return 0, err
	}
	if err := context.Cause(w.ctx); err != nil {
		return 0, w.failed(err)
	}
	n, err := w.f.WriteAt(b, off)
	if err != nil {
		err = w.failed(err)
	}
	return n, err
}

// Commit implements DiskWriter.
func (w *rawWriter) Commit(ctx context.Context) error {
	if err := w.committable(ctx); err != nil {
		return err
	}
	if err := w.publish(w.f); err != nil {
		return err
	}
	w.end()
	if err := w.f.Close(); err != nil {
		return w.failed(err)
	}
	return nil
}

// Abort implements DiskWriter.
func (w *rawWriter) Abort() error {
	if !w.end() {
		return nil
	}
	return errors.Join(w.f.Close(), w.remove())
}
