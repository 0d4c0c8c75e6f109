package xfslog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sector      = 512
	recordMagic = 0xFEEDBABE
	// maxRecord is the longest body of a record, in bytes.
	maxRecord = 256 << 10
	// cycleSectors is how many sectors' first words one header holds.
	cycleSectors = 64
	// maxInFlight is how many records the kernel writes at a time, and so how
	// many of the last ones may be incomplete after a crash.
	maxInFlight = 8

	// What of a header a checksum covers: on 32-bit x86 the structure ends
	// behind h_size, elsewhere it is padded to 8 bytes.
	headerCovered, headerCovered32 = 328, 324
	extendedCovered                = 260
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ring is the log as an array of sectors that is written around and around. All
// positions are sectors from its start.
type ring struct {
	r    io.ReaderAt
	off  int64  // of the log in r, bytes
	size uint32 // sectors
	g    *Geometry
}

func newRing(r io.ReaderAt, g *Geometry) (*ring, error) {
	n := g.LogSize / sector
	// The kernel's own minimum is 512 blocks, its maximum 2 GiB.
	if n < 64 || n > 1<<23 {
		return nil, corrupt("superblock: a log of %d bytes", g.LogSize)
	}
	return &ring{r: r, off: g.LogOffset, size: uint32(n), g: g}, nil
}

// read fills p, whole sectors, from position at on, and goes on at the start
// behind the end.
func (r *ring) read(p []byte, at uint32) error {
	for len(p) > 0 {
		n := min(len(p), int(r.size-at)*sector)
		if got, err := r.r.ReadAt(p[:n], r.off+int64(at)*sector); got < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read the log at sector %d: %w", at, err)
		}
		p, at = p[n:], 0
	}
	return nil
}

// add moves a position forward, sub backward, by at most the size of the log.
func (r *ring) add(at, n uint32) uint32 { return uint32((uint64(at) + uint64(n)) % uint64(r.size)) }
func (r *ring) sub(at, n uint32) uint32 {
	return uint32((uint64(at) + uint64(r.size) - uint64(n)) % uint64(r.size))
}

// distance is how far from is before to.
func (r *ring) distance(from, to uint32) uint32 { return r.sub(to, from) }

// cycle is the number of the round in which a sector was written. Cycle zero:
// never.
func cycle(p []byte) uint32 {
	if c := be.Uint32(p); c != recordMagic {
		return c
	}
	return be.Uint32(p[4:])
}

func (r *ring) cycleAt(at uint32) (uint32, error) {
	var p [sector]byte
	if err := r.read(p[:], at); err != nil {
		return 0, err
	}
	return cycle(p[:]), nil
}

// header is the start of a record.
type header struct {
	at             uint32 // position
	cycle, version uint32
	len            uint32 // body in bytes
	lsn, tail      lsn
	crc            uint32
	ops            uint32
	format         uint32
	uuid           [16]byte
	sectors        uint32 // of all headers of the record
	buffer         uint32 // bytes that the kernel wrote at most at a time
}

// lsn is a position in the log with its cycle: cycle<<32 | sector.
type lsn uint64

func (l lsn) cycle() uint32  { return uint32(l >> 32) }
func (l lsn) sector() uint32 { return uint32(l) }
func (l lsn) String() string { return fmt.Sprintf("%d:%d", l.cycle(), l.sector()) }

// parseHeader reads the header in p, a sector that begins with the magic number.
// A header that contradicts itself is corrupt.
func (r *ring) parseHeader(p []byte, at uint32) (header, error) {
	h := header{
		at: at, cycle: be.Uint32(p[4:]), version: be.Uint32(p[8:]), len: be.Uint32(p[12:]),
		lsn: lsn(be.Uint64(p[16:])), tail: lsn(be.Uint64(p[24:])),
		crc: binary.LittleEndian.Uint32(p[32:]), ops: be.Uint32(p[40:]), format: be.Uint32(p[300:]),
		sectors: 1, buffer: cycleSectors * sector,
	}
	copy(h.uuid[:], p[304:])
	size := be.Uint32(p[320:])
	switch {
	case h.version != 1 && h.version != 2:
		return h, corrupt("log record at sector %d: version %d", at, h.version)
	case h.version == 2 && size > cycleSectors*sector:
		// Longer records have further headers.
		if size > maxRecord {
			return h, corrupt("log record at sector %d: buffers of %d bytes", at, size)
		}
		h.buffer = size
		h.sectors = (size + cycleSectors*sector - 1) / (cycleSectors * sector)
	}
	most := h.sectors * cycleSectors * sector
	if h.ops == 1 {
		// The unmount record that mkfs.xfs leaves is padded to the stripe unit
		// and its header may name a smaller size.
		most = maxRecord
	}
	switch {
	case h.len == 0 || h.len > most:
		return h, corrupt("log record at sector %d: %d bytes with %d headers", at, h.len, h.sectors)
	case h.bodySectors()+h.sectors > r.size:
		return h, corrupt("log record at sector %d: longer than the log", at)
	}
	return h, nil
}

