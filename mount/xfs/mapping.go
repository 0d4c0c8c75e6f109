package xfs

import "math"

// fork is one of the two spaces that an inode has.
type fork struct {
	in      *inode
	form    byte
	isAttr  bool
	root    []byte // its bytes within the inode
	extents uint64 // how many there are
}

// run maps a row of a fork's blocks: n of them, to the blocks of the volume from
// phys on, or to nothing.
type run struct {
	phys uint64 // place on the volume in blocks; 0, the superblock, is a hole
	n    uint64
	// unwritten blocks are allocated, and read as zeros.
	unwritten bool
}

// isData says whether the run has content.
func (r run) isData() bool { return r.phys != 0 && !r.unwritten }

const (
	// maxOffset is the end of a fork's space in blocks.
	maxOffset = 1 << 54
	// forever is the length of a hole that nothing follows.
	forever = math.MaxInt64

	bmbtMagic   = 0x424D4150 // "BMAP"
	bmbtMagicV5 = 0x424D4133 // "BMA3"
	// maxBmbtLevels is more than 2^48 extents need with blocks of 1 KiB.
	maxBmbtLevels = 16
)

// check looks at what can be checked without a read.
func (fk *fork) check() error {
	what := "content"
	if fk.isAttr {
		what = "attributes"
	}
	switch fk.form {
	case formExtents:
		if fk.extents > uint64(len(fk.root)/16) {
			return corrupt("%s in %d extents, where %d fit", what, fk.extents, len(fk.root)/16)
		}
		if err := checkRecords(fk.root, int(fk.extents)); err != nil {
			return wrap(err, "%s", what)
		}
	case formBtree:
		if len(fk.root) < 4 {
			return corrupt("%s: no room for the root of a btree", what)
		}
		level, n := int(be.Uint16(fk.root)), int(be.Uint16(fk.root[2:]))
		if level < 1 || level > maxBmbtLevels || n < 1 || n > rootMax(fk.root) {
			return corrupt("%s: btree of level %d with %d entries", what, level, n)
		}
	}
	return nil
}

// rootMax is how many keys and pointers fit behind level and count (16 bits
// each) of a root.
func rootMax(root []byte) int { return (len(root) - 4) / 16 }

// extent is a decoded record.
type extent struct {
	off       uint64 // in the fork, in blocks
	start     uint64 // number of the first block
	n         uint64
	unwritten bool
}

// decodeExtent takes a record of 128 bits: unwritten (1), offset (54), block
// (52), length (21).
func decodeExtent(b []byte) extent {
	high, low := be.Uint64(b), be.Uint64(b[8:])
	return extent{off: high << 1 >> 10, start: high<<55>>12 | low>>21, n: low & (1<<21 - 1), unwritten: high>>63 != 0}
}

// search finds what holds for block off in n records: the extent that covers it,
// or the hole up to the next, or up to limit.
func (f *FS) search(records []byte, n int, off, first, limit uint64) (run, error) {
	low, high := 0, n
	for low < high {
		if mid := (low + high) / 2; decodeExtent(records[16*mid:]).off <= off {
			low = mid + 1
		} else {
			high = mid
		}
	}
	end := limit
	if low < n {
		end = min(decodeExtent(records[16*low:]).off, limit)
	}
	if low > 0 {
		e := decodeExtent(records[16*(low-1):])
		if e.off < first || e.n == 0 || e.off+e.n > end {
			return run{}, corrupt("extent of %d blocks at %d, between %d and %d", e.n, e.off, first, end)
		}
		if off < e.off+e.n {
			phys, ok := f.sb.linear(e.start, e.n)
			if !ok || phys == 0 {
				return run{}, corrupt("extent of %d blocks at %d is at block %#x", e.n, e.off, e.start)
			}
			return run{phys: phys + off - e.off, n: e.off + e.n - off, unwritten: e.unwritten}, nil
		}
	}
	return run{n: end - off}, nil
}

// mapBlock says where the fork's block off is and how many blocks behind it
// (itself included, at least one) go on the same way. A run may end early, at
// the border of a node of the tree.
func (f *FS) mapBlock(fk *fork, off uint64) (run, error) {
	if off >= maxOffset {
		return run{n: forever}, nil
	}
	var r run
	var err error
	switch fk.form {
	case formExtents:
		r, err = f.search(fk.root, int(fk.extents), off, 0, maxOffset)
	case formBtree:
		r, err = f.mapBtree(fk, off)
	default:
		return run{}, corrupt("inode %d: form %d has no blocks", fk.in.ino, fk.form)
	}
	if err != nil {
		return run{}, wrap(err, "inode %d, block %d", fk.in.ino, off)
	}
	if r.phys == 0 && off+r.n >= maxOffset {
		r.n = forever
	}
	return r, nil
}

