package block

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// Block sizes, in bytes of plain data.
const (
	MinSize     = 16 << 10
	DefaultSize = 64 << 10
	MaxSize     = 4 << 20
)

// ValidSize reports whether disks may be cut into blocks of n bytes.
func ValidSize(n int) error {
	if n < MinSize || n > MaxSize || n&(n-1) != 0 {
		return fmt.Errorf("block size %d: must be a power of two from %d to %d", n, MinSize, MaxSize)
	}
	return nil
}

// Errors of Decode and Open. Each matches ErrCorrupt too.
var (
	// ErrCorrupt marks every error that says stored bytes are not what they
	// should be, in this package and in those above it.
	ErrCorrupt = errors.New("corrupt block")
	// ErrFormat: the bytes are not a stored block.
	ErrFormat = fmt.Errorf("%w: malformed", ErrCorrupt)
	// ErrUnknownCodec: the first byte names a codec this version does not know.
	ErrUnknownCodec = fmt.Errorf("%w: unknown codec", ErrCorrupt)
	// ErrDigest: the plain bytes do not have the digest asked for.
	ErrDigest = fmt.Errorf("%w: digest mismatch", ErrCorrupt)
)

// Digest is the BLAKE3-256 of a block's plain bytes.
type Digest [32]byte

// Zero is the reserved digest: it stands for a block, or a whole subtree of a
// disk map, that is all zeros and therefore not stored. No block hashes to it.
var Zero Digest

// Sum returns the digest of plain bytes, also of zeros: replacing a block of
// zeros by Zero is the caller's choice.
func Sum(plain []byte) Digest { return blake3.Sum256(plain) }

// String returns the digest as 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what String writes; upper-case digits are accepted.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return Digest{}, fmt.Errorf("digest %.80q: %d characters, must be %d hexadecimal digits", s, len(s), 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

// DigestFromBytes copies a digest out of b, which must be 32 bytes long.
func DigestFromBytes(b []byte) (Digest, error) {
	var d Digest
	if len(b) != len(d) {
		return Digest{}, fmt.Errorf("digest of %d bytes, must be %d", len(b), len(d))
	}
	copy(d[:], b)
	return d, nil
}

// zeros fits into the first-level cache next to what it is compared with.
var zeros [8 << 10]byte

// IsZero reports whether every byte of p is zero. A block that is not is
// mostly recognised at its first byte or its last.
func IsZero(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if p[0]|p[len(p)-1]|p[len(p)/2] != 0 {
		return false
	}
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
