package xfslog

import (
	"encoding/binary"
	"math/rand/v2"
)

// writer writes a volume with a log, as no kernel does that is to be had for the
// tests: with any version of log and file system, byte order and place of the
// splits.
type writer struct {
	g       Geometry
	version uint32 // of the log
	order   binary.ByteOrder
	sums    bool
	most    int // bytes in the body of a record, at most
	volume  []byte
	cycle   uint32
	at      uint32
	tail    lsn
	last    lsn // of the newest record
	body    []byte
	ops     uint32
	rng     *rand.Rand
	split   bool // regions may be continued in the next record
}

const (
	testSize     = 1 << 20
	testLog      = 512 << 10
	testLogBytes = 128 << 10
)

func newWriter(v5 bool, version uint32, order binary.ByteOrder, rng *rand.Rand) *writer {
	w := &writer{
		g: Geometry{
			BlockSize: 1024, SectorSize: 512, LogOffset: testLog, LogSize: testLogBytes, V5: v5,
			AGBlocks: testSize / 1024, AGBlockLog: 10, AGCount: 1, InodeSize: 256, DirBlockSize: 1024,
		},
		version: version, order: order, sums: v5, most: 32 << 10,
		volume: make([]byte, testSize), cycle: 1, rng: rng,
	}
	if v5 {
		w.g.InodeSize = 512
	}
	for i := range w.g.UUID {
		w.g.UUID[i] = byte(rng.Uint32())
	}
	w.g.MetaUUID = w.g.UUID
	for i := 0; i < testLog; i += 8 {
		binary.LittleEndian.PutUint64(w.volume[i:], rng.Uint64())
	}
	w.unmount()
	w.tail = lsn(w.cycle)<<32 | lsn(w.at)
	return w
}

// size of the log in sectors.
func (w *writer) size() uint32 { return uint32(w.g.LogSize / sector) }

func (w *writer) log() []byte { return w.volume[w.g.LogOffset : w.g.LogOffset+w.g.LogSize] }

// op adds an operation to the record under way.
func (w *writer) op(tid uint32, flags byte, data []byte) {
	if len(w.body)+opHeader+len(data) > w.most {
		w.flush()
	}
	w.body = be.AppendUint32(w.body, tid)
	w.body = be.AppendUint32(w.body, uint32(len(data)))
	w.body = append(w.body, clientTransaction, flags, 0, 0)
	w.body = append(w.body, data...)
	w.ops++
}

// flush writes the record.
func (w *writer) flush() {
	if w.ops == 0 {
		return
	}
	n := len(w.body)
	for len(w.body)%sector != 0 {
		w.body = append(w.body, 0)
	}
	heads := 1
	if w.version == 2 && w.most > cycleSectors*sector {
		heads = (w.most + cycleSectors*sector - 1) / (cycleSectors * sector)
	}
	p := make([]byte, heads*sector)
	for i, v := range []uint32{recordMagic, w.cycle, w.version, uint32(n), w.cycle, w.at, w.tail.cycle(), w.tail.sector()} {
		be.PutUint32(p[4*i:], v)
	}
	be.PutUint32(p[40:], w.ops)
	be.PutUint32(p[300:], map[binary.ByteOrder]uint32{binary.LittleEndian: 1, binary.BigEndian: 2}[w.order])
	copy(p[304:], w.g.UUID[:])
	if w.version == 2 {
		be.PutUint32(p[320:], uint32(w.most))
	}
	cycleOf := func(i int) uint32 {
		if uint64(w.at)+uint64(i) >= uint64(w.size()) {
			return w.cycle + 1
		}
		return w.cycle
	}
	for i := range len(w.body) / sector {
		at := 44 + 4*i
		if i >= cycleSectors {
			at = i/cycleSectors*sector + 4 + i%cycleSectors*4
		}
		copy(p[at:at+4], w.body[i*sector:])
		be.PutUint32(w.body[i*sector:], cycleOf(heads+i))
	}
	for i := 1; i < heads; i++ {
		be.PutUint32(p[i*sector:], cycleOf(i))
	}
	w.last = lsn(w.cycle)<<32 | lsn(w.at)
	if w.sums {
		h := header{version: w.version, len: uint32(n), sectors: uint32(heads)}
		binary.LittleEndian.PutUint32(p[32:], checksum(&h, p, w.body[:n], headerCovered))
	}
	for _, b := range [][]byte{p, w.body} {
		for ; len(b) > 0; b = b[sector:] {
			copy(w.log()[w.at*sector:], b[:sector])
			if w.at++; w.at == w.size() {
				w.at, w.cycle = 0, w.cycle+1
			}
		}
	}
	w.body, w.ops = nil, 0
}

// unmount ends the log cleanly.
func (w *writer) unmount() {
	w.flush()
	w.op(0xB0C0D0D0, opUnmount, []byte{0x6E, 0x55, 0, 0, 0, 0, 0, 0})
	w.flush()
}

