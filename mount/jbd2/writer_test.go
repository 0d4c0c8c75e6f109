package jbd2

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"sync"
)

// format is what a log can vary in.
type format struct {
	blockSize int
	version   int // of the superblock, 1 or 2
	checksum  int // version 0 … 3
	wide      bool
	async     bool
	fast      bool
	uuids     bool // tags carry the UUID where they may
	first     uint32
	start     uint32
	maxLen    uint32
	sequence  uint32
	fcBlocks  uint32
}

// writer makes a log, record by record, by its own reading of the format: it
// shares no code with the package but its constants.
type writer struct {
	format
	image []byte // the journal
	uuid  []byte
	at    uint32 // steps from start
	tid   uint32
	crc   uint32
	time  uint64
	rng   *rand.Rand

	// The model: what the log holds.
	writes  []write
	revokes []struct {
		block uint64
		tid   uint32
	}
	commits []uint32 // steps of the commit records
	tids    []uint32 // their transactions
	order   []uint32 // records other than data, by step
}

type write struct {
	block uint64
	tid   uint32
	at    uint32
	data  []byte
}

func newWriter(f format, rng *rand.Rand) *writer {
	w := &writer{format: f, tid: f.sequence, crc: ^uint32(0), time: 1_700_000_000, rng: rng}
	w.image = make([]byte, int(f.maxLen)*f.blockSize)
	w.uuid = randomBytes(rng, 16)
	// Free log blocks hold anything.
	copy(w.image[f.blockSize:], randomBytes(rng, len(w.image)-f.blockSize))
	w.superblock()
	return w
}

// pool is where randomBytes takes its bytes from: generating them anew takes
// most of a test's time under the race detector.
var pool = sync.OnceValue(func() []byte {
	p := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
})

func randomBytes(rng *rand.Rand, n int) []byte {
	at := rng.IntN(len(pool()) - n)
	return bytes.Clone(pool()[at : at+n])
}

func (w *writer) superblock() {
	sb := w.image[:1024]
	clear(sb)
	be.PutUint32(sb, 0xC03B3998)
	be.PutUint32(sb[4:], uint32(2+w.version))
	be.PutUint32(sb[12:], uint32(w.blockSize))
	be.PutUint32(sb[16:], w.maxLen)
	be.PutUint32(sb[20:], w.first)
	be.PutUint32(sb[24:], w.sequence)
	be.PutUint32(sb[28:], w.start)
	if w.version == 1 {
		return
	}
	incompat := uint32(1)
	if w.wide {
		incompat |= 2
	}
	if w.async {
		incompat |= 4
	}
	switch w.checksum {
	case 1:
		be.PutUint32(sb[36:], 1)
	case 2:
		incompat |= 8
	case 3:
		incompat |= 16
	}
	if w.fast {
		incompat |= 32
		be.PutUint32(sb[84:], w.fcBlocks)
	}
	be.PutUint32(sb[40:], incompat)
	copy(sb[48:], w.uuid)
	be.PutUint32(sb[64:], 1)
	if w.checksum >= 2 {
		sb[80] = 4
	}
	w.sealSuperblock()
}

func (w *writer) sealSuperblock() {
	sb := w.image[:1024]
	be.PutUint32(sb[252:], 0)
	if w.checksum >= 2 {
		be.PutUint32(sb[252:], naiveCRC32C(nil, sb))
	}
}

// naiveCRC32C is the log's crc32c of seed and p, from the library's.
func naiveCRC32C(seed []byte, p []byte) uint32 {
	all := append(append([]byte(nil), seed...), p...)
	return ^crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli))
}

// naiveCRC32BE goes bit by bit.
func naiveCRC32BE(crc uint32, p []byte) uint32 {
	for _, b := range p {
		crc ^= uint32(b) << 24
		for range 8 {
			top := crc >> 31
			crc <<= 1
			if top == 1 {
				crc ^= 0x04C11DB7
			}
		}
	}
	return crc
}

func (w *writer) sum(block []byte) {
	if w.checksum == 1 {
		w.crc = naiveCRC32BE(w.crc, block)
	}
}

func (w *writer) end() uint32 { return w.maxLen - w.fcBlocks }

// slot is the journal's block at a number of steps from the start.
func (w *writer) slot(at uint32) []byte {
	n := w.start + at
	for n >= w.end() {
		n -= w.end() - w.first
	}
	off := int(n) * w.blockSize
	return w.image[off : off+w.blockSize]
}

// record begins a new record.
func (w *writer) record(kind uint32) []byte {
	b := w.slot(w.at)
	w.order = append(w.order, w.at)
	w.at++
	clear(b)
	be.PutUint32(b, 0xC03B3998)
	be.PutUint32(b[4:], kind)
	be.PutUint32(b[8:], w.tid)
	return b
}

func (w *writer) seal(b []byte) {
	if w.checksum >= 2 {
		be.PutUint32(b[len(b)-4:], 0)
		be.PutUint32(b[len(b)-4:], naiveCRC32C(w.uuid, b))
	}
}

