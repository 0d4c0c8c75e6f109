package xfslog

import "io"

// A mapping that gets another shape is written anew, into the space of the log:
// nobody reads the log through the overlay, and no block is free for certain
// while space that is to be freed is still on its way.

const (
	// maxExtents is how many extents a mapping may have that is written anew.
	maxExtents = 64 << 10
	// maxRebuilt is how many are written anew in all.
	maxRebuilt = 4 << 20
)

// allExtents reads a mapping from its tree, and tells how many blocks that has.
// Those in the log's space may be used again: the mapping is to be rebuilt.
func (l *Log) allExtents(volume io.ReaderAt, fork []byte) (list []extent, nodes int, err error) {
	var free []int64
	var walk func(b *node) error
	walk = func(b *node) error {
		if b.level == 0 {
			if len(list)+b.n > maxExtents {
				return unsupported("a mapping of more than %d extents that gets another shape", maxExtents)
			}
			list = append(list, parseExtents(b.data[b.head:], b.n)...)
			return nil
		}
		for i := range b.n {
			if nodes++; nodes > maxEdits/l.g.BlockSize {
				return unsupported("a mapping of more than %d blocks", maxEdits/l.g.BlockSize)
			}
			c, err := l.child(volume, b, i, l.replayed)
			if err != nil {
				return err
			}
			if c.at >= l.g.LogOffset && c.at < l.g.LogOffset+l.g.LogSize {
				free = append(free, c.at)
			}
			if err := walk(&c); err != nil {
				return err
			}
		}
		return nil
	}
	b, err := parseRoot(fork)
	if err == nil {
		err = walk(&b)
	}
	l.spares = append(l.spares, free...)
	return list, nodes, err
}

// rebuild writes a mapping into a fork, with a tree if it has no room for all
// extents. It gives the fork's format and the number of the tree's blocks.
func (l *Log) rebuild(volume io.ReaderAt, ino uint64, fork []byte, list []extent) (format byte, nodes int, err error) {
	if len(list)*extentSize <= len(fork) {
		clear(fork)
		putExtents(fork, list)
		return formatExtents, 0, nil
	}
	if l.rebuilt += len(list); l.rebuilt > maxRebuilt {
		return 0, 0, unsupported("mappings of more than %d extents that get another shape", maxRebuilt)
	}
	most := (len(fork) - 4) / extentSize
	if most < 1 {
		return 0, 0, corrupt("no room for a mapping in %d bytes", len(fork))
	}
	var keys, pointers []uint64
	var block []byte
	perNode := 0
	// Leaves, and then nodes over those before until the root has room for them.
	for level, left := 0, len(list); level == 0 || left > most; level++ {
		below, done := pointers, 0
		belowKeys := keys
		keys, pointers = nil, nil
		var last []byte
		for done < left {
			var number uint64
			if block, number, err = l.newNode(volume, ino, level); err != nil {
				return 0, 0, err
			}
			head := l.treeHeader()
			perNode = (len(block) - head) / extentSize
			n := min(perNode, left-done)
			be.PutUint16(block[6:], uint16(n))
			first := uint64(0)
			if level == 0 {
				first = list[done].offset
				putExtents(block[head:], list[done:done+n])
			} else {
				first = belowKeys[done]
				for i := range n {
					be.PutUint64(block[head+8*i:], belowKeys[done+i])
					be.PutUint64(block[head+8*perNode+8*i:], below[done+i])
				}
			}
			if last != nil {
				be.PutUint64(last[16:], number)
				l.sealTree(&node{data: last})
				be.PutUint64(block[8:], pointers[len(pointers)-1])
			}
			l.sealTree(&node{data: block})
			keys, pointers, last = append(keys, first), append(pointers, number), block
			done += n
			nodes++
		}
		left = len(pointers)
		be.PutUint16(fork, uint16(level+1))
	}
	clear(fork[4:])
	be.PutUint16(fork[2:], uint16(len(keys)))
	for i := range keys {
		be.PutUint64(fork[4+8*i:], keys[i])
		be.PutUint64(fork[4+8*most+8*i:], pointers[i])
	}
	return formatBtree, nodes, nil
}

func (l *Log) treeHeader() int {
	if l.g.V5 {
		return 72
	}
	return 24
}

// newNode makes an empty block of a tree in the log's space.
func (l *Log) newNode(volume io.ReaderAt, ino uint64, level int) (block []byte, number uint64, err error) {
	at := l.g.LogOffset + int64(l.spare)*int64(l.g.BlockSize)
	if n := len(l.spares); n > 0 {
		at, l.spares = l.spares[n-1], l.spares[:n-1]
	} else if l.spare++; at+int64(l.g.BlockSize) > l.g.LogOffset+l.g.LogSize {
		return nil, 0, unsupported("more blocks of mappings than the log has")
	}
	if block, err = l.edit(volume, at, l.g.BlockSize); err != nil {
		return nil, 0, err
	}
	clear(block)
	magic := uint32(magicTreeV4)
	if l.g.V5 {
		magic = magicTree
		be.PutUint64(block[24:], uint64(at/sector))
		copy(block[longTree.uuid:], l.g.MetaUUID[:])
		be.PutUint64(block[btOwner:], ino)
	}
	be.PutUint32(block, magic)
	be.PutUint16(block[4:], uint16(level))
	be.PutUint64(block[8:], ^uint64(0))
	be.PutUint64(block[16:], ^uint64(0))
	linear := uint64(at / int64(l.g.BlockSize))
	ag, in := linear/uint64(l.g.AGBlocks), linear%uint64(l.g.AGBlocks)
	return block, ag<<l.g.AGBlockLog | in, nil
}
