package ntfs

import (
	"fmt"
	"math/bits"
)

// nameIndex is the name, in UTF-16LE, of a directory's attributes.
var nameIndex = utf16le("$I30")

const (
	entryHasChild = 1
	entryLast     = 2

	minIndexBlock, maxIndexBlock = 512, 64 << 10
)

// index is a B+ tree: sorted entries in a resident root, and in blocks of the
// allocation, of which a bitmap says which ones are in use. Every entry, and the
// end of every node, may have a child block whose entries come before it.
type index struct {
	in     *inode
	root   []byte  // the root's entries
	alloc  *stream // nil if all is in the root
	bitmap *stream
	bits   uint // log2 of the bytes in a block
	vcn    uint // log2 of the bytes that block numbers count
}

// entry is an index entry. It shares the node's memory.
type entry struct {
	off   int    // in the node
	next  int    // where the one behind it begins
	ref   uint64 // to the file, in a directory
	key   []byte
	data  []byte // in other indexes
	last  bool   // the end of the node, without a key
	inner bool
	child uint64
}

// index opens an index of an inode by its name in UTF-16LE.
func (f *FS) index(in *inode, name string) (*index, error) {
	s, err := in.stream(attrIndexRoot, name)
	if err != nil {
		return nil, err
	}
	if s == nil || s.first.nonresident || len(s.first.value) < 32 {
		return nil, corrupt("inode %d has no index root", in.num)
	}
	p := s.first.value
	size := le.Uint32(p[8:])
	if size < minIndexBlock || size > maxIndexBlock || size&(size-1) != 0 {
		return nil, corrupt("inode %d: index blocks of %d bytes", in.num, size)
	}
	x := &index{in: in, bits: uint(bits.TrailingZeros32(size))}
	// Block numbers count clusters, or sectors of 512 where clusters are larger
	// than blocks.
	if x.vcn = f.b.clusterBits; x.vcn > x.bits {
		x.vcn = 9
	}
	if x.root, err = nodeEntries(p[16:]); err != nil {
		return nil, fmt.Errorf("inode %d: index root: %w", in.num, err)
	}
	if x.alloc, err = in.stream(attrIndexAlloc, name); err != nil {
		return nil, err
	}
	if x.alloc == nil {
		return x, nil
	}
	if x.bitmap, err = in.stream(attrBitmap, name); err != nil {
		return nil, err
	}
	if x.bitmap == nil || !x.alloc.first.nonresident {
		return nil, corrupt("inode %d: the index has no bitmap", in.num)
	}
	// No index is larger than its volume. One that claims to be maps clusters
	// again and again, and walking it might never end.
	if uint64(x.alloc.Size())>>f.b.clusterBits > f.b.clusters {
		return nil, corrupt("inode %d: an index of %d bytes", in.num, x.alloc.Size())
	}
	return x, nil
}

// nodeEntries gives the part of a node with its entries, from p, which begins
// with the header that tells where they are.
func nodeEntries(p []byte) ([]byte, error) {
	if len(p) < 16 {
		return nil, corrupt("a node of %d bytes", len(p))
	}
	first, end := le.Uint32(p), le.Uint32(p[4:])
	if first < 16 || first > end || uint64(end) > uint64(len(p)) {
		return nil, corrupt("a node with entries from %d to %d of %d", first, end, len(p))
	}
	return p[first:end:end], nil
}

// blocks is how many blocks the allocation has room for.
func (x *index) blocks() uint64 {
	if x.alloc == nil {
		return 0
	}
	return uint64(x.alloc.Size()) >> x.bits
}

