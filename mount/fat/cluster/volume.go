package cluster

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// PageSize is the unit in which metadata is read and kept.
const PageSize = 16 << 10

// pageLimit bounds the metadata that one Volume keeps.
const pageLimit = 12 << 20

// Volume is the device under a file system.
type Volume struct {
	r     io.ReaderAt
	size  int64
	pages *Cache[int64, []byte]
}

// NewVolume makes a Volume of size bytes.
func NewVolume(r io.ReaderAt, size int64) *Volume {
	return &Volume{r, size, NewCache[int64, []byte](pageLimit)}
}

// Size is the device's size in bytes, whatever the file system takes it for.
func (v *Volume) Size() int64 { return v.size }

// Corrupt makes an error that says what contradicts the format.
func Corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrCorrupt)...)
}

// ReadFull fills p from off, past the cache.
func (v *Volume) ReadFull(p []byte, off int64) error {
	if off < 0 || off > v.size || int64(len(p)) > v.size-off {
		return Corrupt("read %d bytes at %d of a volume of %d", len(p), off, v.size)
	}
	n, err := v.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// page gives page n, which is shorter at the end of the volume.
func (v *Volume) page(n int64) ([]byte, error) {
	if p, ok := v.pages.Get(n); ok {
		return p, nil
	}
	off := n * PageSize
	if off < 0 || off >= v.size {
		return nil, Corrupt("read at %d of a volume of %d", off, v.size)
	}
	p := make([]byte, min(PageSize, v.size-off))
	if err := v.ReadFull(p, off); err != nil {
		return nil, err
	}
	v.pages.Put(n, p, len(p))
	return p, nil
}

// Window looks at a volume's metadata and remembers the page seen last, so that
// neighbours cost nothing. It is not safe for concurrent use.
type Window struct {
	v    *Volume
	n    int64
	page []byte
}

// Window gives a new one.
func (v *Volume) Window() *Window { return &Window{v: v, n: -1} }

// At gives the n bytes at off, which must not cross a page: whatever has a size
// that divides PageSize and is aligned to it does not. They must not be written.
func (w *Window) At(off int64, n int) ([]byte, error) {
	if off < 0 {
		return nil, Corrupt("read at %d", off)
	}
	if k := off / PageSize; k != w.n {
		p, err := w.v.page(k)
		if err != nil {
			return nil, err
		}
		w.n, w.page = k, p
	}
	in := int(off % PageSize)
	if in+n > len(w.page) {
		return nil, Corrupt("read %d bytes at %d of a volume of %d", n, off, w.v.size)
	}
	return w.page[in : in+n], nil
}
