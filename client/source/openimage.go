package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ImageDisk is a disk image that is read while nobody else is meant to write it.
type ImageDisk interface {
	SnapshotDisk
	// Check tells whether the image is still what it was when it was opened: nil,
	// or an error that wraps ErrChanged or ErrTruncated. Nothing tells that a
	// block device was written to: there the caller has to know.
	Check() error
}

// OpenImage opens the disk of a machine that is off, by its Path and the Format
// that it was declared to have; the rest of d is only handed on. What its
// headers refer to may lie anywhere: whoever declared the disk lets QEMU follow
// them too.
//
// Reading never keeps a QEMU from opening the image for writing: the machine can
// be started at any time, and Check tells. ctx governs the disk's whole life.
//
// Errors: ErrUnusable, ErrInUse, ErrCorrupt, ErrToolMissing.
func OpenImage(ctx context.Context, d Disk) (ImageDisk, error) {
	if d.Format == "" {
		d.Format = "raw" // as libvirt and QEMU's descriptors mean it
	}
	if st, err := os.Stat(d.Path); err == nil && st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0 {
		if d.Format != "raw" {
			return nil, unusable("%s: a %s image on a block device can only be read while its VM runs: start the VM, or exclude the disk", d.Path, d.Format)
		}
		return openDevice(ctx, d)
	}
	if !knownFormat(d.Format) {
		return nil, unusable("%s: images of format %q cannot be read while the VM is off: start the VM, or exclude the disk", d.Path, d.Format)
	}
	anywhere := &Images{dir: "/", infos: map[string]cachedInfo{}}
	chain, err := anywhere.probe(ctx, d.Path, d.Format)
	switch {
	case err != nil:
		return nil, err
	case openForWriting(d.Path):
		return nil, inUse(d.Path)
	}
	if d.Format == "raw" {
		r, err := openRaw(ctx, d, d.Path)
		if err != nil {
			return nil, err
		}
		return imageDisk{r}, nil
	}
	for l := chain; l != nil; l = l.backing {
		l.shared = true
	}
	q, err := openQEMU(ctx, d, chain)
	if err != nil {
		return nil, err
	}
	return imageDisk{q}, nil
}

// imageDisk makes the check public.
type imageDisk struct{ checkedDisk }

var _ ImageDisk = imageDisk{}

func (d imageDisk) Check() error { return d.check() }

// deviceDisk is a raw disk on a block device, which has no holes and no
// modification time.
type deviceDisk struct {
	f    *os.File
	ctx  context.Context
	disk Disk
}

func openDevice(ctx context.Context, d Disk) (ImageDisk, error) {
	f, err := os.OpenFile(d.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, asProblem(err)
	}
	if d.Size, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, fmt.Errorf("size of %s: %w", d.Path, err)
	}
	// What the host's cache holds may be older than what a VM wrote past it.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return &deviceDisk{f, ctx, d}, nil
}

func (d *deviceDisk) Info() Disk        { return d.disk }
func (d *deviceDisk) Incremental() bool { return false }
func (d *deviceDisk) Distrust()         {}
func (d *deviceDisk) Close() error      { d.f.Close(); return nil }

// Check implements ImageDisk.
func (d *deviceDisk) Check() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", d.disk.Path, err)
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (d *deviceDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(d.ctx); err != nil {
		return 0, err
	}
	n, err := d.f.ReadAt(p, off)
	switch {
	case err == nil || n == len(p):
		return n, nil
	case errors.Is(err, io.EOF) && off+int64(n) >= d.disk.Size:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, &problem{ErrTruncated, fmt.Sprintf("%s: device became shorter: %d bytes expected, %d are left", d.disk.Path, d.disk.Size, off+int64(n))}
	}
	return n, fmt.Errorf("disk %s at byte %d: %w", d.disk.Target, off+int64(n), err)
}

// Extents implements SnapshotDisk.
func (d *deviceDisk) Extents(ctx context.Context, fn func(Extent) error) error {
	if err := errors.Join(context.Cause(ctx), context.Cause(d.ctx)); err != nil {
		return err
	}
	return fn(Extent{Length: d.disk.Size})
}