// log writes descriptors for the blocks, and the blocks.
func (w *writer) log(blocks []uint64, data [][]byte) {
	for len(blocks) > 0 {
		n := w.descriptor(blocks, data)
		blocks, data = blocks[n:], data[n:]
	}
}

func (w *writer) descriptor(blocks []uint64, data [][]byte) int {
	desc := w.record(1)
	room := w.blockSize
	if w.checksum >= 2 {
		room -= 4
	}
	size := map[int]int{0: 8, 1: 8, 2: 10, 3: 16}[w.checksum]
	if w.wide && w.checksum != 3 {
		size += 4
	}
	pos, n := 12, 0
	lastFlags := -1
	var stored [][]byte
	for n < len(blocks) && pos+size+16 <= room {
		flags := uint16(2)
		// The first tag has a UUID, as the kernel writes it.
		if n == 0 || w.uuids && w.rng.IntN(2) == 0 {
			flags = 0
		}
		if w.rng.IntN(8) == 0 {
			flags |= 4 // deleted: of no consequence
		}
		in := append([]byte(nil), data[n]...)
		if be.Uint32(in) == 0xC03B3998 {
			flags |= 1
			clear(in[:4])
		}
		t := desc[pos:]
		be.PutUint32(t, uint32(blocks[n]))
		be.PutUint16(t[6:], flags)
		if w.wide {
			be.PutUint32(t[8:], uint32(blocks[n]>>32))
		}
		seq := be.AppendUint32(append([]byte(nil), w.uuid...), w.tid)
		switch w.checksum {
		case 2:
			be.PutUint16(t[4:], uint16(naiveCRC32C(seq, in)))
		case 3:
			be.PutUint32(t[12:], naiveCRC32C(seq, in))
		}
		lastFlags = pos + 6
		pos += size
		if flags&2 == 0 {
			copy(desc[pos:], w.uuid)
			pos += 16
		}
		stored = append(stored, in)
		n++
	}
	be.PutUint16(desc[lastFlags:], be.Uint16(desc[lastFlags:])|8)
	w.seal(desc)
	w.sum(desc)
	for i, in := range stored {
		w.writes = append(w.writes, write{blocks[i], w.tid, w.at, data[i]})
		copy(w.slot(w.at), in)
		w.sum(in)
		w.at++
	}
	return n
}

func (w *writer) revoke(blocks ...uint64) {
	b := w.record(5)
	pos := 16
	for _, n := range blocks {
		if w.wide {
			be.PutUint64(b[pos:], n)
			pos += 8
		} else {
			be.PutUint32(b[pos:], uint32(n))
			pos += 4
		}
		w.revokes = append(w.revokes, struct {
			block uint64
			tid   uint32
		}{n, w.tid})
	}
	be.PutUint32(b[12:], uint32(pos))
	w.seal(b)
}

func (w *writer) commit() {
	w.commits = append(w.commits, w.at)
	w.tids = append(w.tids, w.tid)
	b := w.record(2)
	be.PutUint64(b[48:], w.time)
	switch w.checksum {
	case 1:
		b[12], b[13] = 1, 4
		be.PutUint32(b[16:], w.crc)
	case 2, 3:
		be.PutUint32(b[16:], naiveCRC32C(w.uuid, b))
	}
	w.crc = ^uint32(0)
	w.time++
	w.tid++
}

// replayed is the model's answer: what replaying the first n transactions
// writes.
func (w *writer) replayed(n int) map[uint64][]byte {
	out := map[uint64][]byte{}
	limit := w.sequence + uint32(n)
	for _, wr := range w.writes {
		if int32(wr.tid-limit) >= 0 {
			continue
		}
		keep := true
		for _, r := range w.revokes {
			if int32(r.tid-limit) < 0 && r.block == wr.block && int32(r.tid-wr.tid) >= 0 {
				keep = false
			}
		}
		if keep {
			out[wr.block] = wr.data
		}
	}
	return out
}

// fill writes random transactions until steps are used up, the last of them
// committed, and returns their number. Block numbers are below volume.
func (w *writer) fill(steps uint32, volume int, escapes bool) int {
	n := 0
	for {
		count := 1 + w.rng.IntN(12)
		if w.rng.IntN(6) == 0 {
			count += w.blockSize / 8 // several descriptors
		}
		if w.at+uint32(count)*2+8 > steps {
			return n
		}
		for range w.rng.IntN(3) {
			if w.rng.IntN(2) == 0 {
				w.revoke(w.someBlocks(1+w.rng.IntN(6), volume)...)
			}
			blocks := w.someBlocks(count/2+1, volume)
			data := make([][]byte, len(blocks))
			for i := range data {
				data[i] = randomBytes(w.rng, w.blockSize)
				if escapes && w.rng.IntN(3) == 0 {
					be.PutUint32(data[i], 0xC03B3998)
				}
			}
			w.log(blocks, data)
		}
		w.commit()
		n++
	}
}

func (w *writer) someBlocks(n, volume int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(w.rng.IntN(volume))
	}
	return out
}
