package xfslog

import "math/bits"

// Types of items.
const (
	typeEFI    = 0x1236 // extent free intent, and done
	typeEFD    = 0x1237
	typeInode  = 0x123B
	typeBuffer = 0x123C
	typeDquot  = 0x123D
	typeQOff   = 0x123E
	typeCreate = 0x123F
	typeBUI    = 0x1244 // file mapping
	typeATTRI  = 0x1246 // extended attributes
	typeXMI    = 0x1248 // exchange of mappings
	typeLast   = 0x124F
)

// chunk is the unit in which changes of buffers are logged.
const chunk = 128

// Flags of a buffer's format.
const (
	bufferInodes = 1 << 0 // only the links of the unlinked list are to be replayed
	bufferCancel = 1 << 1
	bufferQuota  = 1<<2 | 1<<3 | 1<<4
)

// item turns an item into ops.
func (l *loader) item(t *transaction, it *item) error {
	if it.firstLen < 4 {
		return corrupt("item of %d bytes", it.firstLen)
	}
	switch kind := t.order.Uint16(it.first); {
	case kind == typeBuffer:
		return l.bufferItem(t, it)
	case kind == typeInode:
		return l.inodeItem(t, it)
	case kind == typeCreate:
		return l.createItem(t, it)
	case kind == typeDquot || kind == typeQOff:
		return nil // quotas limit writers
	case kind == typeEFI || kind == typeEFD || kind > typeCreate && kind <= typeLast:
		return l.intentItem(t, it, kind)
	default:
		return unsupported("log item of type %#x", kind)
	}
}

// bufferItem takes a buffer. Its format:
//
//	0 type  2 regions  4 flags  6 length in sectors  8 sector on the volume (8)
//	16 words in the map  20 map: a bit for each chunk of 128 bytes that was
//	logged, words of 32 bits
//
// and then a region for each row of chunks, which may be split into more.
func (l *loader) bufferItem(t *transaction, it *item) error {
	f := it.first
	if len(f) < 20 {
		return corrupt("buffer item of %d bytes", it.firstLen)
	}
	flags, block, words := t.order.Uint16(f[4:]), t.order.Uint64(f[8:]), int(t.order.Uint32(f[16:]))
	o := op{block: block, units: t.order.Uint16(f[6:]), start: t.start, kind: kindBuffer, form: byte(flags >> 11)}
	size := int(o.units) * sector
	switch {
	case o.units == 0 || size > 65536:
		return corrupt("buffer item at sector %d: %d sectors", block, o.units)
	case block >= 1<<54:
		return corrupt("buffer item at sector %d", block)
	}
	if flags&bufferCancel != 0 {
		o.kind = kindCancel
		t.ops = append(t.ops, o)
		return nil
	}
	if flags&bufferQuota != 0 || o.form >= blftUserDquot && o.form <= blftGroupDquot {
		return nil
	}
	if words < 0 || words > (maxFirst-20)/4 || 20+4*words > len(f) {
		return corrupt("buffer item at sector %d: map of %d words in %d bytes", block, words, it.firstLen)
	}
	var chunks [(maxFirst - 20) / 4]uint32
	for i := range words {
		chunks[i] = t.order.Uint32(f[20+4*i:])
	}
	regions := it.regions
	for bit := 0; ; {
		from, n := setBits(chunks[:words], bit)
		if n == 0 {
			break
		}
		if len(regions) == 0 {
			return corrupt("buffer item at sector %d: %d regions do not fill its map", block, len(it.regions))
		}
		r := regions[0]
		regions = regions[1:]
		n = min(n, r.len/chunk)
		if n == 0 || (from+n)*chunk > size {
			return corrupt("buffer item at sector %d: region of %d bytes for chunk %d", block, r.len, from)
		}
		l.bufferRegion(t, o, it, r, from*chunk, n*chunk, flags&bufferInodes != 0)
		bit = from + n
	}
	return nil
}

// setBits finds the next row of bits at bit or behind it.
func setBits(words []uint32, bit int) (from, n int) {
	at := func(i int) bool { return words[i/32]>>(i%32)&1 != 0 }
	for bit < len(words)*32 && !at(bit) {
		if bit%32 == 0 && words[bit/32] == 0 {
			bit += 32
			continue
		}
		bit++
	}
	from = bit
	for bit < len(words)*32 && at(bit) {
		bit++
	}
	return from, bit - from
}

