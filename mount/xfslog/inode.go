package xfslog

// The inode on disk, big-endian. What the log holds of it is the same structure
// in the byte order of the machine.
//
//	  0 magic (2)  2 mode (2)  4 version (1)  5 format (1)  6 old link count, or
//	kind of metadata (2)  8 owner  12 group  16 links  20 project low (2), high (2)
//	 24 extents (8) with big counts; otherwise padding, 30 flush count (2)
//	 32 accessed (8)  40 modified (8)  48 changed (8)  56 size (8)  64 blocks (8)
//	 72 extent size hint  76 extents  80 attribute extents (2), or 76 attribute
//	extents with big counts, 80 zero (2)  82 fork offset in 8 bytes (1)
//	 83 attribute format (1)  84 event mask  88 state (2)  90 flags (2)
//	 92 generation  96 next unlinked
//	version 3:
//	100 checksum  104 change count (8)  112 sequence number (8)  120 flags2 (8)
//	128 copy-on-write hint  132 zero (12)  144 created (8)  152 number (8)
//	160 UUID (16)
//
// A time is two words, seconds and nanoseconds, or one of 64 bits with big
// times. Fields without a size in this list have four bytes.
const (
	dinodeMagic    = 0x494E
	dinodeV2       = 100
	dinodeV3       = 176
	dinodeUnlinked = 96
	dinodeCRC      = 100
	dinodeLSN      = 112
	maxFork        = 4096

	flagMetadata = 1 << 5 // in flags2
	flagBigTime  = 1 << 3
	flagBigCount = 1 << 4

	formatExtents   = 2
	formatBtree     = 3
	formatMetaBtree = 5
)

// replayInode brings an inode, as it is on disk, up to date.
func (l *Log) replayInode(run []op, inode []byte) error {
	changed := false
	for len(run) > 0 {
		// One transaction.
		n := 1
		for n < len(run) && run[n].seq == run[0].seq {
			n++
		}
		did, err := l.replayInodeOnce(run[:n], inode)
		if err != nil {
			return wrap(err, "inode at sector %d, byte %d", run[0].block, run[0].off)
		}
		changed = changed || did
		run = run[n:]
	}
	if changed && be.Uint16(inode) == dinodeMagic && inode[4] >= 3 {
		seal(inode, dinodeCRC)
	}
	return nil
}

