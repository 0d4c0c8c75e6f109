package xfs

import (
	"errors"

	"cairn/mount/filesys"
)

const (
	// leafOffset and freeOffset are where a directory keeps its hashes, and
	// its free space.
	leafOffset = 32 << 30

	blockMagic   = 0x58443242 // "XD2B": one block with entries and hashes
	dataMagic    = 0x58443244 // "XD2D": entries
	blockMagicV5 = 0x58444233 // "XDB3"
	dataMagicV5  = 0x58444433 // "XDD3"
)

// maxDamaged is after how many damaged blocks no more of a directory are read:
// one that is all damage can be said to have millions.
const maxDamaged = 1 << 12

// eachDirent calls fn with the entries of a directory, starting with the one at
// off, until fn returns false. "." and ".." are among them but in the short form.
func (f *FS) eachDirent(in *inode, off uint64, fn func(dirent) bool) error {
	visit := func(d dirent) bool { return d.off < off || fn(d) }
	if in.data.form == formLocal {
		sf, err := in.shortDir()
		if err != nil {
			return err
		}
		return f.eachShort(in, sf, visit)
	}
	var bad error
	damaged := 0
	blocks := uint64(in.size) >> f.sb.dirBits
	shift := f.sb.dirBits - f.sb.blockBits
	for nr := off >> f.sb.dirBits; nr < blocks; {
		b, err := f.dirBlock(in, nr<<shift)
		if err == nil && b == nil {
			r, err := f.mapBlock(&in.data, nr<<shift)
			if err != nil {
				return err
			}
			if r.n>>shift >= blocks-nr {
				break
			}
			nr += max(1, r.n>>shift)
			continue
		}
		more := true
		if err == nil {
			more, err = f.eachEntry(in, b, nr<<f.sb.dirBits, visit)
		}
		switch {
		case err != nil && !errors.Is(err, filesys.ErrCorrupt):
			return err // a read failed, and would again
		case err != nil:
			if bad == nil {
				bad = err
			}
			if damaged++; damaged == maxDamaged {
				return bad
			}
		}
		if !more {
			return nil
		}
		nr++
	}
	return bad
}

// dirBlock reads and checks the directory block of entries that begins at block
// off of the fork. A hole is nil.
func (f *FS) dirBlock(in *inode, off uint64) ([]byte, error) {
	return f.forkBlock(kindData, &in.data, off, f.sb.dirBits-f.sb.blockBits, func(b []byte, daddr uint64) error {
		magic := be.Uint32(b)
		if !f.sb.v5 && (magic == blockMagic || magic == dataMagic) {
			return nil
		}
		if f.sb.v5 && (magic == blockMagicV5 || magic == dataMagicV5) {
			return f.sb.verify(b, stampDirData, daddr, in.ino)
		}
		return corrupt("it begins with %08x", magic)
	})
}

// forkBlock reads 1<<shift blocks of a fork, which need not be contiguous on the
// volume, and has them checked unless they are cached. A hole is nil.
func (f *FS) forkBlock(k kind, fk *fork, off uint64, shift uint, check func(b []byte, daddr uint64) error) ([]byte, error) {
	key := cacheKey{addr: off, owner: fk.in.ino, kind: k}
	if b := f.cache.get(key); b != nil {
		return b, nil
	}
	var b []byte
	var daddr uint64
	for done, total := uint64(0), uint64(1)<<shift; done < total; {
		r, err := f.mapBlock(fk, off+done)
		if err != nil {
			return nil, err
		}
		if !r.isData() {
			if done == 0 && r.phys == 0 {
				return nil, nil
			}
			return nil, corrupt("inode %d: block %d has no place", fk.in.ino, off+done)
		}
		if done == 0 {
			b, daddr = make([]byte, total<<f.sb.blockBits), f.sb.daddr(r.phys)
		}
		n := min(r.n, total-done)
		part := b[done<<f.sb.blockBits : (done+n)<<f.sb.blockBits]
		if err := readFull(f.r, part, int64(r.phys<<f.sb.blockBits)); err != nil {
			return nil, wrap(err, "inode %d", fk.in.ino)
		}
		done += n
	}
	if err := check(b, daddr); err != nil {
		return nil, wrap(err, "inode %d, block %d", fk.in.ino, off)
	}
	f.cache.put(key, b)
	return b, nil
}

