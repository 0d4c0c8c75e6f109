package btrfs

// unpackLZO reads what Linux makes of LZO in an extent: the length of all in 4
// bytes, then segments, each with its length in 4 bytes, of one sector of data.
// The 4 bytes never cross the border of a sector; what is left before it is
// skipped.
func unpackLZO(dst, src []byte, sector int) error {
	if len(src) < 4 {
		return corrupt("lzo: %d bytes", len(src))
	}
	total := le.Uint32(src)
	if uint64(total) > uint64(len(src)) || total < 4 {
		return corrupt("lzo: %d bytes of %d", total, len(src))
	}
	src = src[:total]
	pos, done := 4, 0
	for pos < len(src) && done < len(dst) {
		if left := sector - pos%sector; left < 4 {
			pos += left
			continue
		}
		if len(src)-pos < 4 {
			return corrupt("lzo: %d bytes behind the last segment", len(src)-pos)
		}
		n := le.Uint32(src[pos:])
		pos += 4
		if uint64(n) > uint64(len(src)-pos) {
			return corrupt("lzo: a segment of %d bytes in %d", n, len(src)-pos)
		}
		out, err := lzo1x(dst[done:min(len(dst), done+sector)], src[pos:pos+int(n)])
		if err != nil {
			return err
		}
		pos, done = pos+int(n), done+out
	}
	clear(dst[done:])
	return nil
}

// lzo1x decodes one LZO1X stream into dst, and says how much it filled. The
// format is described in the kernel's documentation ("LZO stream format as
// understood by Linux' LZO decompressor"): instructions copy literals, or repeat
// what was written before; how the smallest ones are read depends on how many
// literals came last.
func lzo1x(dst, src []byte) (int, error) {
	bad := func(what string) (int, error) { return 0, corrupt("lzo: %s", what) }
	in, out := 0, 0
	// longer reads a length that did not fit its instruction.
	longer := func(n, base int) int {
		if n != 0 {
			return n
		}
		for n = base; in < len(src) && src[in] == 0; in++ {
			n += 255
		}
		if in == len(src) {
			return -1
		}
		n += int(src[in])
		in++
		return n
	}
	literals := func(n int) bool {
		if n > len(src)-in || n > len(dst)-out {
			return false
		}
		copy(dst[out:], src[in:in+n])
		in, out = in+n, out+n
		return true
	}
	state := 0 // literals copied last: 0 to 3, or 4 for more
	if len(src) > 0 && src[0] > 17 {
		n := int(src[0]) - 17
		in = 1
		if !literals(n) {
			return bad("too many literals")
		}
		state = min(n, 4)
	} else if len(src) > 0 && src[0] >= 16 {
		return bad("a stream of an unknown version")
	}
	for in < len(src) {
		op := int(src[in])
		in++
		var n, dist, next int
		switch {
		case op < 16 && state == 0:
			n = longer(op, 15)
			if n < 0 || !literals(n+3) {
				return bad("too many literals")
			}
			state = 4
			continue
		case op < 16 || op >= 64:
			if in == len(src) {
				return bad("it ends within an instruction")
			}
			high := int(src[in])
			in++
			next = op & 3
			switch {
			case op >= 64:
				n, dist = op>>5+1, high<<3+op>>2&7+1
			case state == 4:
				n, dist = 3, high<<2+op>>2+2049
			default:
				n, dist = 2, high<<2+op>>2+1
			}
		default:
			base, mask := 31, 31
			if op < 32 {
				base, mask = 7, 7
			}
			n = longer(op&mask, base)
			if n < 0 || len(src)-in < 2 {
				return bad("it ends within an instruction")
			}
			n += 2
			word := int(le.Uint16(src[in:]))
			in += 2
			next = word & 3
			if op >= 32 {
				dist = word>>2 + 1
			} else if dist = 16384 + op&8<<11 + word>>2; dist == 16384 {
				if in != len(src) {
					return bad("bytes behind its end")
				}
				return out, nil
			}
		}
		if dist > out || n > len(dst)-out {
			return bad("a repetition outside of the sector")
		}
		if dist >= n {
			copy(dst[out:out+n], dst[out-dist:])
			out += n
		} else {
			for range n { // it repeats what it writes
				dst[out] = dst[out-dist]
				out++
			}
		}
		if !literals(next) {
			return bad("too many literals")
		}
		state = next
	}
	return bad("it has no end")
}
