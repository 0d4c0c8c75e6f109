package ext4

import (
	"fmt"

	"cairn/mount/filesys"
)

var _ filesys.Stored = (*file)(nil)

// nowhere is the answer for bytes whose place cannot be told.
var nowhere = filesys.Range{Off: -1}

// Stored tells where the volume keeps the byte at off: in its block, in the
// inode where content is inline, or in the journal where that holds a newer
// version of either.
func (c *file) Stored(off int64) (filesys.Range, int64, error) {
	f := c.fs
	if off < 0 || off >= c.in.size {
		return filesys.Range{}, 0, fmt.Errorf("place of byte %d of %d: %w", off, c.in.size, filesys.ErrInvalid)
	}
	left := c.in.size - off
	if c.in.isInline() {
		desc, pos, err := f.inodePlace(uint64(c.in.ino))
		if err != nil {
			return filesys.Range{}, 0, err
		}
		at := int64(desc.inodeTable<<f.sb.blockBits + pos)
		place, _, err := f.place(at, int64(f.sb.inodeSize)) // lies in one block
		return place, left, err
	}
	lblk, in := uint64(off)>>f.sb.blockBits, uint64(off)&(f.sb.blockSize-1)
	limit := uint64(c.in.size-1)>>f.sb.blockBits - lblk + 1
	r, err := f.mapMerged(c.in, lblk, limit)
	if err != nil {
		return filesys.Range{}, 0, err
	}
	n := min(int64(min(r.n, limit)<<f.sb.blockBits-in), left)
	if r.phys == 0 {
		return filesys.Range{}, n, nil
	}
	return f.place(int64(r.phys<<f.sb.blockBits+in), n)
}

// place tells where the volume itself keeps the n bytes that are read at off,
// through the journal's overlay, or the first of them.
func (f *FS) place(off, n int64) (filesys.Range, int64, error) {
	if f.log == nil {
		return filesys.Range{Off: off, Len: n}, n, nil
	}
	bits := f.sb.blockBits
	first, end := uint64(off)>>bits, (uint64(off+n)+f.sb.blockSize-1)>>bits
	for b := range f.log.Blocks(first, end) {
		if b > first {
			n = min(n, int64(b<<bits)-off)
			break
		}
		in := off - int64(b<<bits)
		n = min(n, int64(f.sb.blockSize)-in)
		at, verbatim, _ := f.log.Where(b)
		if !verbatim {
			return nowhere, n, nil
		}
		p, m, err := f.journal.Stored(at + in)
		n = min(n, m)
		p.Len = min(p.Len, n)
		return p, n, err
	}
	return filesys.Range{Off: off, Len: n}, n, nil
}

// inodePlace is the descriptor of an inode's group, and the inode's offset in
// bytes in the group's table.
func (f *FS) inodePlace(ino uint64) (groupDesc, uint64, error) {
	desc, err := f.group((ino - 1) / uint64(f.sb.inodesPer))
	return desc, (ino - 1) % uint64(f.sb.inodesPer) * f.sb.inodeSize, err
}