// mapBtree goes down a fork's btree. Between first and limit lies what the
// keys above leave to a node.
func (f *FS) mapBtree(fk *fork, off uint64) (run, error) {
	level, n := int(be.Uint16(fk.root)), int(be.Uint16(fk.root[2:]))
	room := rootMax(fk.root)
	keys, pointers := fk.root[4:], fk.root[4+8*room:]
	first, limit := uint64(0), uint64(maxOffset)
	for {
		low, high := 0, n
		for low < high {
			if mid := (low + high) / 2; be.Uint64(keys[8*mid:]) <= off {
				low = mid + 1
			} else {
				high = mid
			}
		}
		if low < n {
			if next := be.Uint64(keys[8*low:]); next < limit {
				limit = next
			}
		}
		if low == 0 {
			return run{n: limit - off}, nil // in front of everything
		}
		if key := be.Uint64(keys[8*(low-1):]); key >= first {
			first = key
		} else {
			return run{}, corrupt("btree has key %d under %d", key, first)
		}
		level--
		b, err := f.bmbtBlock(fk, be.Uint64(pointers[8*(low-1):]), level)
		if err != nil {
			return run{}, err
		}
		header := f.bmbtHeader()
		n = int(be.Uint16(b[6:]))
		if level == 0 {
			return f.search(b[header:], n, off, first, limit)
		}
		room = (len(b) - header) / 16
		keys, pointers = b[header:], b[header+8*room:]
	}
}

func (f *FS) bmbtHeader() int {
	if f.sb.v5 {
		return 72
	}
	return 24
}

// bmbtBlock reads a node of a fork's btree. Leaves and nodes alike have up to
// one entry per 16 bytes: records, or keys and pointers of 8 each.
func (f *FS) bmbtBlock(fk *fork, fsb uint64, level int) ([]byte, error) {
	s := f.sb
	block, ok := s.linear(fsb, 1)
	if !ok || block == 0 {
		return nil, corrupt("btree node at block %#x", fsb)
	}
	header := f.bmbtHeader()
	b, err := f.block(kindBmbt, block, fk.in.ino, func(b []byte) error {
		want := uint32(bmbtMagic)
		if s.v5 {
			want = bmbtMagicV5
			if err := s.verify(b, stampLong, s.daddr(block), fk.in.ino); err != nil {
				return err
			}
		}
		if got := be.Uint32(b); got != want {
			return corrupt("it begins with %08x", got)
		}
		n := int(be.Uint16(b[6:]))
		if n == 0 || n > (len(b)-header)/16 {
			return corrupt("%d entries", n)
		}
		if be.Uint16(b[4:]) == 0 {
			return checkRecords(b[header:], n)
		}
		return checkKeys(b[header:], n)
	})
	if err != nil {
		return nil, wrap(err, "btree node")
	}
	if got := int(be.Uint16(b[4:])); got != level {
		return nil, corrupt("btree node at block %d has level %d, not %d", block, got, level)
	}
	return b, nil
}

// checkRecords: extents ascend and do not overlap.
func checkRecords(b []byte, n int) error {
	end := uint64(0)
	for i := range n {
		e := decodeExtent(b[16*i:])
		if e.off < end || e.n == 0 {
			return corrupt("extent of %d blocks at %d behind %d", e.n, e.off, end)
		}
		end = e.off + e.n
	}
	return nil
}

func checkKeys(b []byte, n int) error {
	for i := 1; i < n; i++ {
		if be.Uint64(b[8*i:]) <= be.Uint64(b[8*i-8:]) {
			return corrupt("keys do not ascend")
		}
	}
	return nil
}

// mapMerged is mapBlock with the following runs joined for as long as they
// continue the first, up to limit blocks. The number of steps is bounded, so
// the result may still end early.
func (f *FS) mapMerged(fk *fork, off, limit uint64) (run, error) {
	r, err := f.mapBlock(fk, off)
	for steps := 0; err == nil && r.n < limit && steps < 1024; steps++ {
		next, nextErr := f.mapBlock(fk, off+r.n)
		if nextErr != nil {
			break // the error is for whoever asks for those blocks
		}
		if r.isData() != next.isData() || r.isData() && next.phys != r.phys+r.n {
			break
		}
		if !r.isData() {
			r.phys = 0 // holes and unwritten blocks are one to whoever reads
		}
		r.n += next.n
		if r.n > maxOffset {
			r.n = forever
		}
	}
	return r, err
}
