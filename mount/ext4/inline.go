package ext4

import "cairn/mount/filesys"

// inlineHead is how much inline data i_block takes; what is more stands in the
// inode's attribute system.data.
const inlineHead = 60

// decodeInline finds the second part of inline data.
func (f *FS) decodeInline(in *inode) error {
	entries, err := f.bodyXattrs(in)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.index == xattrSystem && e.name == "data" {
			if e.inum != 0 {
				return corrupt("inline data in inode %d", e.inum)
			}
			in.tail = e.value
			if in.isDir() && in.size > inlineHead+int64(len(in.tail)) {
				return corrupt("directory of %d bytes in %d", in.size, inlineHead+len(in.tail))
			}
			return nil
		}
	}
	return corrupt("inline data without its attribute")
}

// copyInline fills p with inline data from off on. What the size promises and
// the inode does not hold is zeros.
func (in *inode) copyInline(p []byte, off int64) {
	clear(p)
	if off < inlineHead {
		n := copy(p, in.iblock()[off:])
		p, off = p[n:], off+int64(n)
	}
	if off -= inlineHead; off < int64(len(in.tail)) && off >= 0 {
		copy(p, in.tail[off:])
	}
}

// inlineDir calls fn with the two rows of entries of an inline directory and
// their offsets in it. The first 4 bytes name the parent; "." and ".." have no
// entries.
func (in *inode) inlineDir(fn func(entries []byte, off uint64) error) error {
	if err := fn(in.iblock()[4:], 4); err != nil {
		return err
	}
	return fn(in.tail, inlineHead)
}

// fastSymlink says whether a symlink's target stands in i_block.
func (f *FS) fastSymlink(in *inode) bool {
	if in.mode&filesys.TypeMask != filesys.TypeSymlink || in.isInline() {
		return false
	}
	if f.sb.incompat&incompatEAInode != 0 {
		return in.size > 0 && in.size < inlineHead
	}
	var acl int64
	if in.acl != 0 {
		acl = int64(f.sb.blockSize >> 9 << f.sb.clusterBits)
	}
	return f.sectors(in) == acl
}
