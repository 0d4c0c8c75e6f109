package xfs

const (
	attrLeafMagic   = 0xFBEE
	attrLeafMagicV5 = 0x3BEE
	remoteMagic     = 0x5841524D // "XARM"
)

// eachShortAttr calls fn with the attributes within the inode, until fn returns
// false.
//
//	length of all (16 bits), count (8), padding (8)
//	each: length of the name (8), of the value (8), flags (8), name, value
func (in *inode) eachShortAttr(fn func(attribute) bool) error {
	b := in.attr.root
	if len(b) < 4 || int(be.Uint16(b)) > len(b) || be.Uint16(b) < 4 {
		return corrupt("inode %d: no room for attributes", in.ino)
	}
	count := int(b[2])
	b = b[4:be.Uint16(b)]
	for range count {
		if len(b) < 3 || len(b)-3 < int(b[0])+int(b[1]) {
			return corrupt("inode %d ends within its attributes", in.ino)
		}
		name, value := int(b[0]), int(b[1])
		a := attribute{flags: b[2] | attrLocal, name: b[3 : 3+name : 3+name], value: b[3+name : 3+name+value : 3+name+value], size: value}
		b = b[3+name+value:]
		if !fn(a) {
			return nil
		}
	}
	if len(b) != 0 {
		return corrupt("inode %d has %d bytes behind its attributes", in.ino, len(b))
	}
	return nil
}

// attrLeaf is a checked leaf of attributes.
type attrLeaf struct {
	b       []byte
	entries int // where they begin: hash (32 bits), place of the name (16), flags (8), padding
	count   int
	next    uint64 // leaf, 0 for none
}

func (f *FS) attrLeaf(in *inode, b []byte, off uint64) (attrLeaf, error) {
	magic, entries := uint16(attrLeafMagic), 32
	if f.sb.v5 {
		magic, entries = attrLeafMagicV5, 80
	}
	if got := be.Uint16(b[8:]); got != magic {
		return attrLeaf{}, corrupt("inode %d: leaf of attributes at block %d begins with %04x", in.ino, off, got)
	}
	l := attrLeaf{b: b, entries: entries, count: int(be.Uint16(b[f.treeHeader():])), next: uint64(be.Uint32(b))}
	if l.count > (len(b)-entries)/8 {
		return attrLeaf{}, corrupt("inode %d: leaf at block %d with %d attributes", in.ino, off, l.count)
	}
	return l, nil
}

func (l *attrLeaf) hash(i int) uint32 { return be.Uint32(l.b[l.entries+8*i:]) }

// search finds the first entry whose hash is not less.
func (l *attrLeaf) search(hash uint32) int {
	low, high := 0, l.count
	for low < high {
		if mid := (low + high) / 2; l.hash(mid) < hash {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// attribute decodes an entry.
//
//	local:  length of the value (16 bits), of the name (8), name, value
//	remote: block of the value (32), its length (32), length of the name (8), name
func (l *attrLeaf) attribute(i int) (attribute, error) {
	e := l.b[l.entries+8*i:]
	at, a := int(be.Uint16(e[4:])), attribute{flags: e[6]}
	if at < l.entries+8*l.count || len(l.b)-at < 12 && a.flags&attrLocal == 0 || len(l.b)-at < 3 {
		return a, corrupt("attribute at %d of %d bytes", at, len(l.b))
	}
	p := l.b[at:]
	var name int
	if a.flags&attrLocal != 0 {
		a.size, name, p = int(be.Uint16(p)), int(p[2]), p[3:]
		if name+a.size > len(p) {
			return a, corrupt("attribute of %d and %d bytes at %d", name, a.size, at)
		}
		a.value = p[name : name+a.size : name+a.size]
	} else {
		a.remote, a.size, name = uint64(be.Uint32(p)), int(be.Uint32(p[4:])), int(p[8])
		if p = p[9:]; name > len(p) {
			return a, corrupt("attribute of %d bytes at %d", name, at)
		}
		if a.size > valueMax {
			return a, corrupt("attribute with a value of %d bytes", a.size)
		}
	}
	a.name = p[:name:name]
	return a, nil
}

// remoteValue reads a value that has blocks of its own. On version 5 each begins
// with a header of 56 bytes: magic (32 bits), place in the value (32), length
// (32), then its stamp.
func (f *FS) remoteValue(in *inode, a attribute) ([]byte, error) {
	if a.remote == 0 && a.size > 0 {
		return nil, corrupt("value of %d bytes without blocks", a.size)
	}
	value := make([]byte, a.size)
	block := make([]byte, f.sb.blockSize)
	for off, done := a.remote, 0; done < a.size; off++ {
		r, err := f.mapBlock(&in.attr, off)
		if err != nil {
			return nil, err
		}
		if !r.isData() {
			return nil, corrupt("value has no block %d", off)
		}
		if err := readFull(f.r, block, int64(r.phys<<f.sb.blockBits)); err != nil {
			return nil, err
		}
		part := block
		if f.sb.v5 {
			if err := f.sb.verify(block, stampRemote, f.sb.daddr(r.phys), in.ino); err != nil {
				return nil, wrap(err, "block %d of the value", r.phys)
			}
			n := be.Uint32(block[8:])
			if be.Uint32(block) != remoteMagic || uint64(be.Uint32(block[4:])) != uint64(done) || uint64(n) > uint64(len(block)-56) || n == 0 {
				return nil, corrupt("block %d is not the value's at %d", r.phys, done)
			}
			part = block[56 : 56+n]
			if want := min(a.size-done, len(block)-56); len(part) != want {
				return nil, corrupt("block %d has %d bytes of the value, not %d", r.phys, len(part), want)
			}
		}
		done += copy(value[done:], part)
	}
	return value, nil
}
