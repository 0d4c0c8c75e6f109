package xfslog

import (
	"io"
	"slices"
)

// node is a part of a mapping's B+tree: the root in an inode or a block.
//
//	block  0 magic  4 level (2)  6 records (2)  8 left, 16 right sibling (8)
//	       version 5: 24 sector (8)  32 sequence number (8)  40 UUID  56 inode (8)
//	       64 checksum  68 zero
//	       then records of 16 bytes at level 0; otherwise keys (the first offset
//	       in the file, 8 bytes each), and pointers behind room for all keys
//	root   as replayRoot has it
type node struct {
	at    int64  // on the volume; the root's is not used
	data  []byte // all of it
	level int
	n     int
	head  int // bytes before the keys or records
	most  int // keys that there is room for
}

const (
	maxLevel = 12
	btOwner  = 56
)

func parseRoot(fork []byte) (node, error) {
	if len(fork) < 4+extentSize {
		return node{}, corrupt("root of a mapping in %d bytes", len(fork))
	}
	b := node{data: fork, level: int(be.Uint16(fork)), n: int(be.Uint16(fork[2:])), head: 4, most: (len(fork) - 4) / extentSize}
	if b.level == 0 || b.level > maxLevel || b.n == 0 || b.n > b.most {
		return b, corrupt("root of a mapping with level %d and %d records", b.level, b.n)
	}
	return b, nil
}

// child reads the block behind the i-th key. Whoever changes it gives it a new
// checksum, so that damage has to be found here.
func (l *Log) child(volume io.ReaderAt, b *node, i int, read func(io.ReaderAt, int64, int) ([]byte, error)) (node, error) {
	block := be.Uint64(b.data[b.head+8*b.most+8*i:])
	if err := l.g.checkBlock(block); err != nil {
		return node{}, err
	}
	at := l.g.blockOffset(block)
	p, err := read(volume, at, l.g.BlockSize)
	if err != nil {
		return node{}, err
	}
	if l.g.V5 && !sealed(p, longTree.crc) {
		return node{}, corrupt("block %d of a mapping fails its checksum", block)
	}
	c := node{at: at, data: p, level: int(be.Uint16(p[4:])), n: int(be.Uint16(p[6:])), head: 24}
	magic := uint32(magicTreeV4)
	if l.g.V5 {
		c.head, magic = 72, magicTree
	}
	c.most = (len(p) - c.head) / extentSize
	if be.Uint32(p) != magic || c.level != b.level-1 || c.n == 0 || c.n > c.most {
		return c, corrupt("block %d of a mapping: magic number %#x, level %d, %d records", block, be.Uint32(p), c.level, c.n)
	}
	return c, nil
}

func (b *node) key(i int) uint64 { return be.Uint64(b.data[b.head+8*i:]) }

// changeTree makes a change in the leaf that has the offset. It does nothing, and
// says so, when the tree has to get another shape.
func (l *Log) changeTree(volume io.ReaderAt, m *mapChange, fork []byte) (added int64, delta uint64, done bool, err error) {
	b, err := parseRoot(fork)
	if err != nil {
		return 0, 0, false, err
	}
	var path []node
	var index []int
	next := ^uint64(0) // where the leaf behind begins
	for b.level > 0 {
		i := 0
		for i+1 < b.n && b.key(i+1) <= m.offset {
			i++
		}
		if i+1 < b.n {
			next = b.key(i + 1)
		}
		path, index = append(path, b), append(index, i)
		if b, err = l.child(volume, &b, i, l.edit); err != nil {
			return 0, 0, false, err
		}
	}
	if m.offset+uint64(m.count) > next {
		return 0, 0, false, nil
	}
	old := parseExtents(b.data[b.head:], b.n)
	list, err := m.change(old)
	if err != nil {
		return 0, 0, false, err
	}
	if len(list) > b.most || len(list) == 0 {
		return 0, 0, false, nil
	}
	putExtents(b.data[b.head:], list)
	be.PutUint16(b.data[6:], uint16(len(list)))
	l.sealTree(&b)
	// The keys above say where the leaf begins.
	for k := len(path) - 1; k >= 0; k-- {
		p := &path[k]
		be.PutUint64(p.data[p.head+8*index[k]:], list[0].offset)
		if k > 0 {
			l.sealTree(p)
		}
		if index[k] > 0 {
			break
		}
	}
	return int64(len(list)) - int64(len(old)), blocks(list) - blocks(old), true, nil
}

func (l *Log) sealTree(b *node) {
	if l.g.V5 {
		seal(b.data, longTree.crc)
	}
}

// changeOwners writes an inode's number into all blocks of the mapping of a fork
// that it got from another inode by an exchange of all their extents. Only that
// it was exchanged is logged, not those blocks.
func (l *Log) changeOwners(volume io.ReaderAt) error {
	var done []int64
	for i := 0; i < len(l.ops); i++ {
		o := &l.ops[i]
		if o.kind != kindOwner {
			continue
		}
		key := o.address()*2 + int64(o.form)
		if slices.Contains(done[max(0, len(done)-4):], key) {
			continue // of this inode, whose ops are together
		}
		done = append(done, key)
		if err := l.changeOwner(volume, o.address(), o.form != 0); err != nil {
			return wrap(err, "exchanged mapping of the inode at sector %d, byte %d", o.block, o.off)
		}
	}
	return nil
}

func (l *Log) changeOwner(volume io.ReaderAt, address int64, attr bool) error {
	inode, err := l.replayed(volume, address, l.g.InodeSize)
	if err != nil {
		return err
	}
	if be.Uint16(inode) != dinodeMagic || be.Uint16(inode[2:]) == 0 || inode[4] < 3 {
		return nil // deleted since
	}
	fork, attrFork, err := forks(inode)
	if err != nil {
		return err
	}
	format := inode[5]
	if attr {
		fork, format = attrFork, inode[83]
	}
	if format != formatBtree {
		return nil // exchanged again, or cut short, since
	}
	b, err := parseRoot(fork)
	if err != nil {
		return err
	}
	left := maxEdits / l.g.BlockSize
	return l.ownTree(volume, &b, be.Uint64(inode[152:]), &left)
}

// ownTree does the blocks below b, at most left of them.
func (l *Log) ownTree(volume io.ReaderAt, b *node, ino uint64, left *int) error {
	for i := range b.n {
		if *left--; *left < 0 {
			return unsupported("a mapping of more than %d blocks", maxEdits/l.g.BlockSize)
		}
		c, err := l.child(volume, b, i, l.replayed)
		if err != nil {
			return err
		}
		if be.Uint64(c.data[btOwner:]) != ino {
			if c.data, err = l.edit(volume, c.at, l.g.BlockSize); err != nil {
				return err
			}
			be.PutUint64(c.data[btOwner:], ino)
			seal(c.data, longTree.crc)
		}
		if c.level > 0 {
			if err := l.ownTree(volume, &c, ino, left); err != nil {
				return err
			}
		}
	}
	return nil
}
