package raid

import (
	"fmt"
	"io"
	"sort"

	"cairn/mount/blockdev"
)

// Concat is a device of which the parts follow each other.
func Concat(parts []blockdev.Device) blockdev.Device {
	if len(parts) == 1 {
		return parts[0]
	}
	c := &concat{}
	for _, p := range parts {
		if p.Size() == 0 {
			continue
		}
		c.parts = append(c.parts, p)
		c.size += p.Size()
		c.ends = append(c.ends, c.size)
	}
	return c
}

type concat struct {
	parts []blockdev.Device
	ends  []int64 // of each part, in bytes of the whole
	size  int64
}

func (c *concat) Size() int64 { return c.size }

// find gives the part that has the byte at off (0 ≤ off < size), and where in it.
func (c *concat) find(off int64) (part blockdev.Device, at int64) {
	i := sort.Search(len(c.ends), func(i int) bool { return c.ends[i] > off })
	return c.parts[i], off - (c.ends[i] - c.parts[i].Size())
}

func (c *concat) ReadAt(p []byte, off int64) (int, error) {
	return ReadPieces(p, off, c.size, func(p []byte, off int64) (int, error) {
		part, at := c.find(off)
		p = p[:min(int64(len(p)), part.Size()-at)]
		return Full(part, p, at)
	})
}

func (c *concat) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= c.size {
		return blockdev.Place{}, 0, outside(off, c.size)
	}
	part, at := c.find(off)
	return part.Place(at)
}

func outside(off, size int64) error {
	return fmt.Errorf("byte %d of a volume of %d: %w", off, size, blockdev.ErrRange)
}

// ReadPieces is a ReadAt over a device of size bytes that is read piece by piece:
// read fills p, or as much from its start as goes in one piece (at least one
// byte), and says how much that was; it is called with ranges inside the device.
func ReadPieces(p []byte, off, size int64, read func(p []byte, off int64) (int, error)) (int, error) {
	if off < 0 {
		return 0, outside(off, size)
	}
	if off >= size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	for done := 0; done < len(p); {
		n, err := read(p[done:], off+int64(done))
		done += n
		if err == nil && n == 0 {
			err = io.ErrNoProgress // never, but a loop would be worse
		}
		if err != nil {
			return done, err
		}
	}
	return len(p), end
}

// Full reads all of p, which lies inside of d.
func Full(d blockdev.Device, p []byte, off int64) (int, error) {
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}