func (w *writer) begin(tid uint32) {
	w.op(tid, opStart, nil)
	var p []byte
	for _, v := range []uint32{transactionMagic, 40, tid, 0} {
		p = w.u32(p, v)
	}
	w.region(tid, p)
}

// startOf is the sequence number of a transaction that begins now.
func (w *writer) startOf() lsn { return lsn(w.cycle)<<32 | lsn(w.at) }

func (w *writer) commit(tid uint32) { w.op(tid, opCommit, nil) }

// region adds a region, in some pieces.
func (w *writer) region(tid uint32, data []byte) {
	flags := byte(0)
	for w.split && len(data) > 16 && w.rng.IntN(3) == 0 {
		n := 4 + 4*w.rng.IntN(len(data)/4-1)
		w.op(tid, flags|opContinue, data[:n])
		data, flags = data[n:], opContinued
		if w.rng.IntN(2) == 0 {
			w.flush()
		}
	}
	if flags != 0 {
		flags |= opEnd
	}
	w.op(tid, flags, data)
}

func (w *writer) u16(p []byte, v uint16) []byte {
	if w.order == binary.BigEndian {
		return be.AppendUint16(p, v)
	}
	return binary.LittleEndian.AppendUint16(p, v)
}

func (w *writer) u32(p []byte, v uint32) []byte {
	if w.order == binary.BigEndian {
		return be.AppendUint32(p, v)
	}
	return binary.LittleEndian.AppendUint32(p, v)
}

func (w *writer) u64(p []byte, v uint64) []byte {
	if w.order == binary.BigEndian {
		return be.AppendUint64(p, v)
	}
	return binary.LittleEndian.AppendUint64(p, v)
}

// buffer logs the chunks of block that are set in the map.
func (w *writer) buffer(tid uint32, at uint64, form int, flags uint16, block []byte, chunks uint32) {
	var regions [][]byte
	for i := 0; i < 32; i++ {
		if chunks>>i&1 == 0 {
			continue
		}
		n := 1
		for i+n < 32 && chunks>>(i+n)&1 != 0 {
			n++
		}
		if n > 1 && w.rng.IntN(4) == 0 {
			n-- // a row may come in several regions
		}
		regions = append(regions, block[i*chunk:(i+n)*chunk])
		i += n - 1
	}
	p := w.u16(nil, typeBuffer)
	p = w.u16(p, uint16(1+len(regions)))
	p = w.u16(p, flags|uint16(form)<<11)
	p = w.u16(p, uint16(len(block)/sector))
	p = w.u64(p, at)
	p = w.u32(p, 1)
	p = w.u32(p, chunks)
	w.region(tid, p)
	for _, r := range regions {
		w.region(tid, r)
	}
}

func (w *writer) cancel(tid uint32, at uint64, units int) {
	w.buffer(tid, at, 0, bufferCancel, make([]byte, units*sector), 0)
}

// inode logs an inode; its buffer is two blocks from sector at on. Narrow is the
// form of 32-bit machines.
func (w *writer) inode(tid uint32, at uint64, slot int, fields uint32, device uint32, narrow bool, regions ...[]byte) {
	p := w.u16(nil, typeInode)
	p = w.u16(p, uint16(1+len(regions)))
	p = w.u32(p, fields)
	p = w.u32(p, 0)
	if !narrow {
		p = w.u32(p, 0)
	}
	p = w.u64(p, 128)
	p = w.u32(p, device)
	p = append(p, make([]byte, 12)...)
	p = w.u64(p, at)
	p = w.u32(p, 4)
	p = w.u32(p, uint32(slot*w.g.InodeSize))
	w.region(tid, p)
	for _, r := range regions {
		w.region(tid, r)
	}
}

// intent logs an intent or its done item.
func (w *writer) intent(tid uint32, kind uint16, id uint64, more ...byte) {
	p := w.u16(nil, kind)
	p = w.u16(p, 1)
	p = w.u32(p, uint32(len(more)/32))
	p = w.u64(p, id)
	w.region(tid, append(p, more...))
}

// swapped is an inode core in the machine's byte order.
func (w *writer) swapped(inode []byte) []byte {
	size := 96
	if w.g.V5 {
		size = dinodeV3
	}
	p := make([]byte, size)
	copy(p, inode)
	if w.order == binary.BigEndian {
		return p
	}
	swap := func(at, n int) {
		for i := range n {
			p[at+i] = inode[at+n-1-i]
		}
	}
	for _, at := range []int{0, 2, 6, 20, 22, 30, 80, 88, 90} {
		swap(at, 2)
	}
	for _, at := range []int{8, 12, 16, 32, 36, 40, 44, 48, 52, 72, 76, 84, 92} {
		swap(at, 4)
	}
	swap(56, 8)
	swap(64, 8)
	if w.g.V5 {
		for _, at := range []int{104, 112, 120, 152} {
			swap(at, 8)
		}
		for _, at := range []int{128, 144, 148} {
			swap(at, 4)
		}
	}
	return p
}
