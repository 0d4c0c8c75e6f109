package ext4

// groupDesc is what a reader needs of a group descriptor.
type groupDesc struct {
	blockBitmap  uint64
	inodeBitmap  uint64
	bitmapCsum   uint32 // of the bitmap of inodes, 16 bits of it in short descriptors
	inodeTable   uint64
	freeClusters uint64
	freeInodes   uint64
	usedInodes   uint64 // behind so many the inode table may never have been written
}

// hasSuper says whether group g begins with a copy of the superblock.
func (s *superblock) hasSuper(g uint64) bool {
	switch {
	case g == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return g == uint64(s.u32(0x24C)) || g == uint64(s.u32(0x250))
	case g == 1 || s.ro&roSparseSuper == 0:
		return true
	case g%2 == 0:
		return false
	}
	for _, base := range [...]uint64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// metaGroup says whether block nr of the descriptor table lies in its own meta
// block group (meta_bg) and not behind the superblock.
func (s *superblock) metaGroup(nr uint64) bool {
	return s.incompat&incompatMetaBG != 0 && nr >= uint64(s.u32(0x104))
}

// descBlock is where block nr of the descriptor table lies.
func (s *superblock) descBlock(nr uint64) uint64 {
	if !s.metaGroup(nr) {
		return s.location + nr + 1
	}
	g := s.blockSize / s.descSize * nr
	b := s.firstData + g*s.perGroup
	if s.hasSuper(g) {
		b++
	}
	// With 1 KiB blocks and a first data block of 0 (bigalloc), group 0 begins
	// with the boot block, and the superblock is the second.
	if s.blockSize == 1024 && nr == 0 && s.firstData == 0 {
		b++
	}
	return b
}

// descOverhead is how many blocks of group g hold descriptors.
func (s *superblock) descOverhead(g uint64) uint64 {
	per := s.blockSize / s.descSize
	if nr := g / per; s.metaGroup(nr) {
		if at := g % per; at == 0 || at == 1 || at == per-1 {
			return 1
		}
		return 0
	}
	switch {
	case !s.hasSuper(g):
		return 0
	case s.incompat&incompatMetaBG != 0:
		return uint64(s.u32(0x104))
	default:
		return s.descBlocks()
	}
}

func (s *superblock) decodeGroup(d []byte) groupDesc {
	g := groupDesc{
		blockBitmap:  uint64(le.Uint32(d[0x00:])),
		inodeBitmap:  uint64(le.Uint32(d[0x04:])),
		inodeTable:   uint64(le.Uint32(d[0x08:])),
		freeClusters: uint64(le.Uint16(d[0x0C:])),
		freeInodes:   uint64(le.Uint16(d[0x0E:])),
	}
	g.bitmapCsum = uint32(le.Uint16(d[0x1A:]))
	if len(d) >= 64 {
		g.bitmapCsum |= uint32(le.Uint16(d[0x3A:])) << 16
		g.blockBitmap |= uint64(le.Uint32(d[0x20:])) << 32
		g.inodeBitmap |= uint64(le.Uint32(d[0x24:])) << 32
		g.inodeTable |= uint64(le.Uint32(d[0x28:])) << 32
		g.freeClusters |= uint64(le.Uint16(d[0x2C:])) << 16
		g.freeInodes |= uint64(le.Uint16(d[0x2E:])) << 16
	}
	g.usedInodes = uint64(s.inodesPer)
	if s.ro&(roMetadataCsum|roGDTCsum) != 0 {
		unused := uint64(le.Uint16(d[0x1C:]))
		if len(d) >= 64 {
			unused |= uint64(le.Uint16(d[0x32:])) << 16
		}
		const inodeUninit = 0x1
		if le.Uint16(d[0x12:])&inodeUninit != 0 {
			unused = g.usedInodes
		}
		g.usedInodes -= min(unused, g.usedInodes)
	}
	return g
}

// groupCsum is the checksum of descriptor d of group g, and whether the volume
// has such checksums at all.
func (s *superblock) groupCsum(g uint64, d []byte) (uint16, bool) {
	const at = 0x1E // of the checksum itself
	switch {
	case s.metadataCsum():
		c := crc32cLE(s.csumSeed, uint32(g))
		c = crc32c(c, d[:at])
		c = crc32cBytes(c, 0, 2)
		return uint16(crc32c(c, d[at+2:])), true
	case s.ro&roGDTCsum != 0:
		var nr [4]byte
		le.PutUint32(nr[:], uint32(g))
		c := crc16(0xFFFF, s.raw[0x68:0x78])
		c = crc16(c, nr[:])
		c = crc16(c, d[:at])
		if s.has64() {
			c = crc16(c, d[at+2:])
		}
		return c, true
	}
	return 0, false
}

// group reads and checks the descriptor of group g.
func (f *FS) group(g uint64) (groupDesc, error) {
	per := f.sb.blockSize / f.sb.descSize
	table, err := f.block(f.sb.descBlock(g / per))
	if err != nil {
		return groupDesc{}, wrap(err, "group descriptor %d", g)
	}
	d := table[g%per*f.sb.descSize:][:f.sb.descSize]
	if want, ok := f.sb.groupCsum(g, d); ok && want != le.Uint16(d[0x1E:]) {
		return groupDesc{}, corrupt("group descriptor %d: checksum is %04x, stored %04x", g, want, le.Uint16(d[0x1E:]))
	}
	desc := f.sb.decodeGroup(d)
	tableBlocks := (uint64(f.sb.inodesPer)*f.sb.inodeSize + f.sb.blockSize - 1) >> f.sb.blockBits
	if !f.sb.validRun(desc.inodeTable, tableBlocks) {
		return groupDesc{}, corrupt("group descriptor %d: inode table at block %d", g, desc.inodeTable)
	}
	return desc, nil
}

// inodeFree says whether the bitmap of a group has inode index of it as free. It
// is believed only with its checksum: what cannot be vouched for is not free.
func (f *FS) inodeFree(desc groupDesc, index uint64) bool {
	if !f.sb.metadataCsum() {
		return false
	}
	b, err := f.block(desc.inodeBitmap)
	n := uint64(f.sb.inodesPer) / 8
	if err != nil || n > uint64(len(b)) || index/8 >= n {
		return false
	}
	c := crc32c(f.sb.csumSeed, b[:n])
	if f.sb.descSize < 64 {
		c &= 0xFFFF
	}
	return c == desc.bitmapCsum && b[index/8]>>(index%8)&1 == 0
}
