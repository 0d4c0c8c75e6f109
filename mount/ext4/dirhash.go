package ext4

import "math/bits"

// Hash functions of the directory index, as numbered in its root. The unsigned
// variants are chosen by a flag of the superblock, not by a number on disk.
const (
	hashLegacy  = 0
	hashHalfMD4 = 1
	hashTEA     = 2
	hashSip     = 6 // keyed, for encrypted directories that ignore case
)

// hasher computes name hashes of one directory.
type hasher struct {
	version  uint8
	unsigned bool
	seed     [4]uint32
}

// hasher gives the hash function for a directory whose root says version.
func (s *superblock) hasher(version uint8) hasher {
	h := hasher{version: version, unsigned: s.unsignedHash()}
	for i := range h.seed {
		h.seed[i] = s.u32(0xEC + 4*i)
	}
	if h.seed == [4]uint32{} {
		h.seed = [4]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476}
	}
	return h
}

// hash gives the major hash, by which the index is sorted, and the minor one.
// The lowest bit of the major hash is free: the index marks continued
// collisions with it. The highest value means "end".
func (h hasher) hash(name []byte) (major, minor uint32) {
	buf := h.seed
	switch h.version {
	case hashLegacy:
		major = h.legacy(name)
	case hashHalfMD4:
		for p := name; len(p) > 0; p = p[min(32, len(p)):] {
			var in [8]uint32
			h.words(in[:], p)
			halfMD4(&buf, &in)
		}
		major, minor = buf[1], buf[2]
	case hashTEA:
		for p := name; len(p) > 0; p = p[min(16, len(p)):] {
			var in [4]uint32
			h.words(in[:], p)
			tea(&buf, &in)
		}
		major, minor = buf[0], buf[1]
	}
	major &^= 1
	if major == 0xFFFFFFFE {
		major = 0xFFFFFFFC
	}
	return major, minor
}

// char widens a byte of a name as the C compiler that made the index did.
func (h hasher) char(b byte) uint32 {
	if h.unsigned {
		return uint32(b)
	}
	return uint32(int32(int8(b)))
}

// words packs the beginning of p into words, the first byte highest, and fills
// up with a pattern made of the length of p.
func (h hasher) words(words []uint32, p []byte) {
	pad := uint32(len(p)) | uint32(len(p))<<8
	pad |= pad << 16
	for i := range words {
		words[i] = pad
		for j := 4 * i; j < 4*i+4 && j < len(p); j++ {
			words[i] = words[i]<<8 + h.char(p[j])
		}
	}
}

func (h hasher) legacy(name []byte) uint32 {
	cur, prev := uint32(0x12A3FE2D), uint32(0x37ABE8F9)
	for _, b := range name {
		next := prev + (cur ^ h.char(b)*7152373)
		if next&0x80000000 != 0 {
			next -= 0x7FFFFFFF
		}
		prev, cur = cur, next
	}
	return cur << 1
}

// halfMD4 is MD4 with three rounds of eight steps.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	rounds := [...]struct {
		k     uint32
		order [8]int
		shift [4]int
		f     func(x, y, z uint32) uint32
	}{
		{0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19},
			func(x, y, z uint32) uint32 { return z ^ x&(y^z) }},
		{0x5A827999, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13},
			func(x, y, z uint32) uint32 { return x&y + (x^y)&z }},
		{0x6ED9EBA1, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15},
			func(x, y, z uint32) uint32 { return x ^ y ^ z }},
	}
	v := *buf
	for _, r := range rounds {
		for i, word := range r.order {
			t := bits.RotateLeft32(v[0]+r.f(v[1], v[2], v[3])+in[word]+r.k, r.shift[i%4])
			v = [4]uint32{v[3], t, v[1], v[2]}
		}
	}
	for i := range buf {
		buf[i] += v[i]
	}
}

// tea is the Tiny Encryption Algorithm with 16 cycles, used as a hash.
func tea(buf *[4]uint32, in *[4]uint32) {
	x, y, sum := buf[0], buf[1], uint32(0)
	for range 16 {
		sum += 0x9E3779B9
		x += (y<<4 + in[0]) ^ (y + sum) ^ (y>>5 + in[1])
		y += (x<<4 + in[2]) ^ (x + sum) ^ (x>>5 + in[3])
	}
	buf[0] += x
	buf[1] += y
}
