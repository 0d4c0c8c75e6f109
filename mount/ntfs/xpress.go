package ntfs

import "sync"

const (
	xpressSymbols = 512
	xpressTable   = xpressSymbols / 2
)

var huffmans = sync.Pool{New: func() any { return new(huffman) }}

// xpress decompresses src into dst, which it fills: the variant of Xpress with
// Huffman codes, section 2.2 of "[MS-XCA]: Xpress Compression Algorithm". The
// lengths of the codes of 512 symbols come first, four bits each. Symbols below
// 256 are bytes; the others say how many bits a distance has (upper half) and
// how long the match is (lower half, more bytes follow for 15). Bits are read
// from 16-bit words, of which one more than needed has always been read when a
// byte is.
func xpress(dst, src []byte) error {
	if len(src) < xpressTable {
		return corrupt("a chunk of %d bytes", len(src))
	}
	var lengths [xpressSymbols]uint8
	for i, b := range src[:xpressTable] {
		lengths[2*i], lengths[2*i+1] = b&15, b>>4
	}
	h := huffmans.Get().(*huffman)
	defer huffmans.Put(h)
	if err := h.init(lengths[:]); err != nil {
		return err
	}
	src = src[xpressTable:]
	in, missing := 0, 0
	word := func() uint32 {
		if in+2 > len(src) {
			missing++
			return 0
		}
		in += 2
		return uint32(le.Uint16(src[in-2:]))
	}
	next := word() << 16
	next |= word()
	extra := 16 // bits of next beyond 16
	take := func(n uint32) {
		next <<= n
		if extra -= int(n); extra < 0 {
			next |= word() << -extra
			extra += 16
		}
	}
	for pos := 0; pos < len(dst); {
		sym, n := h.decode(next >> 16)
		if n == 0 || missing > 2 {
			return corrupt("byte %d of a chunk has no code", pos)
		}
		take(n)
		if sym < 256 {
			dst[pos] = byte(sym)
			pos++
			continue
		}
		length, distBits := int(sym&15), sym>>4&15
		if length == 15 {
			if in >= len(src) {
				return corrupt("a chunk ends in the middle of a reference")
			}
			more := int(src[in])
			in++
			length += more
			if more == 255 {
				if in+2 > len(src) {
					return corrupt("a chunk ends in the middle of a reference")
				}
				length = int(le.Uint16(src[in:]))
				in += 2
				if length == 0 {
					if in+4 > len(src) {
						return corrupt("a chunk ends in the middle of a reference")
					}
					length = int(le.Uint32(src[in:]))
					in += 4
				}
				if length < 15 {
					return corrupt("a reference of %d bytes in long form", length)
				}
			}
		}
		length += 3
		distance := 1<<distBits | int(uint64(next)>>(32-distBits))
		take(distBits)
		if err := copyMatch(dst, pos, distance, length); err != nil {
			return err
		}
		pos += length
	}
	return nil
}
