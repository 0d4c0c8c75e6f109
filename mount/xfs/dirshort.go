package xfs

// shortDir is the header of a directory within its inode: how many entries, how
// many of them have inode numbers of 64 bits (8 each), parent. If any has, all
// have, the parent too; else numbers have 32 bits.
type shortDir struct {
	count  int
	wide   int // bytes of an inode number
	parent uint64
	bytes  []byte // all of it
}

func (in *inode) shortDir() (sf shortDir, err error) {
	b := in.data.root[:in.size] // decodeForks has seen that it fits
	if len(b) < 6 {
		return sf, corrupt("directory %d of %d bytes", in.ino, len(b))
	}
	sf = shortDir{count: int(b[0]), wide: 4, bytes: b}
	if b[1] != 0 {
		sf.wide = 8
	}
	if len(b) < 2+sf.wide {
		return sf, corrupt("directory %d of %d bytes", in.ino, len(b))
	}
	sf.parent = sf.number(2)
	return sf, nil
}

func (sf *shortDir) number(at int) uint64 {
	if sf.wide == 8 {
		return be.Uint64(sf.bytes[at:])
	}
	return uint64(be.Uint32(sf.bytes[at:]))
}

// eachShort calls fn with the entries, until fn returns false. Offsets are those
// in the inode.
//
//	length of the name (8 bits), where the entry would be in a block (16), name,
//	[file type (8)], inode (32 or 64)
func (f *FS) eachShort(in *inode, sf shortDir, fn func(dirent) bool) error {
	pos := 2 + sf.wide
	for range sf.count {
		if len(sf.bytes)-pos < 3 {
			return corrupt("directory %d ends within its entries", in.ino)
		}
		n := int(sf.bytes[pos])
		end := pos + 3 + n + sf.wide
		if f.sb.hasFileTypes() {
			end++
		}
		if n == 0 || end > len(sf.bytes) {
			return corrupt("directory %d: name of %d bytes at %d", in.ino, n, pos)
		}
		d := dirent{ino: sf.number(end - sf.wide), name: sf.bytes[pos+3 : pos+3+n : pos+3+n], off: uint64(pos), next: uint64(end)}
		if f.sb.hasFileTypes() {
			d.kind = sf.bytes[pos+3+n]
		}
		if !f.sb.validInode(d.ino) {
			return corrupt("directory %d: entry at %d names inode %d", in.ino, pos, d.ino)
		}
		pos = end
		if !fn(d) {
			return nil
		}
	}
	if pos != len(sf.bytes) {
		return corrupt("directory %d has %d bytes behind its entries", in.ino, len(sf.bytes)-pos)
	}
	return nil
}
