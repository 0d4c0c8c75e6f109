package lvm2

import (
	"encoding/binary"
	"fmt"
	"math"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// thinPool is a pool: space that is given to its volumes block by block, as they
// write. Its metadata begins with a superblock:
//
//	  0 crc32c, flags, number of the block, UUID
//	 32 27022010, version (1 or 2), time, transaction, root held for user space
//	 64 two space maps, not needed for reading
//	320 root of the mappings: device → tree of (block of the volume → block of
//	    the pool in the upper 40 bits of 64, time in the lower 24)
//	328 root of the devices: device → blocks mapped, transaction, times
//	336 size of a block of data, and of metadata (8), in sectors
//	344 blocks of metadata; then features: compatible, for writing, for all
type thinPool struct {
	meta         *metadata
	data         blockdev.Device
	mappings     uint64
	devices      uint64
	block        int64 // bytes
	needsCheck   bool
	parts        []*built // what it is made of
	brokenReason error
}

const (
	thinMagic      = 27022010
	thinNeedsCheck = 1
	maxThinBlock   = 1 << 30 // bytes; the kernel's own limit
)

// pool opens a pool, once.
func (b *builder) pool(name string) (*thinPool, error) {
	if p := b.pools[name]; p != nil {
		for _, part := range p.parts {
			b.inherit(part)
		}
		return p, p.brokenReason
	}
	p, err := b.openPool(name)
	if err != nil {
		err = fmt.Errorf("thin pool %s: %w", name, err)
		p = &thinPool{brokenReason: err}
	}
	if b.pools == nil {
		b.pools = map[string]*thinPool{}
	}
	b.pools[name] = p
	return p, err
}

func (b *builder) openPool(name string) (*thinPool, error) {
	l := b.lvByName[name]
	if l == nil || len(l.segments) != 1 || l.segments[0].kind != "thin-pool" {
		return nil, syntax("there is no such pool")
	}
	s := &l.segments[0]
	meta, data := b.volume(s.str("metadata")), b.volume(s.str("pool"))
	if meta.err != nil {
		return nil, meta.err
	}
	if data.err != nil {
		return nil, data.err
	}
	p := &thinPool{meta: &metadata{meta.dev, b.blocks}, data: data.dev, parts: []*built{meta, data}}
	sb, err := p.meta.block(0, thinSuper)
	if err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint64(sb[32:]) != thinMagic {
		return nil, fmt.Errorf("superblock: bad magic: %w", filesys.ErrCorrupt)
	}
	if v := le.Uint32(sb[40:]); v != 1 && v != 2 {
		return nil, fmt.Errorf("superblock of version %d: %w", v, filesys.ErrUnsupported)
	}
	if f := le.Uint32(sb[360:]); f != 0 {
		return nil, fmt.Errorf("superblock: features %#x: %w", f, filesys.ErrUnsupported)
	}
	if n := le.Uint32(sb[340:]); n != metaBlock/sectorSize {
		return nil, fmt.Errorf("superblock: metadata blocks of %d sectors: %w", n, filesys.ErrCorrupt)
	}
	p.block = int64(le.Uint32(sb[336:])) * sectorSize
	if p.block <= 0 || p.block > maxThinBlock {
		return nil, fmt.Errorf("superblock: data blocks of %d bytes: %w", p.block, filesys.ErrCorrupt)
	}
	if chunk, err := s.number("chunk_size", math.MaxUint32); err == nil && chunk*sectorSize != p.block {
		return nil, fmt.Errorf("blocks of %d bytes where the group says %d: %w", p.block, chunk*sectorSize, filesys.ErrCorrupt)
	}
	p.mappings, p.devices = le.Uint64(sb[320:]), le.Uint64(sb[328:])
	p.needsCheck = le.Uint32(sb[4:])&thinNeedsCheck != 0
	return p, nil
}

// thin makes a thin volume.
func (b *builder) thin(s *segment) (blockdev.Device, error) {
	p, err := b.pool(s.str("thin_pool"))
	if err != nil {
		return nil, err
	}
	id, err := s.number("device_id", 1<<24-1)
	if err != nil {
		return nil, err
	}
	if p.needsCheck {
		b.warn("thin pool %s is marked to be checked", s.str("thin_pool"))
	}
	details, err := p.meta.get(p.devices, uint64(id), 24)
	if err != nil {
		return nil, fmt.Errorf("thin device %d: %w", id, err)
	}
	if details == nil {
		return nil, fmt.Errorf("the pool has no thin device %d: %w", id, filesys.ErrCorrupt)
	}
	t := &thin{pool: p, size: s.count * b.extentSize}
	root, err := p.meta.get(p.mappings, uint64(id), 8)
	if err != nil {
		return nil, fmt.Errorf("mappings of thin device %d: %w", id, err)
	}
	if root == nil {
		return nil, fmt.Errorf("thin device %d has no mappings: %w", id, filesys.ErrCorrupt)
	}
	t.root = binary.LittleEndian.Uint64(root)
	if name := s.str("external_origin"); name != "" {
		v := b.volume(name)
		if v.err != nil {
			return nil, fmt.Errorf("origin %s: %w", name, v.err)
		}
		t.origin = v.dev
	}
	return t, nil
}

// thin is a thin volume: blocks of the pool where it was written, and elsewhere
// the external origin, if it has one, or zeros.
type thin struct {
	pool   *thinPool
	root   uint64
	origin blockdev.Device
	size   int64
}

func (t *thin) Size() int64 { return t.size }

// find tells where the byte at off is: at which device and offset there, nil for
// zeros, and for how many bytes that goes on.
func (t *thin) find(off int64) (d blockdev.Device, at, n int64, err error) {
	size := t.pool.block
	block, in := off/size, off%size
	p, err := t.pool.meta.seek(t.root, uint64(block), 8)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("mapping of thin block %d: %w", block, err)
	}
	if !p.found {
		n = t.size - off
		if p.next < uint64(math.MaxInt64/size) {
			if n = min(n, int64(p.next)*size-off); n <= 0 {
				return nil, 0, 0, fmt.Errorf("mapping of thin block %d: keys are out of order: %w", block, filesys.ErrCorrupt)
			}
		}
		if t.origin != nil && off < t.origin.Size() {
			return t.origin, off, min(n, t.origin.Size()-off), nil
		}
		return nil, 0, n, nil
	}
	to := p.node.child(p.index) >> 24
	blocks := int64(1) // that follow each other in both
	for i := p.index + 1; i < p.node.entries && p.node.key(i) == uint64(block+blocks) && p.node.child(i)>>24 == to+uint64(blocks); i++ {
		blocks++
	}
	if to+uint64(blocks) > uint64(t.pool.data.Size()/size) {
		return nil, 0, 0, fmt.Errorf("thin block %d is mapped beyond the end of the pool: %w", block, filesys.ErrCorrupt)
	}
	return t.pool.data, int64(to)*size + in, min(blocks*size-in, t.size-off), nil
}

func (t *thin) ReadAt(p []byte, off int64) (int, error) {
	return raid.ReadPieces(p, off, t.size, func(p []byte, off int64) (int, error) {
		d, at, n, err := t.find(off)
		if err != nil {
			return 0, err
		}
		p = p[:min(int64(len(p)), n)]
		if d == nil {
			clear(p)
			return len(p), nil
		}
		return raid.Full(d, p, at)
	})
}

func (t *thin) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= t.size {
		return blockdev.Place{}, 0, outside(off, t.size)
	}
	d, at, n, err := t.find(off)
	if err != nil || d == nil {
		return blockdev.Place{Disk: blockdev.Nowhere}, n, err
	}
	p, m, err := d.Place(at)
	return p, min(n, m), err
}
