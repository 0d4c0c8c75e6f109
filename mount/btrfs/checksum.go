package btrfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"
)

// sums is one of the four algorithms that a file system may be made with. The
// same one covers the superblock, tree blocks and the sectors of files.
type sums struct {
	name string
	size int // bytes of a stored checksum
	put  func(dst, p []byte)
}

// Numbers as in csum_type of the superblock.
var algorithms = [...]sums{
	{"crc32c", 4, func(dst, p []byte) { le.PutUint32(dst, crc32.Checksum(p, castagnoli)) }},
	{"xxhash64", 8, func(dst, p []byte) { le.PutUint64(dst, xxhash.Sum64(p)) }},
	{"sha256", sha256.Size, func(dst, p []byte) { s := sha256.Sum256(p); copy(dst, s[:]) }},
	{"blake2b", blake2b.Size256, func(dst, p []byte) { s := blake2b.Sum256(p); copy(dst, s[:]) }},
}

// maxSum is the size of the largest checksum; in headers all take that much.
const maxSum = 32

// ok says whether want is the checksum of p.
func (s *sums) ok(p, want []byte) bool {
	if s.size == 4 { // nearly all
		return crc32.Checksum(p, castagnoli) == binary.LittleEndian.Uint32(want)
	}
	var got [maxSum]byte
	s.put(got[:], p)
	return bytes.Equal(got[:s.size], want[:s.size])
}

// headerOK checks what begins with its own checksum: superblocks and nodes.
func (s *sums) headerOK(p []byte) bool { return s.ok(p[maxSum:], p) }
