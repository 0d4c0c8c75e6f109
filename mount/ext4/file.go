package ext4

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

var _ filesys.File = (*file)(nil)

// Open gives the content of a regular file.
func (f *FS) Open(ino uint64) (filesys.File, error) {
	in, err := f.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case in.isDir():
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	case !in.isRegular():
		return nil, fmt.Errorf("open inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	}
	return f.content(in)
}

// content is what the inode in holds, whatever its type.
func (f *FS) content(in *inode) (*file, error) {
	if in.flags&flagEncrypt != 0 {
		return nil, fmt.Errorf("content of inode %d: encryption: %w", in.ino, filesys.ErrUnsupported)
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
	if c.in.isInline() {
		c.in.copyInline(p, off)
		return len(p), end
	}
	f, done := c.fs, 0
	for done < len(p) {
		pos := uint64(off) + uint64(done)
		lblk, in := pos>>f.sb.blockBits, pos&(f.sb.blockSize-1)
		want := in + uint64(len(p)-done)
		r, err := f.mapMerged(c.in, lblk, (want+f.sb.blockSize-1)>>f.sb.blockBits)
		if err != nil {
			return done, err
		}
		part := p[done:][:min(want, r.n<<f.sb.blockBits)-in]
		if r.phys == 0 {
			clear(part)
		} else if err := readFull(f.r, part, int64(r.phys<<f.sb.blockBits+in)); err != nil {
			return done, wrap(err, "inode %d", c.in.ino)
		}
		done += len(part)
	}
	return done, end
}

// Extent reports mapped, written blocks as data, like SEEK_DATA on Linux.
func (c *file) Extent(off int64) (bool, int64, error) {
	switch {
	case off < 0 || off >= c.in.size:
		return false, 0, fmt.Errorf("extent at %d of %d: %w", off, c.in.size, filesys.ErrInvalid)
	case c.in.isInline():
		return true, c.in.size - off, nil
	}
	bits := c.fs.sb.blockBits
	lblk := uint64(off) >> bits
	limit := uint64(c.in.size-1)>>bits - lblk + 1
	r, err := c.fs.mapMerged(c.in, lblk, limit)
	if err != nil {
		return false, 0, err
	}
	// mapMerged ends data where it is not contiguous on the volume; what
	// follows there is data as well, and a matter of another call.
	end := min(int64((lblk+min(r.n, limit))<<bits), c.in.size)
	return r.phys != 0, end - off, nil
}

// readAll reads the whole content of a small file, of at most limit bytes.
func (f *FS) readAll(in *inode, limit int64) ([]byte, error) {
	if in.size > limit {
		return nil, corrupt("inode %d: %d bytes where at most %d make sense", in.ino, in.size, limit)
	}
	c, err := f.content(in)
	if err != nil {
		return nil, err
	}
	p := make([]byte, in.size)
	if n, err := c.ReadAt(p, 0); n < len(p) {
		return nil, err
	}
	return p, nil
}
