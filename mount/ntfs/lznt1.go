package ntfs

// lznt1 decompresses src into dst, which it fills: LZNT1 as in section 2.5 of
// "[MS-XCA]: Xpress Compression Algorithm". Each chunk of 4096 bytes stands on
// its own: a 16-bit header with its compressed size and a flag that it is
// compressed at all, then groups of a byte of flags and eight tokens, literal
// bytes or 16-bit references to what stands before them in the chunk. How many
// of a reference's bits are the distance depends on the place in the chunk. What
// the chunks do not fill is zeros.
func lznt1(dst, src []byte) error {
	for len(dst) > 0 {
		if len(src) < 2 || src[0] == 0 && src[1] == 0 {
			break
		}
		header := le.Uint16(src)
		n := int(header&0xFFF) + 1
		if len(src) < 2+n {
			return corrupt("a chunk of %d bytes, where %d are left", n, len(src)-2)
		}
		chunk := src[2 : 2+n]
		src = src[2+n:]
		out := dst[:min(len(dst), lzChunk)]
		if header&0x8000 == 0 {
			clear(out[copy(out, chunk):])
		} else if err := lznt1Chunk(out, chunk); err != nil {
			return err
		}
		dst = dst[len(out):]
	}
	clear(dst)
	return nil
}

const lzChunk = 4096

// lznt1Chunk decompresses one chunk.
func lznt1Chunk(out, in []byte) error {
	pos := 0
	lengthBits, limit := uint(12), 16 // a distance has 16-lengthBits bits
	for i := 0; i < len(in); {
		flags := in[i]
		i++
		if flags == 0 && i+8 <= len(in) && pos+8 <= len(out) {
			copy(out[pos:pos+8], in[i:i+8])
			pos, i = pos+8, i+8
			continue
		}
		for range 8 {
			if i >= len(in) {
				break
			}
			if flags&1 == 0 {
				if pos == len(out) {
					return corrupt("a chunk of more than %d bytes", len(out))
				}
				out[pos] = in[i]
				pos, i, flags = pos+1, i+1, flags>>1
				continue
			}
			flags >>= 1
			if i+2 > len(in) {
				return corrupt("a chunk ends in the middle of a reference")
			}
			token := int(le.Uint16(in[i:]))
			i += 2
			for pos > limit {
				lengthBits, limit = lengthBits-1, limit*2
			}
			distance, length := token>>lengthBits+1, token&(1<<lengthBits-1)+3
			if distance > pos || length > len(out)-pos {
				return corrupt("a reference to %d bytes, %d before byte %d of a chunk", length, distance, pos)
			}
			if distance >= length {
				copy(out[pos:pos+length], out[pos-distance:])
			} else {
				for j := range length {
					out[pos+j] = out[pos+j-distance]
				}
			}
			pos += length
		}
	}
	clear(out[pos:])
	return nil
}