// entriesRange is where in a block entries stand: behind the header and, in a
// directory of one block, before its hashes.
func (f *FS) entriesRange(in *inode, b []byte) (start, end int, err error) {
	start, end = 16, len(b)
	if f.sb.v5 {
		start = 64
	}
	if isBlockForm(b) {
		// The tail: how many hashes, and how many of those are of removed
		// entries (32 bits each).
		if in.size != int64(len(b)) {
			return 0, 0, corrupt("directory %d of %d bytes is one block of %d", in.ino, in.size, len(b))
		}
		n := uint64(be.Uint32(b[len(b)-8:]))
		if n > uint64(len(b)-8-start)/8 {
			return 0, 0, corrupt("directory %d has %d hashes in its block", in.ino, n)
		}
		end -= 8 + 8*int(n)
	}
	return start, end, nil
}

// isBlockForm says whether a block is the only one of its directory.
func isBlockForm(b []byte) bool {
	magic := be.Uint32(b)
	return magic == blockMagic || magic == blockMagicV5
}

// entryAt decodes the entry at pos of b, which stands at off of the directory;
// size is what it, or the free space there, takes. Free space has no name.
//
//	used: inode (64 bits), length of the name (8), name, [file type (8)], padding, own offset in b (16)
//	free: 0xFFFF, length (16), …, own offset in b (16)
//
// all in units of 8 bytes.
func (f *FS) entryAt(in *inode, b []byte, pos, end int, off uint64) (d dirent, size int, err error) {
	e := b[pos:end]
	if len(e) < 16 && (len(e) < 8 || be.Uint16(e) != 0xFFFF) {
		return d, 0, corrupt("directory %d: %d bytes left at %d", in.ino, len(e), off+uint64(pos))
	}
	if be.Uint16(e) == 0xFFFF {
		size = int(be.Uint16(e[2:]))
		if size < 8 || size%8 != 0 || size > len(e) {
			return d, 0, corrupt("directory %d: %d free bytes at %d", in.ino, size, off+uint64(pos))
		}
	} else {
		n := int(e[8])
		size = 9 + n + 2
		if f.sb.hasFileTypes() {
			size++
		}
		size = (size + 7) &^ 7
		if n == 0 || size > len(e) {
			return d, 0, corrupt("directory %d: name of %d bytes at %d", in.ino, n, off+uint64(pos))
		}
		d = dirent{ino: be.Uint64(e), name: e[9 : 9+n : 9+n], off: off + uint64(pos), next: off + uint64(pos+size)}
		if f.sb.hasFileTypes() {
			d.kind = e[9+n]
		}
		if !f.sb.validInode(d.ino) {
			return d, 0, corrupt("directory %d: entry at %d names inode %d", in.ino, d.off, d.ino)
		}
	}
	if tag := be.Uint16(e[size-2:]); int(tag) != pos {
		return d, 0, corrupt("directory %d: entry at %d says that it is at %d", in.ino, off+uint64(pos), tag)
	}
	return d, size, nil
}

// eachEntry calls fn with the entries of the block b, which stands at off of the
// directory, until fn returns false.
func (f *FS) eachEntry(in *inode, b []byte, off uint64, fn func(dirent) bool) (more bool, err error) {
	pos, end, err := f.entriesRange(in, b)
	if err != nil {
		return true, err
	}
	if isBlockForm(b) && off != 0 {
		return true, corrupt("directory %d has the only block at %d", in.ino, off)
	}
	for pos < end {
		d, size, err := f.entryAt(in, b, pos, end, off)
		if err != nil {
			return true, err
		}
		pos += size
		if d.name != nil && !fn(d) {
			return false, nil
		}
	}
	return true, nil
}