func (h *header) bodySectors() uint32 { return (h.len + sector - 1) / sector }

// end is the position behind the record.
func (r *ring) end(h *header) uint32 { return r.add(h.at, h.sectors+h.bodySectors()) }

// headerAt reads the header at a position where there must be one.
func (r *ring) headerAt(at uint32) (header, error) {
	var p [sector]byte
	if err := r.read(p[:], at); err != nil {
		return header{}, err
	}
	if be.Uint32(p[:]) != recordMagic {
		return header{}, corrupt("log: no record at sector %d", at)
	}
	return r.parseHeader(p[:], at)
}

// byteOrder is that of the machine that wrote the record: what is in the log is
// its kernel's memory.
func (h *header) byteOrder() (binary.ByteOrder, error) {
	switch h.format {
	case 1:
		return binary.LittleEndian, nil
	case 2:
		return binary.BigEndian, nil
	}
	return nil, unsupported("log record at sector %d in the format of machine %d", h.at, h.format)
}

// body reads a record's headers and body into buf, which it grows if need be,
// and gives the two parts. With verify it says whether the checksum holds, if
// there is one. The words that stand in for cycles are put back.
func (r *ring) body(h *header, buf []byte, verify bool) (body []byte, ok bool, out []byte, err error) {
	n := int(h.sectors+h.bodySectors()) * sector
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if err := r.read(buf, h.at); err != nil {
		return nil, false, buf, err
	}
	heads, body := buf[:h.sectors*sector], buf[h.sectors*sector:]
	ok = !verify || r.checksumHolds(h, heads, body[:h.len])
	for i := range min(h.bodySectors(), h.sectors*cycleSectors) {
		// The first header has them behind its own fields, the others behind
		// their cycle.
		from := 44 + 4*i
		if i >= cycleSectors {
			from = i/cycleSectors*sector + 4 + i%cycleSectors*4
		}
		copy(body[i*sector:i*sector+4], heads[from:from+4])
	}
	return body[:h.len], ok, buf, nil
}

// checksumHolds: mkfs writes records without a checksum, and so did old kernels.
func (r *ring) checksumHolds(h *header, heads, body []byte) bool {
	return h.crc == 0 || checksum(h, heads, body, headerCovered) == h.crc || checksum(h, heads, body, headerCovered32) == h.crc
}

func checksum(h *header, heads, body []byte, covered int) uint32 {
	var first [headerCovered]byte
	copy(first[:], heads[:covered])
	clear(first[32:36])
	sum := crc32.Update(0, castagnoli, first[:covered])
	if h.version == 2 {
		for i := uint32(1); i < h.sectors && i*cycleSectors*sector < h.len; i++ {
			sum = crc32.Update(sum, castagnoli, heads[i*sector:i*sector+extendedCovered])
		}
	}
	return crc32.Update(sum, castagnoli, body)
}

// lastHeader finds the last record that begins before position before, at most
// limit sectors back.
func (r *ring) lastHeader(before, limit uint32) (h header, found bool, err error) {
	buf := make([]byte, 64<<10)
	for limit > 0 {
		n := min(limit, uint32(len(buf)/sector))
		start := r.sub(before, n)
		if err := r.read(buf[:n*sector], start); err != nil {
			return h, false, err
		}
		for i := n; i > 0; i-- {
			p := buf[(i-1)*sector:]
			if be.Uint32(p) == recordMagic {
				h, err = r.parseHeader(p[:sector], r.add(start, i-1))
				return h, true, err
			}
		}
		before, limit = start, limit-n
	}
	return h, false, nil
}

// nextHeader finds the first record that begins at position at or behind it, at
// most limit sectors on.
func (r *ring) nextHeader(at, limit uint32) (pos uint32, found bool, err error) {
	buf := make([]byte, 64<<10)
	for limit > 0 {
		n := min(limit, uint32(len(buf)/sector))
		if err := r.read(buf[:n*sector], at); err != nil {
			return 0, false, err
		}
		for i := range n {
			if be.Uint32(buf[i*sector:]) == recordMagic {
				return r.add(at, i), true, nil
			}
		}
		at, limit = r.add(at, n), limit-n
	}
	return 0, false, nil
}
