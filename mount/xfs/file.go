package xfs

import (
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// file is the content of a regular file.
type file struct {
	fs *FS
	in *inode
}

var _ filesys.Stored = (*file)(nil)

// Open gives the content of a regular file, which is a filesys.Stored.
func (f *FS) Open(ino uint64) (filesys.File, error) {
	in, err := f.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case in.isDir():
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	case !in.isRegular():
		return nil, fmt.Errorf("open inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	case in.flags&flagRealtime != 0:
		return nil, fmt.Errorf("content of inode %d is on the real-time device: %w", ino, filesys.ErrUnsupported)
	}
	return &file{f, in}, nil
}

func (c *file) Size() int64 { return c.in.size }

func (c *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, filesys.ErrInvalid)
	}
	if off >= c.in.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > c.in.size-off {
		p, end = p[:c.in.size-off], io.EOF
	}
	f, done := c.fs, 0
	bits := f.sb.blockBits
	for done < len(p) {
		pos := uint64(off) + uint64(done)
		in, want := pos&(f.sb.blockSize-1), uint64(len(p)-done)
		blocks := (in + want + f.sb.blockSize - 1) >> bits
		r, err := f.mapMerged(&c.in.data, pos>>bits, blocks)
		if err != nil {
			return done, err
		}
		part := p[done:][:min(in+want, min(r.n, blocks)<<bits)-in]
		if !r.isData() {
			clear(part)
		} else if err := readFull(f.r, part, int64(r.phys<<bits+in)); err != nil {
			return done, wrap(err, "inode %d", c.in.ino)
		}
		done += len(part)
	}
	return done, end
}

// at maps the byte at off, and says how many bytes from there, at least one, are
// mapped the same way.
func (c *file) at(off int64) (r run, n int64, err error) {
	if off < 0 || off >= c.in.size {
		return run{}, 0, fmt.Errorf("extent at %d of %d: %w", off, c.in.size, filesys.ErrInvalid)
	}
	bits := c.fs.sb.blockBits
	first := uint64(off) >> bits
	limit := uint64(c.in.size-1)>>bits - first + 1
	if r, err = c.fs.mapMerged(&c.in.data, first, limit); err != nil {
		return run{}, 0, err
	}
	// The end of the last block of the largest file does not fit 63 bits.
	end := c.in.size
	if r.n < limit {
		end = int64((first + r.n) << bits)
	}
	return r, end - off, nil
}

// Extent reports mapped, written blocks as data, like SEEK_DATA on Linux.
func (c *file) Extent(off int64) (bool, int64, error) {
	r, n, err := c.at(off)
	return r.isData(), n, err
}

// Stored tells where on the volume content is. A log holds metadata only; should
// one, by damage, decide bytes of content, then their place cannot be told.
func (c *file) Stored(off int64) (filesys.Range, int64, error) {
	r, n, err := c.at(off)
	if err != nil || !r.isData() {
		return filesys.Range{}, n, err
	}
	bits := c.fs.sb.blockBits
	at := filesys.Range{Off: int64(r.phys<<bits) + off&(1<<bits-1), Len: n}
	if overlaps(c.fs.replayed, at.Off, at.Off+at.Len) {
		at = filesys.Range{Off: -1}
	}
	return at, n, nil
}
