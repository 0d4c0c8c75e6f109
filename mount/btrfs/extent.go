package btrfs

import (
	"math"
)

// Layout of an extent item of a file:
//
//	 0  generation                   8
//	 8  bytes when decompressed      8
//	16  compression                  1   none, zlib, lzo, zstd
//	17  encryption                   1
//	18  other encoding               2
//	20  type                         1   inline, regular, preallocated
//	21  inline: the bytes; else the extent's logical address (0: a hole),
//	    its length there, where in it the file begins, and how much of it
//	    the file has                 8 each
const (
	extentHead = 21
	extentSize = extentHead + 32

	extentInline   = 0
	extentRegular  = 1
	extentPrealloc = 2

	// maxCompressed is how much Linux compresses at a time, and what the
	// result takes at most.
	maxCompressed = 128 << 10
)

type extentKind uint8

const (
	kindHole extentKind = iota
	kindPlain
	kindCompressed
	kindInline
)

// extent maps a range of a file.
type extent struct {
	kind       extentKind
	start, end uint64 // in the file
	// disk and diskLen are the extent's logical address and length, off where
	// in it (once decompressed) the byte at start is, ram its length then.
	disk, diskLen, off, ram uint64
	compression             uint8
	inline                  []byte
	inlineAt                uint64 // logical address of inline, 0 if it is in the log
}

// extent finds what a file has at off, and where that ends. A hole that nothing
// follows ends with the largest number.
func (t *tree) extent(obj, off uint64) (extent, error) {
	c, err := t.seekLast(key{obj, typeExtentData, off})
	if err != nil {
		return extent{}, err
	}
	hole := extent{end: math.MaxInt64}
	if c.at(obj, typeExtentData) && c.k.off <= off {
		e, err := t.v.decodeExtent(c.k, c.data)
		if err != nil {
			return extent{}, err
		}
		if off < e.end {
			if e.kind == kindInline {
				e.inlineAt = c.place()
				if e.inlineAt != 0 {
					e.inlineAt += extentHead
				}
			}
			return e, nil
		}
		hole.start = e.end
		if err := c.next(); err != nil {
			return extent{}, err
		}
	}
	if c.at(obj, typeExtentData) {
		hole.end = min(c.k.off, math.MaxInt64)
	}
	return hole, nil
}

func (v *volume) decodeExtent(k key, b []byte) (extent, error) {
	if len(b) < extentHead {
		return extent{}, corrupt("extent at %d: item of %d bytes", k.off, len(b))
	}
	e := extent{start: k.off, ram: le.Uint64(b[8:]), compression: b[16]}
	switch {
	case b[17] != 0 || le.Uint16(b[18:]) != 0:
		return extent{}, unsupported("extent at %d: encryption %d, encoding %d", k.off, b[17], le.Uint16(b[18:]))
	case int(b[16]) >= len(decompressors):
		return extent{}, unsupported("extent at %d: compression of type %d", k.off, b[16])
	}
	sector := uint64(v.super.sector)
	if b[20] == extentInline {
		e.kind, e.inline, e.end = kindInline, b[extentHead:], e.ram
		if k.off != 0 || e.ram > uint64(v.super.nodeSize) || e.compression == 0 && e.ram != uint64(len(e.inline)) {
			return extent{}, corrupt("extent at %d: %d inline bytes, %d when decompressed", k.off, len(e.inline), e.ram)
		}
		return e, nil
	}
	if b[20] > extentPrealloc || len(b) != extentSize {
		return extent{}, corrupt("extent at %d: type %d, item of %d bytes", k.off, b[20], len(b))
	}
	e.disk, e.diskLen, e.off = le.Uint64(b[21:]), le.Uint64(b[29:]), le.Uint64(b[37:])
	n := le.Uint64(b[45:])
	if n == 0 || n > math.MaxInt64-k.off || k.off > math.MaxInt64 || (k.off|n|e.disk|e.diskLen|e.off)%sector != 0 {
		return extent{}, corrupt("extent at %d: %d bytes from %d of %d at %d", k.off, n, e.off, e.diskLen, e.disk)
	}
	e.end = k.off + n
	switch room := e.diskLen; {
	case e.disk == 0 || b[20] == extentPrealloc:
		e.kind = kindHole
	default:
		e.kind = kindPlain
		if e.compression != 0 {
			e.kind, room = kindCompressed, e.ram
			if e.ram > maxCompressed || e.diskLen > maxCompressed {
				return extent{}, corrupt("extent at %d: %d bytes compressed to %d", k.off, e.ram, e.diskLen)
			}
		}
		if n > room || e.off > room-n || e.diskLen > math.MaxInt64 || e.disk > math.MaxInt64 {
			return extent{}, corrupt("extent at %d: %d bytes from %d of %d at %d", k.off, n, e.off, e.diskLen, e.disk)
		}
	}
	return e, nil
}