// bufferRegion makes ops of size bytes of a region, which belong at off in the
// buffer.
func (l *loader) bufferRegion(t *transaction, o op, it *item, r region, off, size int, unlinked bool) {
	inode := l.g.InodeSize
	raw := !l.g.V5 && !unlinked && l.holdsInodes(t, o, off, r)
	for _, p := range it.pieces[r.from:r.to] {
		n := min(int(p.len), size)
		log := p.log
		for n > 0 {
			part := min(n, 32<<10)
			o.log, o.off, o.sub, o.len = log, uint32(off), 0, uint16(part)
			if raw || unlinked {
				// As far as it belongs to one inode.
				slot := off / inode * inode
				o.kind, o.off, o.sub = kindRaw, uint32(slot), uint16(off-slot)
				part = min(part, slot+inode-off)
				o.len = uint16(part)
			}
			if unlinked {
				field := int(o.off) + dinodeUnlinked
				from, to := max(off, field), min(off+part, field+4)
				if from < to {
					o.kind, o.log, o.sub, o.len = kindUnlinked, l.logAdd(log, from-off), uint16(from-field), uint16(to-from)
					t.ops = append(t.ops, o)
				}
			} else {
				t.ops = append(t.ops, o)
			}
			log, off, size, n = l.logAdd(log, part), off+part, size-part, n-part
		}
	}
}

// holdsInodes: without version 5, new inodes are logged as the buffer that holds
// them. Kernels before 3.10 did not say what is in a buffer.
func (l *loader) holdsInodes(t *transaction, o op, off int, r region) bool {
	if o.form == blftInode {
		return true
	}
	if o.form != blftUnknown {
		return false
	}
	for i := range t.ops {
		if p := &t.ops[len(t.ops)-1-i]; p.block == o.block && p.units == o.units {
			return p.kind == kindRaw
		} else if i > 0 {
			break
		}
	}
	return off%l.g.InodeSize == 0 && be.Uint16(r.peek[:]) == dinodeMagic
}

// logAdd moves a byte position in the log forward.
func (l *loader) logAdd(log uint32, n int) uint32 {
	return uint32((uint64(log) + uint64(n)) % (uint64(l.ring.size) * sector))
}

// createItem takes a chunk of new inodes, which are on disk only when they have
// been written there. Its format, after the type, big-endian:
//
//	4 allocation group  8 block in it  12 count  16 size  20 length in blocks
//	24 generation
func (l *loader) createItem(t *transaction, it *item) error {
	f := it.first
	if len(f) < 28 || it.total != 1 {
		return corrupt("inode create item of %d bytes", it.firstLen)
	}
	ag, block, count := be.Uint32(f[4:]), be.Uint32(f[8:]), be.Uint32(f[12:])
	size, length, gen := be.Uint32(f[16:]), be.Uint32(f[20:]), be.Uint32(f[24:])
	g := l.g
	// Of a sparse chunk, the blocks that exist.
	if size != uint32(g.InodeSize) || count == 0 || count > 64 && int(count) > g.BlockSize/g.InodeSize ||
		uint64(length)*uint64(g.BlockSize) != uint64(count)*uint64(size) || block == 0 ||
		uint64(block)+uint64(length) > uint64(g.AGBlocks) || ag >= 1<<31 {
		return corrupt("inode create item: %d inodes of %d bytes in %d blocks from %d:%d", count, size, length, ag, block)
	}
	// An item of 28 bytes makes 64 ops. Who makes inodes logs them, which takes
	// 16 KiB for a chunk.
	if l.created++; int64(l.created) > 4096+int64(min(g.AGCount, 1<<16))+g.LogSize/8192 {
		return unsupported("more than %d chunks of new inodes in the log", l.created-1)
	}
	cluster := min(g.clusterBlocks(), length)
	units := uint64(cluster) * uint64(g.BlockSize) / sector
	perCluster := units * sector / uint64(size)
	first := (uint64(ag)*uint64(g.AGBlocks) + uint64(block)) * uint64(g.BlockSize) / sector
	for i := range uint64(count) {
		t.ops = append(t.ops, op{
			block: first + i/perCluster*units, units: uint16(units), start: t.start,
			kind: kindCreate, off: uint32(i % perCluster * uint64(size)), log: gen,
		})
	}
	return nil
}

