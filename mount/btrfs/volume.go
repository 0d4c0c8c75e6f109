package btrfs

import (
	"fmt"
	"sync"

	"cairn/mount/filesys"
)

// ErrMissingDevice says that a file system cannot be read without a device that
// Open was not given. The message has the device's number.
var ErrMissingDevice = fmt.Errorf("cannot do without it: %w", filesys.ErrUnsupported)

// volume is what all views of an opened file system share. But for its caches
// it does not change once it is opened.
type volume struct {
	devices  []*device
	super    *super
	uuids    map[[16]byte]bool // that tree blocks may carry
	chunks   chunkMap
	devItems []devItem
	warnings []string

	nodes   *cache[uint64, *node]
	extents *cache[extentKey, []byte]

	rootTree, chunkTree *tree
	sumTree             *tree // nil: no file has any
	// logs holds what the log changes in each tree, logSums the checksums of
	// the sectors that it names.
	logs    map[uint64]*overlay
	logSums *tree

	mu    sync.Mutex
	trees map[uint64]*tree
	dead  map[uint64]deadEntry // by inode number

	usageMu sync.Mutex
	usage   *usage // once it was counted
}

const (
	maxTrees   = 1024 // that are remembered
	maxDead    = 1 << 14
	maxDevices = 1 << 12

	maxChunkItems = 1 << 18
)

// Open opens a file system of one or more devices, in any order. If devices are
// missing, it opens as long as every byte is also stored on those that are
// there, and Info warns; otherwise the error wraps ErrMissingDevice.
//
// Errors wrap filesys.ErrWrongType when a device has no superblock,
// ErrUnsupported with the names of what would have to be known, ErrInvalid when
// the devices are not of one file system, ErrCorrupt, or what a device returned.
//
// Root of the FS is that of the default subvolume, as with a plain mount; Sub
// and Subvolumes give the others. The devices must stay usable for as long as
// the FS is used.
func Open(devs []Device, o filesys.Options) (*FS, error) {
	v, err := openVolume(devs, o)
	if err != nil {
		return nil, wrap(err, "open btrfs")
	}
	id, err := v.defaultSubvolume()
	if err != nil {
		return nil, wrap(err, "open btrfs: default subvolume")
	}
	f, err := v.sub(id)
	if isNotExist(err) && id != topLevelID {
		v.warnings = append(v.warnings, fmt.Sprintf("The default subvolume %d is not there; the top level is shown.", id))
		f, err = v.sub(topLevelID)
	}
	if err != nil {
		return nil, wrap(err, "open btrfs")
	}
	return f, nil
}

func openVolume(devs []Device, o filesys.Options) (*volume, error) {
	v := &volume{
		nodes: newCache[uint64, *node](nodeCache), extents: newCache[extentKey, []byte](extentCache),
		trees: map[uint64]*tree{}, dead: map[uint64]deadEntry{}, uuids: map[[16]byte]bool{}, logs: map[uint64]*overlay{},
	}
	var err error
	if v.devices, v.super, v.warnings, err = assemble(devs); err != nil {
		return nil, err
	}
	v.uuids[v.super.metaID] = true
	for _, d := range v.devices {
		if d.super.sums != v.super.sums || d.super.nodeSize != v.super.nodeSize || d.super.sector != v.super.sector {
			return nil, corrupt("devices of different geometry")
		}
		v.uuids[d.super.metaID] = true
	}
	if err := v.loadChunks(); err != nil {
		return nil, err
	}
	warning, err := v.missing()
	if err != nil {
		return nil, err
	}
	if warning != "" {
		v.warnings = append(v.warnings, warning)
	}
	v.rootTree = &tree{v: v, id: rootTreeID, root: v.super.root}
	if _, err := v.rootTree.load(v.super.root); err != nil {
		return nil, err
	}
	if v.sumTree, err = v.tree(csumTreeID); err != nil && !isNotExist(err) {
		return nil, err
	}
	if err := v.openLog(o); err != nil {
		return nil, wrap(err, "log tree")
	}
	return v, nil
}

// loadChunks reads the map of logical addresses: the chunks in the superblock
// lead to the chunk tree, which has all.
func (v *volume) loadChunks() error {
	s := v.super
	for b := s.raw[sysChunkStart:][:le.Uint32(s.raw[0xa0:])]; len(b) > 0; {
		if len(b) < keySize {
			return corrupt("system chunks end within a key")
		}
		k := decodeKey(b)
		if k.typ != typeChunk {
			return corrupt("key %v among the system chunks", k)
		}
		c, n, err := v.decodeChunk(k.off, b[keySize:])
		if err != nil {
			return wrap(err, "system chunks")
		}
		if err := v.chunks.add(c); err != nil {
			return wrap(err, "system chunks")
		}
		b = b[keySize+n:]
	}
	v.chunkTree = &tree{v: v, id: chunkTreeID, root: s.chunkRoot}
	count := 0
	c, err := v.chunkTree.seek(key{})
	for ; err == nil && c.ok; err = c.next() {
		if count++; count > maxChunkItems {
			return unsupported("a chunk tree of more than %d items", maxChunkItems)
		}
		switch c.k.typ {
		case typeChunk:
			chunk, _, err := v.decodeChunk(c.k.off, c.data)
			if err == nil {
				err = v.chunks.add(chunk)
			}
			if err != nil {
				return wrap(err, "chunk tree")
			}
		case typeDevice:
			if len(c.data) < devItemSize || len(v.devItems) >= maxDevices {
				return corrupt("chunk tree: device item of %d bytes, %d before it", len(c.data), len(v.devItems))
			}
			v.devItems = append(v.devItems, decodeDevItem(c.data))
		}
	}
	return err
}

// defaultSubvolume is the tree that a plain mount shows: the one that the entry
// "default" of the root tree's own directory names, or else the top level.
func (v *volume) defaultSubvolume() (uint64, error) {
	const name = "default"
	data, ok, err := v.rootTree.get(key{v.super.rootDir, typeDirItem, nameHash(name)})
	if err != nil || !ok {
		return topLevelID, err
	}
	for e, err := range dirEntries(data) {
		if err != nil {
			return 0, err
		}
		if string(e.name) == name {
			if !isFS(e.location.obj) {
				return 0, corrupt("it is tree %d", e.location.obj)
			}
			return e.location.obj, nil
		}
	}
	return topLevelID, nil
}
