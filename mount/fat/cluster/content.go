package cluster

import (
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// Content is the bytes along a chain: a file.
type Content struct {
	chain *Chain // nil of an empty file
	size  int64
	valid int64 // bytes from here on were never written and are zero
}

var _ filesys.Stored = (*Content)(nil)

// NewContent makes the content of size bytes, of which the first valid were
// written. chain must have been made for valid bytes at least; it is nil when
// there are none.
func NewContent(chain *Chain, size, valid int64) *Content {
	return &Content{chain, size, min(size, valid)}
}

// Size is the length in bytes.
func (c *Content) Size() int64 { return c.size }

// ReadAt reads like io.ReaderAt. A chain that is too short gives the bytes that
// it has, and an error.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, filesys.ErrInvalid)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > c.size-off {
		p, end = p[:c.size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		at, n, err := c.find(off+int64(done), int64(len(p)-done))
		if err != nil {
			return done, err
		}
		part := p[done:][:min(int64(len(p)-done), n)]
		if at.Len == 0 {
			clear(part)
		} else if err := c.chain.t.Volume.ReadFull(part, at.Off); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, end
}

// Stored tells where bytes are. What was never written is a hole.
func (c *Content) Stored(off int64) (at filesys.Range, n int64, err error) {
	return c.find(off, c.size)
}

// find is Stored for at most about want bytes: where the chain's marks end, the
// table is walked cluster by cluster.
func (c *Content) find(off, want int64) (at filesys.Range, n int64, err error) {
	switch {
	case off < 0 || off >= c.size:
		return at, 0, fmt.Errorf("byte %d of %d: %w", off, c.size, filesys.ErrInvalid)
	case off >= c.valid:
		return at, c.size - off, nil
	}
	t := c.chain.t
	index, in := off>>t.Bits, off&(t.Size()-1)
	first, k, err := c.chain.At(index, t.Count(min(c.valid-off, want)+in))
	if err != nil {
		return at, 0, err
	}
	n = min(k<<t.Bits-in, c.valid-off)
	return filesys.Range{Off: t.Place(first) + in, Len: n}, n, nil
}

// Extent tells data from what was never written.
func (c *Content) Extent(off int64) (data bool, length int64, err error) {
	switch {
	case off < 0 || off >= c.size:
		return false, 0, fmt.Errorf("extent at %d of %d: %w", off, c.size, filesys.ErrInvalid)
	case off >= c.valid:
		return false, c.size - off, nil
	}
	return true, c.valid - off, nil
}