// block reads block nr and gives its entries.
func (x *index) block(nr uint64) ([]byte, error) {
	f := x.in.fs
	k := cacheKey{kind: kindIndex, sub: uint32(x.alloc.first.id), a: x.alloc.where.num, b: nr}
	if p, ok := f.cache.get(k).([]byte); ok {
		return p, nil
	}
	p := make([]byte, 1<<x.bits)
	if n, err := x.alloc.ReadAt(p, int64(nr<<x.bits)); n < len(p) {
		return nil, fmt.Errorf("inode %d: index block %d: %w", x.in.num, nr, asCorrupt(err))
	}
	if string(p[:4]) != "INDX" {
		return nil, corrupt("inode %d: index block %d begins with %q", x.in.num, nr, p[:4])
	}
	if err := fixup(p); err != nil {
		return nil, fmt.Errorf("inode %d: index block %d: %w", x.in.num, nr, err)
	}
	if vcn := le.Uint64(p[16:]); vcn != nr<<x.bits>>x.vcn {
		return nil, corrupt("inode %d: index block %d has number %d", x.in.num, nr, vcn)
	}
	entries, err := nodeEntries(p[24:])
	if err != nil {
		return nil, fmt.Errorf("inode %d: index block %d: %w", x.in.num, nr, err)
	}
	f.cache.put(k, entries, len(p))
	return entries, nil
}

// used says whether the bitmap has block nr as in use. Blocks that are not keep
// the entries they had.
func (x *index) used(nr uint64) (bool, error) {
	var b [1]byte
	if n, err := x.bitmap.ReadAt(b[:], int64(nr/8)); n == 0 {
		return false, corruptOr(notEOF(err), "inode %d: the bitmap of the index ends before block %d", x.in.num, nr)
	}
	return b[0]>>(nr&7)&1 != 0, nil
}

// child reads the block below an entry.
func (x *index) child(e entry) ([]byte, error) {
	pos := e.child << x.vcn
	nr := pos >> x.bits
	if e.child > 1<<maxVolumeBits>>x.vcn || nr<<x.bits != pos || nr >= x.blocks() {
		return nil, corrupt("inode %d: the index points to block %d of %d", x.in.num, nr, x.blocks())
	}
	if used, err := x.used(nr); err != nil {
		return nil, err
	} else if !used {
		return nil, corrupt("inode %d: the index points to block %d, which is free", x.in.num, nr)
	}
	return x.block(nr)
}

// parseEntry decodes the entry of a node at off.
func (x *index) parseEntry(node []byte, off int) (entry, error) {
	if off < 0 || off+16 > len(node) {
		return entry{}, corrupt("inode %d: an index node ends at %d, an entry begins at %d", x.in.num, len(node), off)
	}
	p := node[off:]
	n, keyLen, flags := int(le.Uint16(p[8:])), int(le.Uint16(p[10:])), le.Uint16(p[12:])
	e := entry{off: off, next: off + n, ref: le.Uint64(p), last: flags&entryLast != 0, inner: flags&entryHasChild != 0}
	content := n
	if e.inner {
		content -= 8
	}
	if n&7 != 0 || content < 16 || n > len(p) || !e.last && 16+keyLen > content {
		return entry{}, corrupt("inode %d: an index entry of %d bytes, with a key of %d", x.in.num, n, keyLen)
	}
	if e.inner {
		e.child = le.Uint64(p[content:])
	}
	if !e.last {
		e.key = p[16 : 16+keyLen]
		if off, size := int(le.Uint16(p)), int(le.Uint16(p[2:])); off >= 16 && off+size <= content {
			e.data = p[off : off+size]
		}
	}
	return e, nil
}

// maxVisits bounds the nodes that one search reads: trees are a few levels
// high, and names that differ in nothing but case are rare.
const maxVisits = 256

// search calls fn for the entries to which compare gives 0 (it tells whether the
// entry's key comes before (< 0) or behind (> 0) what is searched), until fn
// returns false.
func (x *index) search(compare func(key []byte) (int, error), fn func(entry) bool) error {
	visits := 0
	var walk func(node []byte) (bool, error)
	walk = func(node []byte) (bool, error) {
		if visits++; visits > maxVisits {
			return false, corrupt("inode %d: the index goes round in circles", x.in.num)
		}
		for off := 0; ; {
			e, err := x.parseEntry(node, off)
			if err != nil {
				return false, err
			}
			c := 1
			if !e.last {
				if c, err = compare(e.key); err != nil {
					return false, err
				}
			}
			if c == 0 && !fn(e) {
				return false, nil
			}
			if c >= 0 && e.inner {
				child, err := x.child(e)
				if err != nil {
					return false, err
				}
				if more, err := walk(child); err != nil || !more {
					return false, err
				}
			}
			if c > 0 {
				return true, nil
			}
			off = e.next
		}
	}
	_, err := walk(x.root)
	return err
}
