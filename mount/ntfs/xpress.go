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
	// Behind the end there are zeros, but not many.
	words := func(in int) uint32 {
		if in+2 > len(src) {
			return 0
		}
		return uint32(le.Uint16(src[in:]))
	}
	next, in := words(0)<<16|words(2), 4
	extra := 16 // bits of next beyond 16
	for pos := 0; pos < len(dst); {
		sym, n := uint32(0), uint32(h.table[next>>(32-huffBits)])
		if n != 0 {
			sym, n = n>>4, n&15
		} else if sym, n = h.decode(next >> 16); n == 0 {
			return corrupt("byte %d of a chunk has no code", pos)
		}
		next <<= n
		if extra -= int(n); extra < 0 {
			if in > len(src)+2 {
				return corrupt("a chunk ends at byte %d of %d", pos, len(dst))
			}
			next |= words(in) << -extra
			in, extra = in+2, extra+16
		}
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
		next <<= distBits
		if extra -= int(distBits); extra < 0 {
			next |= words(in) << -extra
			in, extra = in+2, extra+16
		}
		if err := copyMatch(dst, pos, distance, length); err != nil {
			return err
		}
		pos += length
	}
	return nil
}
