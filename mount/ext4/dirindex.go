package ext4

import "errors"

// errNoIndex asks for a linear search: the directory's hash tree is of a kind
// that is not known, or damaged. Linux searches linearly then as well.
var errNoIndex = errors.New("no usable directory index")

// maxCollisions bounds the leaves that one lookup reads because their names
// hash alike.
const maxCollisions = 1 << 14

// indexRoot is the header of a directory's hash tree.
//
//	offset 24  reserved (32 bits), hash version (8), length of this header (8),
//	           levels below the root (8), flags (8); then the entries
type indexRoot struct {
	version uint8
	levels  int
	block   []byte
}

// indexRoot reads the header of in's hash tree; nil when there is none that
// can be used.
func (f *FS) indexRoot(in *inode) (*indexRoot, error) {
	if !f.indexed(in) {
		return nil, nil
	}
	b, err := f.dirBlock(in, 0)
	if err != nil || b == nil {
		return nil, err
	}
	r := &indexRoot{version: b[28], levels: int(b[30]), block: b}
	most := 2
	if f.sb.incompat&incompatLargeDir != 0 {
		most = 3
	}
	known := r.version <= hashTEA && !in.hashInDirent() || r.version == hashSip && in.hashInDirent()
	if !known || b[29] != 8 || b[31]&1 != 0 || r.levels >= most {
		return nil, nil
	}
	return r, nil
}

// indexFrame is the place in one node on the way from the root to a leaf.
type indexFrame struct {
	entries []byte // 8 bytes each: hash, block
	at      int
}

func (fr *indexFrame) len() int          { return len(fr.entries) / 8 }
func (fr *indexFrame) hash(i int) uint32 { return le.Uint32(fr.entries[8*i:]) }
func (fr *indexFrame) child() uint64     { return uint64(le.Uint32(fr.entries[8*fr.at+4:]) & 0x0FFFFFFF) }

// indexFrame takes the entries of a node of the tree, which begin at off. The
// first entry has no hash: that place holds how many there can be, and are.
func (f *FS) indexFrame(in *inode, b []byte, off int) (indexFrame, error) {
	room := len(b) - off
	if f.sb.metadataCsum() {
		room -= 8
	}
	if off == 8 && in.hashInDirent() {
		room -= 8
	}
	limit, count := int(le.Uint16(b[off:])), int(le.Uint16(b[off+2:]))
	if limit != room/8 || count == 0 || count > limit {
		return indexFrame{}, errNoIndex
	}
	return indexFrame{entries: b[off : off+8*count]}, nil
}

func (f *FS) indexNode(in *inode, lblk uint64) (indexFrame, error) {
	b, err := f.dirBlock(in, lblk)
	if err != nil {
		return indexFrame{}, err
	}
	if b == nil || f.recLen(b[4:]) != len(b) {
		return indexFrame{}, errNoIndex
	}
	return f.indexFrame(in, b, 8)
}

// indexLookup gives fn the entries of every leaf that may hold names of this
// hash, until fn returns false.
func (f *FS) indexLookup(in *inode, root *indexRoot, hash uint32, fn func(dirent) bool) error {
	path := make([]indexFrame, 0, 4)
	frame, err := f.indexFrame(in, root.block, 32)
	for {
		if err != nil {
			return err
		}
		lo, hi := 1, frame.len() // the first entry covers everything below the second
		for lo < hi {
			if mid := (lo + hi) / 2; frame.hash(mid) > hash {
				hi = mid
			} else {
				lo = mid + 1
			}
		}
		frame.at = lo - 1
		path = append(path, frame)
		if len(path) > root.levels {
			break
		}
		frame, err = f.indexNode(in, frame.child())
	}
	for range maxCollisions {
		lblk := path[len(path)-1].child()
		b, err := f.dirBlock(in, lblk)
		if err != nil {
			return err
		}
		if b == nil {
			return errNoIndex
		}
		if more, err := f.eachEntry(in, b, lblk<<f.sb.blockBits, fn); err != nil || !more {
			return err
		}
		if more, err := f.indexNext(in, path, hash); err != nil || !more {
			return err
		}
	}
	return corrupt("directory %d: more than %d leaves for one hash", in.ino, maxCollisions)
}

// indexNext moves path to the next leaf if that continues the same hash, which
// the lowest bit of its hash says.
func (f *FS) indexNext(in *inode, path []indexFrame, hash uint32) (bool, error) {
	level := len(path) - 1
	for ; level >= 0; level-- {
		if path[level].at+1 < path[level].len() {
			break
		}
	}
	if level < 0 {
		return false, nil
	}
	path[level].at++
	if path[level].hash(path[level].at)&^1 != hash {
		return false, nil
	}
	for ; level+1 < len(path); level++ {
		var err error
		if path[level+1], err = f.indexNode(in, path[level].child()); err != nil {
			return false, err
		}
	}
	return true, nil
}
