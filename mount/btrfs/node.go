package btrfs

import (
	"errors"
	"sort"

	"cairn/mount/filesys"
)

// Layout of a tree block:
//
//	  0  checksum of what follows         32 bytes
//	 32  UUID of the file system          16
//	 48  logical address of the block      8
//	 56  flags                             8
//	 64  UUID of the chunk tree           16
//	 80  generation                        8
//	 88  owner, a tree's number            8
//	 96  number of items                   4
//	100  level, 0 for leaves               1
//	101  leaf: key, offset, size of each item (25 bytes); data from the end down
//	     node: key, address, generation of each child (33 bytes)
const (
	nodeHead  = 101
	itemHead  = keySize + 8
	childSize = keySize + 16
)

// ref says where a node is and what must stand there.
type ref struct {
	bytenr, gen uint64
	level       uint8
}

// node is a checked tree block. It is shared and never changed.
type node struct {
	raw    []byte
	ref    ref
	owner  uint64
	n      int
	stride int // from one item or child to the next
}

func (n *node) key(i int) key { return decodeKey(n.raw[nodeHead+i*n.stride:]) }

// item gives the data of an item of a leaf.
func (n *node) item(i int) []byte {
	off, size := n.itemRange(i)
	return n.raw[off : off+size : off+size]
}

// itemRange says where in the block the data of an item is.
func (n *node) itemRange(i int) (off, size uint32) {
	b := n.raw[nodeHead+i*itemHead+keySize:]
	return nodeHead + le.Uint32(b), le.Uint32(b[4:])
}

func (n *node) child(i int) ref {
	b := n.raw[nodeHead+i*childSize+keySize:]
	return ref{le.Uint64(b), le.Uint64(b[8:]), n.ref.level - 1}
}

// search gives the first place whose key is not below k.
func (n *node) search(k key) int {
	return sort.Search(n.n, func(i int) bool { return n.key(i).cmp(k) >= 0 })
}

// node reads a tree block, from whichever mirror has it right.
func (v *volume) node(r ref) (*node, error) {
	n, err := v.nodes.get(r.bytenr, func() (*node, int, error) {
		n, err := v.readNode(r)
		return n, int(v.super.nodeSize), err
	})
	if err != nil {
		return nil, err
	}
	if n.ref != r { // cached on behalf of another parent
		return nil, corrupt("node %d has level %d and generation %d, expected %d and %d", r.bytenr, n.ref.level, n.ref.gen, r.level, r.gen)
	}
	return n, nil
}

func (v *volume) readNode(r ref) (*node, error) {
	if r.bytenr%uint64(v.super.sector) != 0 {
		return nil, corrupt("node at %d", r.bytenr)
	}
	mirrors, _, err := v.order(r.bytenr)
	if err != nil {
		return nil, wrap(err, "node %d", r.bytenr)
	}
	first := corrupt("no device has it")
	for i, m := range mirrors {
		p := make([]byte, v.super.nodeSize)
		if err = v.readMirror(p, r.bytenr, m); err == nil {
			var n *node
			if n, err = v.decodeNode(p, r); err == nil {
				return n, nil
			}
		}
		if i == 0 || errors.Is(first, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrCorrupt) {
			first = err
		}
	}
	return nil, wrap(first, "node %d", r.bytenr)
}

func (v *volume) decodeNode(p []byte, r ref) (*node, error) {
	if !v.super.sums.headerOK(p) {
		return nil, corrupt("wrong %s checksum", v.super.sums.name)
	}
	if !v.uuids[[16]byte(p[32:48])] {
		return nil, corrupt("of another file system")
	}
	n := &node{raw: p, ref: ref{le.Uint64(p[48:]), le.Uint64(p[80:]), p[100]}, owner: le.Uint64(p[88:]), stride: childSize}
	if n.ref != r {
		return nil, corrupt("it has address %d, level %d and generation %d, expected %d and %d",
			n.ref.bytenr, n.ref.level, n.ref.gen, r.level, r.gen)
	}
	if r.level == 0 {
		n.stride = itemHead
	}
	count := le.Uint32(p[96:])
	if count > uint32((len(p)-nodeHead)/n.stride) {
		return nil, corrupt("%d items", count)
	}
	n.n = int(count)
	if n.n == 0 && r.level > 0 {
		return nil, corrupt("a node without children")
	}
	end := uint32(len(p) - nodeHead)
	for i := range n.n {
		if i > 0 && n.key(i-1).cmp(n.key(i)) >= 0 {
			return nil, corrupt("key %v follows %v", n.key(i), n.key(i-1))
		}
		if r.level > 0 {
			continue
		}
		b := p[nodeHead+i*itemHead+keySize:]
		off, size := le.Uint32(b), le.Uint32(b[4:])
		if off > end || size != end-off || int(off) < n.n*itemHead {
			return nil, corrupt("item %v at %d of %d bytes, which should end at %d", n.key(i), off, size, end)
		}
		end = off
	}
	return n, nil
}
