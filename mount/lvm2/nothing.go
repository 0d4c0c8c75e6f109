package lvm2

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// zeros reads as zeros: a segment of type zero.
type zeros int64

func (z zeros) Size() int64 { return int64(z) }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, outside(off, int64(z))
	}
	n := int(min(int64(len(p)), max(int64(z)-off, 0)))
	clear(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (z zeros) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= int64(z) {
		return blockdev.Place{}, 0, outside(off, int64(z))
	}
	return blockdev.Place{Disk: blockdev.Nowhere}, int64(z) - off, nil
}

// failing cannot be read: a segment of type error, which stands where lvm took
// away a PV that was lost.
type failing struct{ size int64 }

var errSegment = errors.New("the volume has no data here (an error segment)")

func (f *failing) Size() int64 { return f.size }

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, outside(off, f.size)
	case off >= f.size && len(p) > 0:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	return 0, fmt.Errorf("%w: %w", errSegment, filesys.ErrCorrupt)
}

func (f *failing) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= f.size {
		return blockdev.Place{}, 0, outside(off, f.size)
	}
	return blockdev.Place{}, 0, fmt.Errorf("%w: %w", errSegment, filesys.ErrCorrupt)
}

func outside(off, size int64) error {
	return fmt.Errorf("byte %d of a volume of %d: %w", off, size, blockdev.ErrRange)
}
