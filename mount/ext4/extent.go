package ext4

import "sort"

const (
	extentMagic    = 0xF30A
	extentMaxDepth = 5
	// initMaxLen is the length of the longest written extent, a power of two
	// that is itself included: only greater lengths mean "unwritten", of so
	// many blocks less.
	initMaxLen = 32768
)

// extent maps n blocks of the file from lblk on. Unwritten ones are allocated
// but read as zeros.
type extent struct {
	lblk      uint32
	n         uint32
	phys      uint64
	unwritten bool
}

// extentIndex names the node below that maps the blocks from lblk on.
type extentIndex struct {
	lblk uint32
	node uint64
}

// extentNode is a decoded node of an extent tree: extents at depth 0, indexes
// above. Entries are in order and do not overlap.
type extentNode struct {
	depth   int
	extents []extent
	indexes []extentIndex
}

// decodeExtents decodes node b of in's tree. Depth is what the parent says; -1
// means the root, which tells itself.
//
//	header  magic, entries, max, depth (16 bits each), generation (32 bits)
//	entry   12 bytes each
//	tail    checksum behind the last possible entry (not in the root)
func (f *FS) decodeExtents(in *inode, b []byte, depth int) (*extentNode, error) {
	entries, most, level := le.Uint16(b[2:]), le.Uint16(b[4:]), int(le.Uint16(b[6:]))
	room := (len(b) - 12) / 12
	switch {
	case le.Uint16(b) != extentMagic:
		return nil, corrupt("magic number %04x", le.Uint16(b))
	case level > extentMaxDepth || depth >= 0 && level != depth:
		return nil, corrupt("depth %d", level)
	case most == 0 || int(most) > room || entries > most || entries == 0 && level > 0:
		return nil, corrupt("%d entries of at most %d", entries, most)
	}
	if depth >= 0 && f.sb.metadataCsum() {
		end := 12 + 12*int(most)
		if end+4 > len(b) {
			return nil, corrupt("no room for a checksum")
		}
		if got, want := crc32c(in.seed, b[:end]), le.Uint32(b[end:]); got != want {
			return nil, corrupt("checksum is %08x, stored %08x", got, want)
		}
	}
	node := &extentNode{depth: level}
	if level > 0 {
		node.indexes = make([]extentIndex, 0, entries)
	} else {
		node.extents = make([]extent, 0, entries)
	}
	next := uint64(0) // lowest logical block that the next entry may begin with
	for i := range int(entries) {
		e := b[12+12*i:][:12]
		lblk := le.Uint32(e)
		if uint64(lblk) < next {
			return nil, corrupt("entry %d begins with block %d, inside the one before", i, lblk)
		}
		if level > 0 {
			child := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
			if !f.sb.validBlock(child) {
				return nil, corrupt("entry %d names block %d", i, child)
			}
			node.indexes = append(node.indexes, extentIndex{lblk, child})
			next = uint64(lblk) + 1
			continue
		}
		x := extent{lblk: lblk, n: uint32(le.Uint16(e[4:])),
			phys: uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:]))}
		if x.n > initMaxLen {
			x.n -= initMaxLen
			x.unwritten = true
		}
		next = uint64(lblk) + uint64(x.n)
		if x.n == 0 || next > 1<<32 || !f.sb.validRun(x.phys, uint64(x.n)) {
			return nil, corrupt("entry %d maps %d blocks to block %d", i, x.n, x.phys)
		}
		node.extents = append(node.extents, x)
	}
	return node, nil
}

// extentChild reads the node below that ix names, through the cache. It must
// lie within [ix.lblk, end) of the file, or the tree could be walked in circles.
func (f *FS) extentChild(in *inode, ix extentIndex, end uint64, depth int) (*extentNode, error) {
	k := cacheKey{ix.node, in.ino}
	node, ok := f.cache.get(k).(*extentNode)
	if !ok {
		b := make([]byte, f.sb.blockSize)
		if err := readFull(f.r, b, int64(ix.node<<f.sb.blockBits)); err != nil {
			return nil, err
		}
		var err error
		if node, err = f.decodeExtents(in, b, depth); err != nil {
			return nil, wrap(err, "extent node in block %d", ix.node)
		}
		f.cache.put(k, node, 24*(len(node.extents)+len(node.indexes)))
	}
	if node.depth != depth {
		return nil, corrupt("extent node in block %d: depth %d", ix.node, node.depth)
	}
	if first, last := node.bounds(); first < uint64(ix.lblk) || last > end {
		return nil, corrupt("extent node in block %d maps %d…%d outside of %d…%d", ix.node, first, last, ix.lblk, end)
	}
	return node, nil
}

// bounds are the first logical block of the node and the end of what its own
// entries tell. An empty leaf lies anywhere.
func (n *extentNode) bounds() (first, end uint64) {
	if i := len(n.indexes); i > 0 {
		return uint64(n.indexes[0].lblk), uint64(n.indexes[i-1].lblk) + 1
	}
	if i := len(n.extents); i > 0 {
		last := n.extents[i-1]
		return uint64(n.extents[0].lblk), uint64(last.lblk) + uint64(last.n)
	}
	return 1 << 32, 0
}

// mapExtent walks from the root to the leaf that may map lblk.
func (f *FS) mapExtent(in *inode, lblk uint64) (run, error) {
	node, end := in.root, uint64(1<<32)
	for node.depth > 0 {
		i := sort.Search(len(node.indexes), func(i int) bool { return uint64(node.indexes[i].lblk) > lblk })
		if i < len(node.indexes) {
			end = uint64(node.indexes[i].lblk)
		}
		if i == 0 {
			return run{n: end - lblk}, nil // before the first entry
		}
		var err error
		if node, err = f.extentChild(in, node.indexes[i-1], end, node.depth-1); err != nil {
			return run{}, err
		}
	}
	i := sort.Search(len(node.extents), func(i int) bool { return uint64(node.extents[i].lblk) > lblk })
	if i > 0 {
		if x := node.extents[i-1]; lblk < uint64(x.lblk)+uint64(x.n) {
			skip := lblk - uint64(x.lblk)
			r := run{n: uint64(x.n) - skip}
			if !x.unwritten {
				r.phys = x.phys + skip
			}
			return r, nil
		}
	}
	if i < len(node.extents) {
		end = uint64(node.extents[i].lblk)
	}
	return run{n: end - lblk}, nil
}
