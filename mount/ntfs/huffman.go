package ntfs

const (
	huffBits    = 10 // of the table
	maxHuffBits = 16
)

// huffman decodes a canonical Huffman code: shorter codes first, and codes of one
// length in the order of their symbols. Codes of up to huffBits bits are looked
// up, longer ones are found by the range of their length.
type huffman struct {
	table  [1 << huffBits]uint16 // symbol<<4 | length; 0 for longer codes
	first  [maxHuffBits + 2]uint32
	count  [maxHuffBits + 1]uint32
	index  [maxHuffBits + 1]uint32
	sorted []uint16
}

// init builds the code from the lengths of its symbols' codes, 0 for those that
// do not occur. Codes may be missing: whoever meets them has corrupt data.
func (h *huffman) init(lengths []uint8) error {
	h.count = [maxHuffBits + 1]uint32{}
	for _, l := range lengths {
		h.count[l]++
	}
	h.count[0] = 0
	code, at := uint32(0), uint32(0)
	for l := 1; l <= maxHuffBits; l++ {
		code <<= 1
		h.first[l], h.index[l] = code, at
		code += h.count[l]
		at += h.count[l]
		if code > 1<<l {
			return corrupt("a Huffman code with too many codes of %d bits", l)
		}
	}
	if cap(h.sorted) < len(lengths) {
		h.sorted = make([]uint16, len(lengths))
	}
	h.sorted = h.sorted[:at]
	next := h.index
	clear(h.table[:])
	for sym, l := range lengths {
		if l == 0 {
			continue
		}
		place := next[l]
		next[l]++
		h.sorted[place] = uint16(sym)
		if l <= huffBits {
			from := (h.first[l] + place - h.index[l]) << (huffBits - l)
			for i := range uint32(1) << (huffBits - l) {
				h.table[from+i] = uint16(sym)<<4 | uint16(l)
			}
		}
	}
	return nil
}

// decode gives the symbol whose code the upper of 16 bits begin with, and its
// length; 0 if there is none.
func (h *huffman) decode(bits uint32) (sym, length uint32) {
	if e := h.table[bits>>(16-huffBits)]; e != 0 {
		return uint32(e >> 4), uint32(e & 15)
	}
	for l := uint32(huffBits + 1); l <= maxHuffBits; l++ {
		if i := bits>>(16-l) - h.first[l]; i < h.count[l] {
			return uint32(h.sorted[h.index[l]+i]), l
		}
	}
	return 0, 0
}

// copyMatch copies length bytes from distance before pos. They may overlap.
func copyMatch(dst []byte, pos, distance, length int) error {
	if distance > pos || distance <= 0 || length > len(dst)-pos {
		return corrupt("a reference to %d bytes, %d before byte %d of %d", length, distance, pos, len(dst))
	}
	if distance >= length {
		copy(dst[pos:pos+length], dst[pos-distance:])
		return nil
	}
	for i := pos; i < pos+length; i++ {
		dst[i] = dst[i-distance]
	}
	return nil
}