// replayInodeOnce applies what one transaction logged of an inode.
func (l *Log) replayInodeOnce(ops []op, inode []byte) (changed bool, err error) {
	skip := false
	for i := 0; i < len(ops); {
		o := &ops[i]
		n := 1
		for i+n < len(ops) && ops[i+n].kind == o.kind && ops[i+n].form == o.form {
			n++
		}
		group := ops[i : i+n]
		i += n
		switch o.kind {
		case kindCreate:
			l.createInode(o, inode)
			changed = true
		case kindRaw:
			for _, o := range group {
				if err := l.fetch(inode[o.sub:o.sub+o.len], o.log); err != nil {
					return changed, err
				}
			}
			changed = true
		case kindUnlinked:
			for _, o := range group {
				at := dinodeUnlinked + int(o.sub)
				if err := l.fetch(inode[at:at+int(o.len)], o.log); err != nil {
					return changed, err
				}
			}
			changed = true
		case kindCore:
			core, err := l.gather(group)
			if err != nil {
				return changed, err
			}
			if skip, err = l.replayCore(o, core, inode); err != nil {
				return changed, err
			}
			changed = changed || !skip
		case kindData, kindAttr:
			if skip {
				continue
			}
			if err := l.replayFork(group, inode); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// gather reads the pieces of a region.
func (l *Log) gather(group []op) ([]byte, error) {
	n := 0
	for i := range group {
		n = max(n, int(group[i].sub)+int(group[i].len))
	}
	p := make([]byte, n)
	for i := range group {
		o := &group[i]
		if err := l.fetch(p[o.sub:int(o.sub)+int(o.len)], o.log); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// createInode makes an inode as it is before its first use.
func (l *Log) createInode(o *op, inode []byte) {
	clear(inode)
	be.PutUint16(inode, dinodeMagic)
	inode[4] = 2
	be.PutUint32(inode[92:], o.log)
	be.PutUint32(inode[dinodeUnlinked:], ^uint32(0))
	if l.g.V5 {
		inode[4] = 3
		be.PutUint64(inode[152:], l.g.inodeNumber(o.address()))
		copy(inode[160:176], l.g.MetaUUID[:])
	}
}

// replayCore writes the logged core over that of the inode, unless the inode on
// disk is newer.
func (l *Log) replayCore(o *op, core, inode []byte) (skip bool, err error) {
	order := l.order
	if be.Uint16(inode) != dinodeMagic {
		return false, corrupt("no inode is there")
	}
	if inode[4] >= 3 {
		if on := lsn(be.Uint64(inode[dinodeLSN:])); on != 0 && on != ^lsn(0) && on > l.span.lsn(o.start) {
			return true, nil
		}
	}
	version := core[4]
	if version >= 3 && len(core) < dinodeV3 || version >= 3 != l.g.V5 {
		return false, corrupt("version %d with %d bytes logged", version, len(core))
	}
	if !l.g.V5 {
		// Inodes are counted each time they are written; the count does not
		// wrap to zero but starts at it again.
		const most = 0xFFFF
		logged, on := order.Uint16(core[30:]), be.Uint16(inode[30:])
		if logged < on && !(on == most && logged < most>>1) {
			return true, nil
		}
	}
	swap := func(at, size int) {
		switch size {
		case 2:
			be.PutUint16(inode[at:], order.Uint16(core[at:]))
		case 4:
			be.PutUint32(inode[at:], order.Uint32(core[at:]))
		case 8:
			be.PutUint64(inode[at:], order.Uint64(core[at:]))
		}
	}
	var flags2 uint64
	if version >= 3 {
		flags2 = order.Uint64(core[120:])
	}
	time := func(at int) {
		if flags2&flagBigTime != 0 {
			swap(at, 8)
		} else {
			swap(at, 4)
			swap(at+4, 4)
		}
	}
	swap(0, 2)
	swap(2, 2)
	inode[4], inode[5] = core[4], core[5]
	clear(inode[6:8])
	if flags2&flagMetadata != 0 {
		swap(6, 2)
	}
	for at := 8; at < 20; at += 4 {
		swap(at, 4)
	}
	swap(20, 2)
	swap(22, 2)
	clear(inode[24:32])
	if flags2&flagBigCount != 0 {
		swap(24, 8)
	}
	time(32)
	time(40)
	time(48)
	swap(56, 8)
	swap(64, 8)
	swap(72, 4)
	swap(76, 4)
	swap(80, 2)
	inode[82], inode[83] = core[82], core[83]
	swap(84, 4)
	swap(88, 2)
	swap(90, 2)
	swap(92, 4)
	if version < 3 {
		return false, nil
	}
	swap(104, 8)
	be.PutUint64(inode[dinodeLSN:], uint64(l.span.lsn(o.start)))
	swap(120, 8)
	swap(128, 4)
	clear(inode[132:144])
	time(144)
	swap(152, 8)
	copy(inode[160:176], core[160:176])
	return false, nil
}

// forks gives the two forks of an inode.
func forks(inode []byte) (data, attr []byte, err error) {
	from := dinodeV2
	if inode[4] >= 3 {
		from = dinodeV3
	}
	at := int(inode[82]) * 8
	if at == 0 {
		return inode[from:], nil, nil
	}
	if from+at > len(inode) {
		return nil, nil, corrupt("attribute fork at byte %d of %d", from+at, len(inode))
	}
	return inode[from : from+at], inode[from+at:], nil
}

// replayFork writes a logged fork over that of the inode.
func (l *Log) replayFork(group []op, inode []byte) error {
	fork, attr, err := forks(inode)
	if err != nil {
		return err
	}
	o := &group[0]
	format := inode[5]
	if o.kind == kindAttr {
		fork, format = attr, inode[83]
	}
	if o.form == formDevice {
		be.PutUint32(fork, o.log)
		return nil
	}
	p, err := l.gather(group)
	if err != nil {
		return err
	}
	if o.form == formCopy {
		// Padded to four bytes.
		if len(p) > len(fork)+3 {
			return corrupt("fork of %d bytes logged for one of %d", len(p), len(fork))
		}
		copy(fork, p)
		return nil
	}
	if format == formatMetaBtree {
		return unsupported("a realtime B+tree in an inode in the log")
	}
	return l.replayRoot(p, fork)
}

// replayRoot writes the root of a B+tree. In memory it is a block with room for
// exactly its records behind a header like that of other blocks; in the inode it
// has a short header and room for as many as the fork has.
//
//	on disk    0 level (2)  2 records (2)  4 keys (8 each)  then pointers (8)
//	in memory  0 magic (4)  4 level (2)    6 records (2)    … 24 or 72 the same
func (l *Log) replayRoot(p, fork []byte) error {
	head := 24
	if l.g.V5 {
		head = 72
	}
	if len(p) < head {
		return corrupt("root of a mapping of %d bytes", len(p))
	}
	n, room, most := int(be.Uint16(p[6:])), (len(p)-head)/16, (len(fork)-4)/16
	if n > room || n > most {
		return corrupt("root of a mapping with %d records in %d bytes, for a fork of %d", n, len(p), len(fork))
	}
	copy(fork[:4], p[4:8])
	copy(fork[4:4+8*n], p[head:])
	copy(fork[4+8*most:4+8*most+8*n], p[head+8*room:])
	return nil
}
