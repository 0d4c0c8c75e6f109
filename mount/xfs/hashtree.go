package xfs

// Directories and attributes share a btree of hashes ("Directory/attribute
// btree"): nodes, and leaves of two kinds. All begin with the numbers of their
// neighbours (32 bits each) and a magic number (16); version 5 continues with a
// stamp up to offset 56.

const (
	nodeMagic   = 0xFEBE
	nodeMagicV5 = 0x3EBE

	// maxTreeDepth is how many levels a btree of hashes has at most, leaves
	// included.
	maxTreeDepth = 5
	// maxSameHash bounds how many entries of one hash are looked at.
	maxSameHash = 1 << 18
)

// treeHeader is where, in every block of such a btree, what is its own begins.
func (f *FS) treeHeader() int {
	if f.sb.v5 {
		return 56
	}
	return 12
}

// treeBlock reads a block of the btree of hashes in fork fk.
func (f *FS) treeBlock(fk *fork, off uint64) ([]byte, error) {
	k, shift := kindAttr, uint(0)
	if !fk.isAttr {
		k, shift = kindDirTree, f.sb.dirBits-f.sb.blockBits
	}
	b, err := f.forkBlock(k, fk, off, shift, func(b []byte, daddr uint64) error {
		if magic := be.Uint16(b[8:]); magic>>8 == 0x3D || magic>>8 == 0x3E || magic>>8 == 0x3B {
			if !f.sb.v5 {
				return corrupt("it begins with %04x", magic)
			}
			return f.sb.verify(b, stampDA, daddr, fk.in.ino)
		} else if f.sb.v5 {
			return corrupt("it begins with %04x", magic)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, corrupt("inode %d: nothing at block %d of its index", fk.in.ino, off)
	}
	return b, nil
}

// treeLeaf goes down from the root at block off to the leaf where hash comes
// first, if at all, and gives it with its place. A root that is no node is the
// leaf itself.
func (f *FS) treeLeaf(fk *fork, off uint64, hash uint32) ([]byte, uint64, error) {
	node := uint16(nodeMagic)
	if f.sb.v5 {
		node = nodeMagicV5
	}
	level := -1 // of the last node
	for {
		b, err := f.treeBlock(fk, off)
		if err != nil {
			return nil, 0, err
		}
		if be.Uint16(b[8:]) != node {
			if level > 1 {
				return nil, 0, corrupt("inode %d: leaf at block %d below level %d", fk.in.ino, off, level)
			}
			return b, off, nil
		}
		at := f.treeHeader()
		n, l := int(be.Uint16(b[at:])), int(be.Uint16(b[at+2:]))
		if at = (at + 4 + 7) &^ 7; n == 0 || n > (len(b)-at)/8 || l < 1 || l >= maxTreeDepth || level >= 0 && l != level-1 {
			return nil, 0, corrupt("inode %d: node at block %d of level %d below %d with %d entries", fk.in.ino, off, l, level, n)
		}
		level = l
		// Each entry has the last hash below it; where hash may go on in the
		// next, the neighbours of the leaf tell.
		low, high := 0, n
		for low < high {
			if mid := (low + high) / 2; be.Uint32(b[at+8*mid:]) < hash {
				low = mid + 1
			} else {
				high = mid
			}
		}
		off = uint64(be.Uint32(b[at+8*min(low, n-1)+4:]))
	}
}
