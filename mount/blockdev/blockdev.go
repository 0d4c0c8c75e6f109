// Package blockdev is what a volume lies on: a disk of a recovery point, a part
// of one, or something that a volume manager, a software raid or an encryption
// makes of several. Whatever it is made of, it is read at offsets and knows for
// each byte on which disk, and where there, it is stored.
//
// Devices stack: a file system on a logical volume on an array on partitions is
// four of them. mount/volume puts them together, mount/lvm2, mount/mdraid and
// mount/luks make new ones of those they are given.
//
// Rules that every Device keeps: it never changes, never writes, is safe for
// concurrent use, reads like io.ReaderAt (io.EOF at the end), and does bounded
// work per call: what it is made of is searched, not walked.
//
// The package imports nothing of Cairn.
package blockdev

import (
	"errors"
	"fmt"
	"io"
)

// Place is where bytes are stored.
type Place struct {
	Disk int   // index among the point's disks, or Nowhere
	Off  int64 // bytes from the start of that disk
}

// Nowhere is the Disk of bytes that are stored on no disk, such as those of a
// thin volume that nobody wrote: they read as zeros.
const Nowhere = -1

// Device is a run of bytes, from 0 to Size.
type Device interface {
	io.ReaderAt
	Size() int64
	// Place tells where the byte at off (0 ≤ off < Size) is stored, and for how
	// many bytes from there (n ≥ 1, never beyond Size) the device and the disk
	// go on in step. Where several disks have the same byte it names the one
	// that is read. An encrypted byte is stored where its cipher text is. The
	// answer may need reads of the device's own metadata.
	Place(off int64) (p Place, n int64, err error)
}

// ErrRange: an offset or length that the device does not have.
var ErrRange = errors.New("outside of the device")

// Disk is a whole disk: the bottom of every stack.
func Disk(index int, r io.ReaderAt, size int64) Device { return &disk{r, size, index} }

type disk struct {
	io.ReaderAt
	size  int64
	index int
}

func (d *disk) Size() int64 { return d.size }

func (d *disk) Place(off int64) (Place, int64, error) {
	if off < 0 || off >= d.size {
		return Place{}, 0, fmt.Errorf("place of byte %d of a disk of %d: %w", off, d.size, ErrRange)
	}
	return Place{d.index, off}, d.size - off, nil
}

// Section is the part of d of n bytes from off on, such as a partition. What of
// it lies beyond the end of d is cut off.
func Section(d Device, off, n int64) Device {
	if off < 0 || off > d.Size() {
		off, n = d.Size(), 0
	}
	n = max(min(n, d.Size()-off), 0)
	return &section{io.NewSectionReader(d, off, n), d, off}
}

type section struct {
	*io.SectionReader
	d   Device
	off int64
}

func (s *section) Place(off int64) (Place, int64, error) {
	if off < 0 || off >= s.Size() {
		return Place{}, 0, fmt.Errorf("place of byte %d of a part of %d: %w", off, s.Size(), ErrRange)
	}
	p, n, err := s.d.Place(s.off + off)
	return p, min(n, s.Size()-off), err
}
