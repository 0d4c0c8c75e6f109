package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// rawDisk is a raw image file, read directly.
type rawDisk struct {
	*witness
	ctx  context.Context // the snapshot's
	disk Disk
}

var _ SnapshotDisk = (*rawDisk)(nil)

func openRaw(ctx context.Context, d Disk, path string) (*rawDisk, error) {
	w, err := newWitness(path)
	if err != nil {
		return nil, err
	}
	d.Size = w.size
	// Larger read-ahead; that it may fail is no matter.
	_ = unix.Fadvise(int(w.f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	return &rawDisk{witness: w, ctx: ctx, disk: d}, nil
}

func (d *rawDisk) Info() Disk        { return d.disk }
func (d *rawDisk) Incremental() bool { return false }
func (d *rawDisk) Distrust()         {}

// Close implements SnapshotDisk.
func (d *rawDisk) Close() error {
	d.f.Close() // it was only read: there is nothing to fail
	return nil
}

// ReadAt implements io.ReaderAt.
func (d *rawDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(d.ctx); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("%s: read at %d: negative offset", d.path, off)
	}
	var eof error
	if left := max(0, d.size-off); int64(len(p)) > left {
		p, eof = p[:left], io.EOF
	}
	n, err := d.f.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, eof
	case errors.Is(err, io.EOF):
		return n, d.truncated(off + int64(n))
	}
	return n, fmt.Errorf("disk %s at byte %d: %w", d.disk.Target, off+int64(n), err)
}

// Extents implements SnapshotDisk. A file system that knows no holes gives all
// as data.
func (d *rawDisk) Extents(ctx context.Context, fn func(Extent) error) error {
	for at := int64(0); at < d.size; {
		if err := errors.Join(context.Cause(ctx), context.Cause(d.ctx)); err != nil {
			return err
		}
		data, err := d.seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole, or the file's end
			return d.whole()
		}
		end := d.size
		if err == nil && data < d.size {
			end, err = d.seek(data, unix.SEEK_HOLE)
		}
		switch {
		case errors.Is(err, unix.ENXIO): // cut off between the two
			return d.whole()
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
			data, end = at, d.size
		case err != nil:
			return fmt.Errorf("find data in %s at %d: %w", d.path, at, err)
		}
		if data >= d.size {
			return nil
		}
		end = min(end, d.size)
		if err := fn(Extent{Offset: data, Length: end - data}); err != nil {
			return err
		}
		at = end
	}
	return d.whole()
}

// seek is lseek, which package os would not do on a file that ReadAt is used
// on at the same time. Nothing reads at the file's offset.
func (d *rawDisk) seek(off int64, whence int) (at int64, err error) {
	rc, err := d.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err2 := rc.Control(func(fd uintptr) { at, err = unix.Seek(int(fd), off, whence) })
	if err2 != nil {
		err = err2
	}
	return at, err
}
