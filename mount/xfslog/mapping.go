package xfslog

import (
	"encoding/binary"
	"io"
	"slices"
)

// mapChange is what a file mapping intent wants: one run of blocks to be mapped
// to a file or not any more.
//
//	0 inode (8)  8 block on the volume (8)  16 block of the file (8)
//	24 blocks (4)  28 flags (4)
type mapChange struct {
	ino           uint64
	block, offset uint64
	count, flags  uint32
}

const (
	mapType      = 0xFF // 1 map, 2 unmap
	mapAttr      = 1 << 31
	mapUnwritten = 1 << 30
	mapRealtime  = 1 << 29
)

func parseMapChange(order binary.ByteOrder, p []byte) mapChange {
	return mapChange{order.Uint64(p), order.Uint64(p[8:]), order.Uint64(p[16:]), order.Uint32(p[24:]), order.Uint32(p[28:])}
}

// extent is a record of a mapping: 1 bit unwritten, 54 bits offset in the file,
// 52 bits block on the volume, 21 bits count.
type extent struct {
	offset, block, count uint64
	unwritten            bool
}

const extentSize = 16

func parseExtent(p []byte) extent {
	high, low := be.Uint64(p), be.Uint64(p[8:])
	return extent{high << 1 >> 10, high&0x1FF<<43 | low>>21, low & (1<<21 - 1), high>>63 != 0}
}

func (e extent) put(p []byte) {
	high := e.offset<<9 | e.block>>43
	if e.unwritten {
		high |= 1 << 63
	}
	be.PutUint64(p, high)
	be.PutUint64(p[8:], e.block<<21|e.count)
}

// follows: e goes on where d ends, so that one record can say both.
func (e extent) follows(d extent) bool {
	return d.offset+d.count == e.offset && d.block+d.count == e.block && d.unwritten == e.unwritten && d.count+e.count < 1<<21
}

// change makes a change in a list of extents.
func (m *mapChange) change(list []extent) ([]extent, error) {
	from, to := m.offset, m.offset+uint64(m.count)
	var out []extent
	switch m.flags & mapType {
	case 1:
		i := 0
		for i < len(list) && list[i].offset < from {
			i++
		}
		e := extent{from, m.block, uint64(m.count), m.flags&mapUnwritten != 0}
		if i > 0 && list[i-1].offset+list[i-1].count > from || i < len(list) && list[i].offset < to {
			return nil, corrupt("inode %d: block %d is mapped already", m.ino, from)
		}
		list = slices.Insert(slices.Clone(list), i, e)
		if i+1 < len(list) && list[i+1].follows(e) {
			list[i].count += list[i+1].count
			list = slices.Delete(list, i+1, i+2)
		}
		if i > 0 && list[i].follows(list[i-1]) {
			list[i-1].count += list[i].count
			list = slices.Delete(list, i, i+1)
		}
		return list, nil
	case 2:
		for _, e := range list {
			end := e.offset + e.count
			if end <= from || e.offset >= to {
				out = append(out, e)
				continue
			}
			if e.offset < from {
				out = append(out, extent{e.offset, e.block, from - e.offset, e.unwritten})
			}
			if end > to {
				out = append(out, extent{to, e.block + to - e.offset, end - to, e.unwritten})
			}
		}
		return out, nil
	}
	return nil, unsupported("change of mapping of kind %d", m.flags&mapType)
}

// blocks is how many blocks a list maps.
func blocks(list []extent) (n uint64) {
	for _, e := range list {
		n += e.count
	}
	return n
}

// changeMap makes a change in the replayed volume.
func (l *Log) changeMap(volume io.ReaderAt, m mapChange) error {
	switch {
	case m.flags&mapRealtime != 0:
		return unsupported("a mapping of the realtime device")
	case m.flags&^(mapType|mapAttr|mapUnwritten) != 0:
		return unsupported("flags %#x", m.flags)
	case m.count == 0 || m.count >= 1<<21 || m.offset >= 1<<54-1<<21:
		return corrupt("inode %d: %d blocks from %d", m.ino, m.count, m.offset)
	}
	off, err := l.g.inodeOffset(m.ino)
	if err != nil {
		return err
	}
	inode, err := l.edit(volume, off, l.g.InodeSize)
	if err != nil {
		return err
	}
	if be.Uint16(inode) != dinodeMagic || be.Uint16(inode[2:]) == 0 {
		return corrupt("inode %d is not in use", m.ino)
	}
	if inode[4] >= 3 && !sealed(inode, dinodeCRC) {
		return corrupt("inode %d fails its checksum", m.ino)
	}
	fork, attr, err := forks(inode)
	if err != nil {
		return err
	}
	format := inode[5]
	if m.flags&mapAttr != 0 {
		fork, format = attr, inode[83]
	}
	var added int64 // records
	var delta uint64
	done := false
	var old []extent
	var oldNodes int
	switch format {
	case formatExtents:
		n, _ := extentCount(inode, m.flags&mapAttr != 0)
		if n > uint64(len(fork)/extentSize) {
			return corrupt("inode %d: %d extents in %d bytes", m.ino, n, len(fork))
		}
		old = parseExtents(fork, int(n))
	case formatBtree:
		if added, delta, done, err = l.changeTree(volume, &m, fork); err == nil && !done {
			old, oldNodes, err = l.allExtents(volume, fork)
		}
		if err != nil {
			return wrap(err, "inode %d", m.ino)
		}
	default:
		return corrupt("inode %d has no mapping, its format is %d", m.ino, format)
	}
	if !done {
		list, err := m.change(old)
		if err != nil {
			return err
		}
		format, nodes, err := l.rebuild(volume, be.Uint64(inode[152:]), fork, list)
		if err != nil {
			return wrap(err, "inode %d", m.ino)
		}
		if m.flags&mapAttr != 0 {
			inode[83] = format
		} else {
			inode[5] = format
		}
		added, delta = int64(len(list))-int64(len(old)), blocks(list)-blocks(old)+uint64(nodes-oldNodes)
	}
	n, put := extentCount(inode, m.flags&mapAttr != 0)
	put(n + uint64(added))
	be.PutUint64(inode[64:], be.Uint64(inode[64:])+delta)
	if inode[4] >= 3 {
		seal(inode, dinodeCRC)
	}
	return nil
}

// extentCount gives how many extents a fork has, and what sets that.
func extentCount(inode []byte, attr bool) (uint64, func(uint64)) {
	big := inode[4] >= 3 && be.Uint64(inode[120:])&flagBigCount != 0
	switch {
	case big && attr, !big && !attr:
		return uint64(be.Uint32(inode[76:])), func(n uint64) { be.PutUint32(inode[76:], uint32(n)) }
	case big:
		return be.Uint64(inode[24:]), func(n uint64) { be.PutUint64(inode[24:], n) }
	}
	return uint64(be.Uint16(inode[80:])), func(n uint64) { be.PutUint16(inode[80:], uint16(n)) }
}

func parseExtents(p []byte, n int) []extent {
	list := make([]extent, n)
	for i := range list {
		list[i] = parseExtent(p[i*extentSize:])
	}
	return list
}

func putExtents(p []byte, list []extent) {
	for i, e := range list {
		e.put(p[i*extentSize:])
	}
}
