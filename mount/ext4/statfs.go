package ext4

// usage is what statfs tells, in blocks and inodes.
type usage struct {
	size, free, available uint64
	inodes                uint64
}

const (
	// maxGroups bounds how many group descriptors are read to count free
	// space: 512 TiB with 4 KiB blocks. Beyond, the superblock's own count is
	// good enough.
	maxGroups = 1 << 22
	// maxClusterGroups bounds the same where the clusters in use are counted.
	maxClusterGroups = 1 << 12
	// maxReserved is how many clusters Linux keeps back at most, next to those
	// reserved for root.
	maxReserved = 4096
)

// countUsage computes what statfs shows on a mount of Linux: the size without
// the file system's own structures ("overhead"), and free space as the sum of
// the groups', which after a crash is right where the superblock's is not.
// Descriptors that cannot be read count as full.
func (f *FS) countUsage() usage {
	s := f.sb
	freeClusters := uint64(s.u32(0x0C))
	u := usage{size: s.blocks, inodes: uint64(s.u32(0x10))}
	if s.has64() {
		freeClusters |= uint64(s.u32(0x158)) << 32
	}
	if s.groups <= maxGroups {
		freeClusters, u.inodes = f.sumGroups()
	}
	freeClusters += f.freed.clusters
	u.inodes = min(u.inodes+f.freed.inodes, uint64(s.inodes))
	if over := f.overhead() << s.clusterBits; !s.mountOption("minixdf") && over < u.size {
		u.size -= over
	}
	u.free = min(freeClusters, s.blocks>>s.clusterBits) << s.clusterBits

	reserved := uint64(s.u32(0x08))
	if s.has64() {
		reserved |= uint64(s.u32(0x154)) << 32
	}
	if s.incompat&incompatExtents != 0 {
		reserved += min(s.blocks>>s.clusterBits/50, maxReserved) << s.clusterBits
	}
	if u.free > reserved {
		u.available = u.free - reserved
	}
	return u
}

// sumGroups adds up the free clusters and inodes of all groups. It passes by
// the cache, which a large table would only empty.
func (f *FS) sumGroups() (clusters, inodes uint64) {
	s := f.sb
	per := s.blockSize / s.descSize
	table := make([]byte, s.blockSize)
	for nr := range s.descBlocks() {
		b := s.descBlock(nr)
		if b >= s.blocks || readFull(f.r, table, int64(b<<s.blockBits)) != nil {
			continue
		}
		for i := range min(per, s.groups-nr*per) {
			g := s.decodeGroup(table[i*s.descSize:][:s.descSize])
			clusters += g.freeClusters
			inodes += g.freeInodes
		}
	}
	return clusters, inodes
}

// overhead is what the file system's own structures take, in clusters.
func (f *FS) overhead() uint64 {
	s := f.sb
	// Where clusters are blocks, Linux always counts anew; where they are not,
	// it believes what mke2fs noted.
	if stored := uint64(s.u32(0x248)); s.clusterBits > 0 && stored != 0 && stored <= s.blocks {
		return stored
	}
	if s.clusterBits > 0 && s.groups <= maxClusterGroups {
		return f.clusterOverhead()
	}
	if s.groups > maxGroups {
		return uint64(s.u32(0x248))
	}
	tableBlocks := uint64(s.inodesPer) / (s.blockSize / s.inodeSize)
	blocks := s.firstData
	for g := range s.groups {
		blocks += s.descOverhead(g) + tableBlocks + 2
		if s.hasSuper(g) {
			blocks += 1 + uint64(le.Uint16(s.raw[0xCE:]))
		}
	}
	return (blocks + f.journalBlocks()) >> s.clusterBits
}

// clusterOverhead counts the clusters that hold structures of the file system,
// any number of which may share one. Like Linux it leaves out the blocks that
// are reserved for more descriptors, and inode tables that end with their group
// or cross its border.
func (f *FS) clusterOverhead() uint64 {
	s := f.sb
	used := map[uint64]struct{}{} // by group and cluster in it
	add := func(b uint64) {
		rel := b - s.firstData
		used[rel/s.perGroup<<32|rel%s.perGroup>>s.clusterBits] = struct{}{}
	}
	tableBlocks := uint64(s.inodesPer) / (s.blockSize / s.inodeSize)
	for g := range s.groups {
		first := s.firstData + g*s.perGroup
		if s.hasSuper(g) {
			add(first)
			first++
		}
		for i := range min(s.descOverhead(g), s.perGroup) {
			add(first + i)
		}
		d, err := f.group(g)
		if err != nil {
			continue
		}
		for _, b := range [...]uint64{d.blockBitmap, d.inodeBitmap} {
			if s.validBlock(b) {
				add(b)
			}
		}
		if (d.inodeTable-s.firstData)%s.perGroup+tableBlocks < s.perGroup {
			for i := range tableBlocks {
				add(d.inodeTable + i)
			}
		}
	}
	ratio := uint64(1) << s.clusterBits
	return s.firstData>>s.clusterBits + uint64(len(used)) + (f.journalBlocks()+ratio-1)>>s.clusterBits
}

// journalBlocks is the length of the internal journal, as its own superblock
// says, or else its inode.
func (f *FS) journalBlocks() uint64 {
	ino := f.sb.u32(0xE0)
	if f.sb.compat&compatHasJournal == 0 || ino == 0 {
		return 0
	}
	in, err := f.anyInode(uint64(ino))
	if err != nil {
		return 0
	}
	blocks := uint64(in.size) >> f.sb.blockBits
	var head [20]byte
	if n, _ := (&file{f, in}).ReadAt(head[:], 0); n == len(head) && be.Uint32(head[:]) == 0xC03B3998 {
		blocks = min(blocks, uint64(be.Uint32(head[16:])))
	}
	return blocks
}