// Bits that say which parts of an inode were logged.
const (
	fieldCore      = 0x001
	fieldData      = 0x002
	fieldExtents   = 0x004
	fieldRoot      = 0x008
	fieldDevice    = 0x010
	fieldAttr      = 0x040
	fieldAttrExt   = 0x080
	fieldAttrRoot  = 0x100
	fieldOwner     = 0x200
	fieldAttrOwner = 0x400
)

// inodeItem takes an inode. Its format, of 56 bytes, or 52 without the padding
// that 32-bit machines leave out:
//
//	0 type  2 regions  4 fields (4)  8 size of the attribute fork  10 of the data
//	fork  12 padding (4)  16 inode number (8)  24 device number (4, of 16)
//	40 sector of the buffer (8)  48 its length in sectors (4)  52 offset in it (4)
//
// and then the core, the data fork and the attribute fork, as far as logged.
func (l *loader) inodeItem(t *transaction, it *item) error {
	f := it.first
	if it.firstLen != 56 && it.firstLen != 52 {
		return corrupt("inode item of %d bytes", it.firstLen)
	}
	fields := t.order.Uint32(f[4:])
	f = f[it.firstLen-40:] // from the inode number on
	ino, device := t.order.Uint64(f), t.order.Uint32(f[8:])
	o := op{block: t.order.Uint64(f[24:]), off: t.order.Uint32(f[36:]), start: t.start}
	units := t.order.Uint32(f[32:])
	o.units = uint16(units)
	switch {
	case o.block >= 1<<54 || units == 0 || units > 65536/sector || int(o.off)%l.g.InodeSize != 0 ||
		uint64(o.off)+uint64(l.g.InodeSize) > uint64(units)*sector:
		return corrupt("item of inode %d: in sector %d, %d sectors, byte %d", ino, o.block, units, o.off)
	case fields&fieldCore == 0 || len(it.regions) == 0:
		return corrupt("item of inode %d without the inode", ino)
	}
	core := it.regions[0]
	most := dinodeV2
	if l.g.V5 {
		most = dinodeV3
	}
	if core.len > most || core.len < dinodeUnlinked || t.order.Uint16(core.peek[:]) != dinodeMagic {
		return corrupt("item of inode %d: %d bytes that begin with %#x", ino, core.len, core.peek)
	}
	l.addRegion(t, it, o, kindCore, formCopy, core)
	if fields&fieldDevice != 0 {
		p := o
		p.kind, p.form, p.log = kindData, formDevice, device
		t.ops = append(t.ops, p)
	}
	rest := it.regions[1:]
	for _, fork := range []struct {
		kind     kind
		all, top uint32
	}{{kindData, fieldData | fieldExtents | fieldRoot, fieldRoot}, {kindAttr, fieldAttr | fieldAttrExt | fieldAttrRoot, fieldAttrRoot}} {
		which := fields & fork.all
		if which == 0 {
			continue
		}
		if bits.OnesCount32(which) != 1 || len(rest) == 0 {
			return corrupt("item of inode %d: fields %#x in %d regions", ino, fields, it.total)
		}
		form := uint8(formCopy)
		if which == fork.top {
			form = formRoot
		}
		if rest[0].len > maxFork {
			return corrupt("item of inode %d: fork of %d bytes", ino, rest[0].len)
		}
		l.addRegion(t, it, o, fork.kind, form, rest[0])
		rest = rest[1:]
	}
	for which, bit := range []uint32{fieldOwner, fieldAttrOwner} {
		if fields&bit != 0 {
			p := o
			p.kind, p.form = kindOwner, uint8(which)
			t.ops = append(t.ops, p)
		}
	}
	return nil
}

// addRegion makes an op of each piece of a region.
func (l *loader) addRegion(t *transaction, it *item, o op, kind kind, form uint8, r region) {
	o.kind, o.form = kind, form
	for _, p := range it.pieces[r.from:r.to] {
		o.log, o.len = p.log, uint16(p.len)
		t.ops = append(t.ops, o)
		o.sub += o.len
	}
}
