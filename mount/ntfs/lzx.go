package ntfs

import "sync"

// LZX as WIM files and system compression have it: a window of 32 KiB, and
// chunks that stand on their own. The format is that of "[MS-PATCH]: LZX DELTA
// Compression and Decompression" and of the "LZX Data Compression Format" of the
// cabinet SDK, without their resets and with another way to tell a block's size;
// wimlib documents the differences.
const (
	lzxSlots      = 30
	lzxMainSyms   = 256 + 8*lzxSlots
	lzxLengthSyms = 249
	lzxPreSyms    = 20
	lzxBlock      = 32 << 10

	lzxVerbatim     = 1
	lzxAligned      = 2
	lzxUncompressed = 3
	// lzxCallSize is the size of the imaginary file in which the targets of
	// calls (x86's opcode E8) were made absolute.
	lzxCallSize = 12000000
)

// lzxBase and lzxExtra tell for each slot of distances its first and how many
// bits choose one of it.
var lzxBase, lzxExtra = func() (base [lzxSlots]int, extra [lzxSlots]uint32) {
	at := 0
	for i := range base {
		if i >= 4 {
			extra[i] = uint32(i/2 - 1)
		}
		base[i] = at
		at += 1 << extra[i]
	}
	return base, extra
}()

// lzxState is what unpacking one chunk takes.
type lzxState struct {
	src  []byte
	pos  int    // bytes taken into bits
	bits uint64 // the next ones in front
	n    uint   // how many there are
	over int    // words read behind the end

	recent                     [3]int // distances
	mainLens                   [lzxMainSyms]uint8
	lengthLens                 [lzxLengthSyms]uint8
	main, length, aligned, pre huffman
}

var lzxStates = sync.Pool{New: func() any { return new(lzxState) }}

// lzx decompresses src into dst, which it fills.
func lzx(dst, src []byte) error {
	z := lzxStates.Get().(*lzxState)
	defer func() {
		z.src = nil
		lzxStates.Put(z)
	}()
	z.src, z.pos, z.bits, z.n, z.over = src, 0, 0, 0, 0
	z.recent = [3]int{1, 1, 1}
	clear(z.mainLens[:])
	clear(z.lengthLens[:])
	for pos := 0; pos < len(dst); {
		kind := z.take(3)
		size := lzxBlock
		if z.take(1) == 0 {
			size = int(z.take(16))
		}
		if size == 0 || size > len(dst)-pos {
			return corrupt("an LZX block of %d bytes, where %d are left", size, len(dst)-pos)
		}
		var err error
		switch kind {
		case lzxVerbatim, lzxAligned:
			if err = z.readCodes(kind == lzxAligned); err == nil {
				err = z.block(dst[:pos+size], pos, kind == lzxAligned)
			}
		case lzxUncompressed:
			err = z.raw(dst[pos : pos+size])
		default:
			err = corrupt("an LZX block of kind %d", kind)
		}
		if err != nil {
			return err
		}
		pos += size
	}
	lzxCalls(dst)
	return nil
}

// fill makes sure of 32 bits. Behind the end there are zeros.
func (z *lzxState) fill() {
	for z.n < 32 {
		w := uint64(0)
		if z.pos+2 <= len(z.src) {
			w = uint64(le.Uint16(z.src[z.pos:]))
		} else {
			z.over++
		}
		z.pos += 2
		z.bits |= w << (48 - z.n)
		z.n += 16
	}
}

// take takes n ≤ 17 bits.
func (z *lzxState) take(n uint32) uint32 {
	z.fill()
	v := uint32(z.bits >> 32 >> (32 - n))
	z.bits <<= n
	z.n -= uint(n)
	return v
}

// symbol takes one symbol of a code.
func (z *lzxState) symbol(h *huffman) (uint32, error) {
	z.fill()
	sym, n := h.decode(uint32(z.bits >> 48))
	if n == 0 || z.over > 3 {
		return 0, corrupt("LZX data has no such code, or has ended")
	}
	z.bits <<= n
	z.n -= uint(n)
	return sym, nil
}

