package ext4

import "cairn/mount/filesys"

// maxIdleBlocks bounds how many blocks of a directory are read without finding
// an entry: 4 to 256 GiB, far beyond what deleting leaves behind.
const maxIdleBlocks = 1 << 22

// dirent is one used entry of a directory. Its name refers to cached metadata.
type dirent struct {
	ino  uint32
	kind uint8
	name []byte
	// hash is what follows the name in encrypted directories that ignore case.
	hash []byte
	off  uint64 // of the entry in the directory
	next uint64 // of the entry behind it
}

// direntTypes turns the file types of entries into S_IFMT bits.
var direntTypes = [...]uint32{0, filesys.TypeRegular, filesys.TypeDir, filesys.TypeChar,
	filesys.TypeBlock, filesys.TypeFIFO, filesys.TypeSocket, filesys.TypeSymlink}

// recLen decodes the length of an entry: with blocks of 64 KiB the length of a
// whole block does not fit 16 bits.
func (f *FS) recLen(b []byte) int {
	n := int(le.Uint16(b))
	if f.sb.blockSize == 1<<16 {
		if n == 0xFFFF || n == 0 {
			return 1 << 16
		}
		return n&^3 | n&3<<16
	}
	return n
}

// eachEntry calls fn with the used entries of b, which stands at off of the
// directory, until fn returns false.
//
//	inode (32 bits), length of the entry (16), of the name (8), file type (8), name
func (f *FS) eachEntry(in *inode, b []byte, off uint64, fn func(dirent) bool) (more bool, err error) {
	for pos := 0; pos < len(b); {
		if len(b)-pos < 12 {
			// Rows of an inline directory may end with less than an entry.
			if in.isInline() {
				return true, nil
			}
			return false, corrupt("directory %d: %d bytes left at %d", in.ino, len(b)-pos, off+uint64(pos))
		}
		e := b[pos:]
		size, nameLen := f.recLen(e[4:]), int(e[6])
		if size < 12 || size%4 != 0 || size > len(e) || 8+nameLen > size {
			return false, corrupt("directory %d: entry of %d bytes at %d with a name of %d",
				in.ino, size, off+uint64(pos), nameLen)
		}
		d := dirent{ino: le.Uint32(e), kind: e[7], name: e[8 : 8+nameLen],
			off: off + uint64(pos), next: off + uint64(pos+size)}
		if at := (8 + nameLen + 3) &^ 3; in.hashInDirent() && at+8 <= size {
			d.hash = e[at : at+8]
		}
		pos += size
		if d.ino == 0 || nameLen == 0 {
			continue
		}
		if d.ino > f.sb.inodes {
			return false, corrupt("directory %d: entry at %d names inode %d of %d", in.ino, d.off, d.ino, f.sb.inodes)
		}
		if !fn(d) {
			return false, nil
		}
	}
	return true, nil
}

// hashInDirent says whether names are followed by their keyed hash.
func (in *inode) hashInDirent() bool {
	return in.flags&(flagEncrypt|flagCasefold) == flagEncrypt|flagCasefold
}

// indexed says whether a directory has a hash tree.
func (f *FS) indexed(in *inode) bool {
	return in.flags&flagIndex != 0 && f.sb.hasDirIndex() && !in.isInline()
}

// dirBlock reads block lblk of a directory and verifies its checksum. A hole
// is nil.
func (f *FS) dirBlock(in *inode, lblk uint64) ([]byte, error) {
	r, err := f.mapBlock(in, lblk)
	if err != nil || r.phys == 0 {
		return nil, err
	}
	return f.physDirBlock(in, lblk, r.phys)
}

func (f *FS) physDirBlock(in *inode, lblk, phys uint64) ([]byte, error) {
	b, err := f.block(phys)
	if err != nil {
		return nil, wrap(err, "directory %d", in.ino)
	}
	if !f.sb.metadataCsum() {
		return b, nil
	}
	if f.indexed(in) && (lblk == 0 || f.recLen(b[4:]) == len(b)) {
		err = f.checkIndexBlock(in, b)
	} else {
		err = checkLeafBlock(in, b)
	}
	if err != nil {
		return nil, wrap(err, "directory %d, block %d", in.ino, lblk)
	}
	return b, nil
}

// checkLeafBlock verifies a block of entries, whose checksum stands in a last
// entry of 12 bytes that looks unused and has file type 0xDE.
func checkLeafBlock(in *inode, b []byte) error {
	t := b[len(b)-12:]
	if le.Uint32(t) != 0 || le.Uint16(t[4:]) != 12 || t[6] != 0 || t[7] != 0xDE {
		return corrupt("no checksum")
	}
	if got, want := crc32c(in.seed, b[:len(b)-12]), le.Uint32(t[8:]); got != want {
		return corrupt("checksum is %08x, stored %08x", got, want)
	}
	return nil
}

// checkIndexBlock verifies a block of the hash tree: its used entries, and the
// tail behind the last possible one.
func (f *FS) checkIndexBlock(in *inode, b []byte) error {
	off := 8 // a node begins with one empty entry
	if f.recLen(b[4:]) == 12 {
		off = 32 // the root with "." and ".." and a header
	}
	limit, count := int(le.Uint16(b[off:])), int(le.Uint16(b[off+2:]))
	tail := off + 8*limit
	if count > limit || tail+8 > len(b) {
		return corrupt("index of %d entries, at most %d", count, limit)
	}
	c := crc32c(in.seed, b[:off+8*count])
	c = crc32c(c, b[tail:tail+4])
	c = crc32cLE(c, 0)
	if want := le.Uint32(b[tail+4:]); c != want {
		return corrupt("index checksum is %08x, stored %08x", c, want)
	}
	return nil
}

// eachDirent calls fn with the used entries of a directory, starting with the
// one at off, until fn returns false. "." and ".." are among them.
func (f *FS) eachDirent(in *inode, off uint64, fn func(dirent) bool) error {
	idle := 0
	visit := func(d dirent) bool {
		if d.off < off {
			return true
		}
		idle = 0
		return fn(d)
	}
	if in.isInline() {
		stopped := false
		return in.inlineDir(func(entries []byte, at uint64) error {
			if stopped {
				return nil
			}
			more, err := f.eachEntry(in, entries, at, visit)
			stopped = !more
			return err
		})
	}
	bits := f.sb.blockBits
	blocks := (uint64(in.size) + f.sb.blockSize - 1) >> bits
	for lblk := off >> bits; lblk < blocks; {
		r, err := f.mapBlock(in, lblk)
		if err != nil {
			return err
		}
		if r.phys == 0 {
			lblk += r.n
			if idle++; idle > maxIdleBlocks {
				return corrupt("directory %d has too many empty blocks", in.ino)
			}
			continue
		}
		for end := min(lblk+r.n, blocks); lblk < end; lblk, r.phys = lblk+1, r.phys+1 {
			if idle++; idle > maxIdleBlocks {
				return corrupt("directory %d has too many empty blocks", in.ino)
			}
			b, err := f.physDirBlock(in, lblk, r.phys)
			if err != nil {
				return err
			}
			if more, err := f.eachEntry(in, b, lblk<<bits, visit); err != nil || !more {
				return err
			}
		}
	}
	return nil
}
