package lvm2

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"sort"
	"sync"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// Metadata of thin pools and caches is made of blocks of 4096 bytes, each with a
// checksum and its own number, and of B-trees of such blocks:
//
//	 0 crc32c of what follows, with a constant of the kind of block
//	 4 flags: 1 inner node, 2 leaf
//	 8 number of this block
//	16 entries, room for entries, bytes of a value
//	32 keys of 64 bits, ascending; then, behind the room for keys, the values
//
// The value of an inner node's entry is the block of a node whose keys are not
// below the entry's.
const (
	metaBlock  = 4096
	nodeHeader = 32
	// maxTreeDepth is far above that of any tree: a node has dozens of entries
	// even when its values are large.
	maxTreeDepth = 16
	cachedBlocks = 2048 // 8 MiB
)

// blockKind is what tells blocks apart.
type blockKind struct {
	salt   uint32 // of the checksum
	number int    // where the block's own number is
}

var (
	thinSuper  = blockKind{160774, 8}
	cacheSuper = blockKind{9031977, 8}
	treeNode   = blockKind{121107, 8}
	arrayBlock = blockKind{595846735, 16}
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// metadata reads checked blocks.
type metadata struct {
	dev   blockdev.Device
	cache *blockCache
}

// blockCache keeps blocks that were read and checked, for all pools and caches of
// a group together.
type blockCache struct {
	mu     sync.Mutex
	blocks map[blockKey][]byte
	order  []blockKey // in which they came; the oldest goes first
}

type blockKey struct {
	of   *metadata
	n    uint64
	salt uint32
}

func newBlockCache() *blockCache { return &blockCache{blocks: map[blockKey][]byte{}} }

func (c *blockCache) get(key blockKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks[key]
}

func (c *blockCache) put(key blockKey, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks[key] != nil {
		return
	}
	if len(c.order) == cachedBlocks {
		delete(c.blocks, c.order[0])
		c.order = c.order[1:]
	}
	c.order = append(c.order, key)
	c.blocks[key] = b
}

// block gives block n, whose checksum and number match.
func (m *metadata) block(n uint64, kind blockKind) ([]byte, error) {
	key := blockKey{m, n, kind.salt}
	if b := m.cache.get(key); b != nil {
		return b, nil
	}
	if n >= uint64(m.dev.Size()/metaBlock) {
		return nil, fmt.Errorf("metadata block %d lies beyond the end: %w", n, filesys.ErrCorrupt)
	}
	b := make([]byte, metaBlock)
	if _, err := raid.Full(m.dev, b, int64(n)*metaBlock); err != nil {
		return nil, fmt.Errorf("metadata block %d: %w", n, err)
	}
	if ^crc32.Checksum(b[4:], castagnoli)^kind.salt != binary.LittleEndian.Uint32(b) {
		return nil, fmt.Errorf("metadata block %d: checksum does not match: %w", n, filesys.ErrCorrupt)
	}
	if binary.LittleEndian.Uint64(b[kind.number:]) != n {
		return nil, fmt.Errorf("metadata block %d has another number: %w", n, filesys.ErrCorrupt)
	}
	m.cache.put(key, b)
	return b, nil
}

// node is a block of a tree.
type node struct {
	leaf           bool
	entries, value int
	keys, values   []byte
}

func (m *metadata) node(n uint64) (node, error) {
	b, err := m.block(n, treeNode)
	if err != nil {
		return node{}, err
	}
	le := binary.LittleEndian
	flags, entries, room, value := le.Uint32(b[4:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	if flags&3 == 0 || flags&3 == 3 || entries > room || room > metaBlock/8 || value == 0 || value > metaBlock ||
		nodeHeader+room*(8+value) > metaBlock {
		return node{}, fmt.Errorf("metadata block %d is no node of a tree: %w", n, filesys.ErrCorrupt)
	}
	if flags&1 != 0 && value != 8 {
		return node{}, fmt.Errorf("metadata block %d: an inner node with values of %d bytes: %w", n, value, filesys.ErrCorrupt)
	}
	return node{flags&2 != 0, int(entries), int(value), b[nodeHeader:], b[nodeHeader+8*room:]}, nil
}

func (n *node) key(i int) uint64   { return binary.LittleEndian.Uint64(n.keys[8*i:]) }
func (n *node) child(i int) uint64 { return binary.LittleEndian.Uint64(n.values[8*i:]) }
func (n *node) bytes(i int) []byte { return n.values[i*n.value:][:n.value] }
func (n *node) find(key uint64) int { // the last entry whose key is not above, or -1
	return sort.Search(n.entries, func(i int) bool { return n.key(i) > key }) - 1
}

// place is where a key is in a tree, or would be.
type place struct {
	node  node
	index int  // of the entry, or of the one before it, which may be -1
	found bool // whether the key is there
	// next is not above any key that is above the one searched for.
	next uint64
}

// seek searches a tree whose leaves have values of so many bytes.
func (m *metadata) seek(root, key uint64, value int) (place, error) {
	p := place{next: math.MaxUint64}
	for range maxTreeDepth {
		n, err := m.node(root)
		if err != nil {
			return place{}, err
		}
		i := n.find(key)
		if i+1 < n.entries {
			p.next = min(p.next, n.key(i+1))
		}
		if n.leaf {
			if n.value != value && n.entries > 0 {
				return place{}, fmt.Errorf("metadata block %d: values of %d bytes, not %d: %w", root, n.value, value, filesys.ErrCorrupt)
			}
			p.node, p.index = n, i
			p.found = i >= 0 && n.key(i) == key
			return p, nil
		}
		if i < 0 {
			// Below everything that the tree has.
			p.index = -1
			return p, nil
		}
		root = n.child(i)
	}
	return place{}, fmt.Errorf("a tree of metadata is deeper than %d: %w", maxTreeDepth, filesys.ErrCorrupt)
}

// get gives the value of a key, nil when it is not there.
func (m *metadata) get(root, key uint64, value int) ([]byte, error) {
	p, err := m.seek(root, key, value)
	if err != nil || !p.found {
		return nil, err
	}
	return p.node.bytes(p.index), nil
}
