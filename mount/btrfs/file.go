package btrfs

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"cairn/mount/filesys"
)

// file is the content of a regular file or symlink.
type file struct {
	v  *volume
	in *inode
}

var _ filesys.Stored = (*file)(nil)

// Open gives the content of a regular file.
func (f *FS) Open(ino uint64) (filesys.File, error) {
	if f.isDead(ino) {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	}
	in, err := f.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case in.isDir():
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	case !in.isRegular():
		return nil, fmt.Errorf("open inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	}
	return &file{f.v, in}, nil
}

// Readlink reads a symlink's target, which is the inode's content.
func (f *FS) Readlink(ino uint64) (string, error) {
	const pathMax = 4096
	if f.isDead(ino) {
		return "", fmt.Errorf("read link of inode %d: %w", ino, filesys.ErrInvalid)
	}
	in, err := f.inode(ino)
	if err != nil {
		return "", err
	}
	if in.mode&filesys.TypeMask != filesys.TypeSymlink {
		return "", fmt.Errorf("read link of inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	}
	if in.size == 0 || in.size >= pathMax {
		return "", corrupt("inode %d: a symlink of %d bytes", ino, in.size)
	}
	p := make([]byte, in.size)
	if n, err := (&file{f.v, in}).ReadAt(p, 0); n < len(p) {
		return "", err
	}
	for _, c := range p {
		if c == 0 {
			return "", corrupt("inode %d: a symlink to %q", ino, p)
		}
	}
	return string(p), nil
}

func (c *file) Size() int64 { return c.in.size }

func (c *file) extent(off int64) (extent, error) {
	e, err := c.in.t.extent(c.in.obj, uint64(off))
	if err != nil {
		return e, wrap(err, "inode %d", c.in.ino)
	}
	return e, nil
}

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
	done := 0
	for done < len(p) {
		n, err := c.readSome(p[done:], uint64(off)+uint64(done))
		if done += n; err != nil {
			return done, err
		}
	}
	return done, end
}

// readBatch is how many extents are read at a time.
const readBatch = 16

// readSome reads a batch of extents into the front of p. Compressed ones are
// read side by side: that is where the time goes.
func (c *file) readSome(p []byte, pos uint64) (int, error) {
	type piece struct {
		e    extent
		p    []byte
		pos  uint64
		err  error
		done sync.WaitGroup
	}
	var pieces []*piece
	var extentErr error
	compressed := 0
	for n := 0; n < len(p) && len(pieces) < readBatch; {
		at := pos + uint64(n)
		var e extent
		if e, extentErr = c.extent(int64(at)); extentErr != nil {
			break
		}
		part := p[n:][:min(uint64(len(p)-n), e.end-at)]
		pieces = append(pieces, &piece{e: e, p: part, pos: at})
		n += len(part)
		if e.kind == kindCompressed {
			compressed++
		}
	}
	limit := make(chan struct{}, max(1, runtime.GOMAXPROCS(0)))
	for _, x := range pieces {
		if x.e.kind != kindCompressed || compressed < 2 {
			x.err = c.readExtent(x.p, x.e, x.pos-x.e.start)
			continue
		}
		limit <- struct{}{}
		x.done.Go(func() {
			x.err = c.readExtent(x.p, x.e, x.pos-x.e.start)
			<-limit
		})
	}
	for _, x := range pieces {
		x.done.Wait()
	}
	done := 0
	for _, x := range pieces {
		if x.err != nil {
			return done, wrap(x.err, "inode %d at %d", c.in.ino, x.pos)
		}
		done += len(x.p)
	}
	return done, extentErr
}

// readExtent fills p from the byte in of an extent on.
func (c *file) readExtent(p []byte, e extent, in uint64) error {
	sums := c.in.flags&inodeNoSums == 0
	switch e.kind {
	case kindHole:
		clear(p)
	case kindPlain:
		return c.v.readData(p, e.disk+e.off+in, sums)
	case kindCompressed:
		b, err := c.v.decompressed(e, sums)
		if err != nil {
			return err
		}
		copy(p, b[e.off+in:])
	case kindInline:
		b := e.inline
		if e.compression != 0 {
			b = make([]byte, e.ram)
			if err := decompressors[e.compression](b, e.inline, int(c.v.super.sector)); err != nil {
				return err
			}
		}
		copy(p, b[in:])
	}
	return nil
}

// Extent reports what is stored as data, like SEEK_DATA on Linux.
func (c *file) Extent(off int64) (bool, int64, error) {
	if off < 0 || off >= c.in.size {
		return false, 0, fmt.Errorf("extent at %d of %d: %w", off, c.in.size, filesys.ErrInvalid)
	}
	e, err := c.extent(off)
	if err != nil {
		return false, 0, err
	}
	sector := int64(c.v.super.sector)
	if e.kind == kindHole && off < sector && e.start > 0 && e.start < uint64(sector) {
		// The rest of the sector behind inline data, to Linux, is data.
		return true, min(c.in.size, sector) - off, nil
	}
	end := int64(e.end)
	if e.kind == kindInline {
		end = sector
	}
	return e.kind != kindHole, min(c.in.size, end) - off, nil
}

// Stored knows the places on a file system of one device. With several, it
// answers that it cannot be told: a Range says nothing of the device.
func (c *file) Stored(off int64) (filesys.Range, int64, error) {
	unknown := filesys.Range{Off: -1}
	if off < 0 || off >= c.in.size {
		return unknown, 0, fmt.Errorf("stored at %d of %d: %w", off, c.in.size, filesys.ErrInvalid)
	}
	e, err := c.extent(off)
	if err != nil {
		return unknown, 0, err
	}
	in := uint64(off) - e.start
	n := min(int64(e.end), c.in.size) - off
	switch e.kind {
	case kindHole:
		return filesys.Range{}, n, nil
	case kindPlain:
		phys, run := c.v.physical(e.disk + e.off + in)
		n = min(n, max(int64(run), 1))
		if phys < 0 {
			return unknown, n, nil
		}
		return filesys.Range{Off: phys, Len: n}, n, nil
	case kindCompressed:
		// A clone may use another part of the extent at the same offset. Only
		// of an extent that is used whole does n say where in it off lies.
		phys, run := c.v.physical(e.disk)
		// As many bytes as there is content would look like plain data.
		if phys < 0 || run < e.diskLen || e.off != 0 || e.end-e.start != e.ram || e.diskLen == uint64(n) {
			return unknown, n, nil
		}
		return filesys.Range{Off: phys, Len: int64(e.diskLen)}, n, nil
	}
	phys, run := c.v.physical(e.inlineAt)
	if e.inlineAt == 0 || phys < 0 || run < uint64(len(e.inline)) {
		return unknown, n, nil
	}
	if e.compression == 0 {
		return filesys.Range{Off: phys + off, Len: n}, n, nil
	}
	if int64(len(e.inline)) == n {
		return unknown, n, nil
	}
	return filesys.Range{Off: phys, Len: int64(len(e.inline))}, n, nil
}

// physical gives the place on the only device, or -1, and for how many bytes
// it goes on. Of two copies it is the first one's.
func (v *volume) physical(logical uint64) (int64, uint64) {
	c, err := v.chunks.find(logical)
	if err != nil || len(v.devices) != 1 || v.super.devices != 1 {
		return -1, 0
	}
	s, _, phys, n := c.at(logical-c.start, 0)
	if c.stripes[s].dev == nil {
		return -1, n
	}
	return int64(phys), n
}