// readCodes reads the codes of a block.
func (z *lzxState) readCodes(aligned bool) error {
	if aligned {
		var lens [8]uint8
		for i := range lens {
			lens[i] = uint8(z.take(3))
		}
		if err := z.aligned.init(lens[:]); err != nil {
			return err
		}
	}
	for _, lens := range [...][]uint8{z.mainLens[:256], z.mainLens[256:], z.lengthLens[:]} {
		if err := z.readLengths(lens); err != nil {
			return err
		}
	}
	if err := z.main.init(z.mainLens[:]); err != nil {
		return err
	}
	return z.length.init(z.lengthLens[:])
}

// readLengths reads the lengths of codes, as differences to those of the block
// before in a code of its own, with runs of zeros and of equal lengths.
func (z *lzxState) readLengths(lens []uint8) error {
	var pre [lzxPreSyms]uint8
	for i := range pre {
		pre[i] = uint8(z.take(4))
	}
	if err := z.pre.init(pre[:]); err != nil {
		return err
	}
	for i := 0; i < len(lens); {
		sym, err := z.symbol(&z.pre)
		if err != nil {
			return err
		}
		n, same := 1, true
		switch sym {
		case 17:
			n, same = 4+int(z.take(4)), false
		case 18:
			n, same = 20+int(z.take(5)), false
		case 19:
			n = 4 + int(z.take(1))
			if sym, err = z.symbol(&z.pre); err != nil {
				return err
			}
			if sym > 16 {
				return corrupt("LZX data repeats length %d", sym)
			}
		}
		value := uint8(0)
		if same {
			value = uint8((uint32(lens[i]) + 17 - sym) % 17)
		}
		// Runs may go beyond the end.
		for ; n > 0 && i < len(lens); n-- {
			lens[i] = value
			i++
		}
	}
	return nil
}

// block unpacks dst from pos on.
func (z *lzxState) block(dst []byte, pos int, aligned bool) error {
	for pos < len(dst) {
		sym, err := z.symbol(&z.main)
		if err != nil {
			return err
		}
		if sym < 256 {
			dst[pos] = byte(sym)
			pos++
			continue
		}
		sym -= 256
		length, slot := int(sym&7), sym>>3
		if length == 7 {
			more, err := z.symbol(&z.length)
			if err != nil {
				return err
			}
			length += int(more)
		}
		length += 2
		var distance int
		if slot < 3 {
			distance = z.recent[slot]
			z.recent[slot] = z.recent[0]
			z.recent[0] = distance
		} else {
			distance = lzxBase[slot] - 2
			if extra := lzxExtra[slot]; aligned && extra >= 3 {
				distance += int(z.take(extra-3)) << 3
				low, err := z.symbol(&z.aligned)
				if err != nil {
					return err
				}
				distance += int(low)
			} else {
				distance += int(z.take(extra))
			}
			z.recent = [3]int{distance, z.recent[0], z.recent[1]}
		}
		if err := copyMatch(dst, pos, distance, length); err != nil {
			return err
		}
		pos += length
	}
	return nil
}

// raw copies an uncompressed block: it begins at the next 16-bit word that no
// bit was taken of, with the recent distances.
func (z *lzxState) raw(dst []byte) error {
	pos := (z.pos*8-int(z.n))/16*2 + 2
	if pos+12+len(dst) > len(z.src) {
		return corrupt("an uncompressed LZX block of %d bytes at %d of %d", len(dst), pos, len(z.src))
	}
	for i := range z.recent {
		z.recent[i] = int(le.Uint32(z.src[pos+4*i:]))
	}
	copy(dst, z.src[pos+12:])
	z.pos, z.bits, z.n = pos+12+(len(dst)+1)&^1, 0, 0
	return nil
}

// lzxCalls makes the targets of calls relative again.
func lzxCalls(p []byte) {
	for i := 0; i < len(p)-10; i++ {
		if p[i] != 0xE8 {
			continue
		}
		switch target := int32(le.Uint32(p[i+1:])); {
		case target >= 0 && target < lzxCallSize:
			le.PutUint32(p[i+1:], uint32(target-int32(i)))
		case target < 0 && target >= -int32(i):
			le.PutUint32(p[i+1:], uint32(target+lzxCallSize))
		}
		i += 4
	}
}
