package lvm2

import (
	"encoding/binary"
	"fmt"
	"math"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// A cache's metadata is made of checked blocks (btree.go). It begins with a
// superblock:
//
//	  0 crc32c, flags (1: shut down in good order, 2: to be checked), number, UUID
//	 32 1623043, version (1 or 2), name of the policy
//	192 root of the mappings: an array with an element for each block of the
//	    cache, the origin's block in the upper 48 bits, flags below (1: in use,
//	    2: newer than the origin)
//	232 size of a block, and of metadata (8), in sectors; blocks of the cache
//	252 features that a reader must know
//
// An array is a B-tree from the number of an array block to that block:
//
//	0 crc32c, room, elements, bytes of an element; 16 number; 24 elements
const (
	cacheMagic     = 0o6142003
	cacheCheck     = 2
	maxCacheBlock  = 1 << 30
	arrayHeader    = 24
	perArrayBlock  = (metaBlock - arrayHeader) / 8
	maxCacheBlocks = 1 << 28
)

// cache is a volume in front of which a faster one stands. What the cache has is
// what the kernel reads, and with writeback may be newer than the origin. With
// writethrough the origin has everything too; with passthrough only the origin is
// read.
func (b *builder) cache(s *segment) (blockdev.Device, error) {
	origin := b.volume(s.str("origin"))
	if origin.err != nil {
		return nil, origin.err
	}
	mode, meta, data, err := b.cacheParts(s)
	if mode == "passthrough" {
		return origin.dev, nil
	}
	var d blockdev.Device
	if err == nil {
		d, err = b.openCache(meta, data, origin.dev)
	}
	if err != nil && mode == "writethrough" {
		b.warn("the cache is not read, only the volume behind it, which has everything: %v", bare(err))
		return origin.dev, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cache with mode %q: %w", mode, err)
	}
	return d, nil
}

// cacheParts finds where a cache has its metadata and its data: in two volumes of
// a pool, or one behind the other in one volume.
func (b *builder) cacheParts(s *segment) (mode string, meta, data blockdev.Device, err error) {
	name := s.str("cache_pool")
	l := b.lvByName[name]
	if l == nil || len(l.segments) == 0 {
		return s.str("cache_mode"), nil, nil, fmt.Errorf("there is no volume %q: %w", name, filesys.ErrCorrupt)
	}
	if pool := &l.segments[0]; pool.kind == "cache-pool" {
		if mode = s.str("cache_mode"); mode == "" {
			mode = pool.str("cache_mode")
		}
		m, d := b.volume(pool.str("metadata")), b.volume(pool.str("data"))
		if err = m.err; err == nil {
			err = d.err
		}
		return mode, m.dev, d.dev, err
	}
	mode = s.str("cache_mode")
	v := b.volume(name)
	if v.err != nil {
		return mode, nil, nil, v.err
	}
	var at [4]int64
	for i, key := range []string{"metadata_start", "metadata_len", "data_start", "data_len"} {
		if at[i], err = s.number(key, math.MaxInt64/sectorSize); err != nil {
			return mode, nil, nil, err
		}
		at[i] *= sectorSize
	}
	return mode, blockdev.Section(v.dev, at[0], at[1]), blockdev.Section(v.dev, at[2], at[3]), nil
}

func (b *builder) openCache(meta, data, origin blockdev.Device) (blockdev.Device, error) {
	le := binary.LittleEndian
	m := &metadata{meta, b.blocks}
	sb, err := m.block(0, cacheSuper)
	if err != nil {
		return nil, fmt.Errorf("superblock of the cache: %w", err)
	}
	if le.Uint64(sb[32:]) != cacheMagic {
		return nil, fmt.Errorf("superblock of the cache: bad magic: %w", filesys.ErrCorrupt)
	}
	if v := le.Uint32(sb[40:]); v != 1 && v != 2 {
		return nil, fmt.Errorf("superblock of the cache has version %d: %w", v, filesys.ErrUnsupported)
	}
	if f := le.Uint32(sb[252:]); f != 0 {
		return nil, fmt.Errorf("superblock of the cache: features %#x: %w", f, filesys.ErrUnsupported)
	}
	if le.Uint32(sb[4:])&cacheCheck != 0 {
		b.warn("the cache is marked to be checked")
	}
	block := int64(le.Uint32(sb[232:])) * sectorSize
	blocks := int64(le.Uint32(sb[240:]))
	if block <= 0 || block > maxCacheBlock || blocks > maxCacheBlocks || blocks > data.Size()/block {
		return nil, fmt.Errorf("superblock of the cache: %d blocks of %d bytes in %d: %w", blocks, block, data.Size(), filesys.ErrCorrupt)
	}
	root := le.Uint64(sb[192:])
	return &overlay{store: data, origin: origin, chunk: block, shared: b.runs, read: func(o *overlay) ([]run, error) {
		return m.readCacheMappings(o, root, blocks, (origin.Size()+block-1)/block)
	}}, nil
}

// readCacheMappings reads which blocks of the origin the cache has.
func (m *metadata) readCacheMappings(o *overlay, root uint64, blocks, originBlocks int64) ([]run, error) {
	le := binary.LittleEndian
	var runs []run
	for first := int64(0); first < blocks; first += perArrayBlock {
		v, err := m.get(root, uint64(first/perArrayBlock), 8)
		if err != nil {
			return nil, fmt.Errorf("mappings of the cache: %w", err)
		}
		if v == nil {
			return nil, fmt.Errorf("mappings of the cache end at block %d of %d: %w", first, blocks, filesys.ErrCorrupt)
		}
		b, err := m.block(le.Uint64(v), arrayBlock)
		if err != nil {
			return nil, fmt.Errorf("mappings of the cache: %w", err)
		}
		n := min(perArrayBlock, blocks-first)
		if le.Uint32(b[12:]) != 8 || int64(le.Uint32(b[8:])) < n {
			return nil, fmt.Errorf("mappings of the cache: %d elements of %d bytes: %w", le.Uint32(b[8:]), le.Uint32(b[12:]), filesys.ErrCorrupt)
		}
		for i := range n {
			e := le.Uint64(b[arrayHeader+8*i:])
			if e&1 == 0 {
				continue
			}
			from := int64(e >> 16)
			if from >= originBlocks {
				return nil, fmt.Errorf("the cache has block %d of a volume of %d: %w", from, originBlocks, filesys.ErrCorrupt)
			}
			if runs, err = o.addRun(runs, from, first+i); err != nil {
				return nil, fmt.Errorf("mappings of the cache: %w", err)
			}
		}
	}
	return runs, nil
}
