package block

import (
	"fmt"
	"slices"
)

// Compression chooses how hard Encode tries. It is not part of the stored form:
// any reader opens what any level wrote.
type Compression uint8

const (
	// None stores the plain bytes.
	None Compression = iota
	// Fastest is zstd at its fastest level, what backups use.
	Fastest
	// Default is zstd at its default level: smaller, and slower to write.
	Default
)

func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Fastest:
		return "zstd-fastest"
	case Default:
		return "zstd"
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// Codecs: byte 0 of the stored form.
const (
	codecRaw  = 0
	codecZstd = 1
)

const headerLen = 4

// MaxEncodedLen is the room that Encode wants in dst for n plain bytes, though
// the stored form is never longer than 4 + n: zstd looks for its bound.
func MaxEncodedLen(n int) int { return headerLen + n + n>>8 + 64 }

// Encode appends the stored form of plain to dst and returns it. What does not
// shrink is stored raw. Nothing is allocated when dst has MaxEncodedLen to
// spare. The length of plain must be 1 … MaxSize: anything else is a bug in the
// caller, and panics. Versions and builds may differ in the bytes they give for
// the same plain bytes; a reader takes all of them.
func Encode(dst, plain []byte, c Compression) []byte {
	n := len(plain)
	if n < 1 || n > MaxSize {
		panic(fmt.Sprintf("block.Encode: %d plain bytes, must be 1 … %d", n, MaxSize))
	}
	start := len(dst)
	dst = slices.Grow(dst, MaxEncodedLen(n))
	dst = append(dst, codecZstd, byte(n), byte(n>>8), byte(n>>16))
	switch c {
	case None:
	case Fastest, Default:
		frame := compress(dst[len(dst):], plain, c)
		if len(frame) < n {
			return append(dst, frame...) // in place, as a rule
		}
	default:
		panic("block.Encode: " + c.String())
	}
	dst[start] = codecRaw
	return append(dst, plain...)
}

// PlainLen returns the plain length that a stored block's header states. The
// payload is not looked at.
func PlainLen(stored []byte) (int, error) {
	if len(stored) < headerLen {
		return 0, fmt.Errorf("%w: %d bytes, shorter than the header", ErrFormat, len(stored))
	}
	n := int(stored[1]) | int(stored[2])<<8 | int(stored[3])<<16
	if n < 1 || n > MaxSize {
		return 0, fmt.Errorf("%w: plain length %d, must be 1 … %d", ErrFormat, n, MaxSize)
	}
	return n, nil
}

// Decode appends the plain bytes of a stored block to dst and returns it. It
// makes room for as many bytes as the header states, MaxSize at most, whatever a
// hostile payload holds. On error (ErrFormat,
// ErrUnknownCodec) it returns nil.
func Decode(dst, stored []byte) ([]byte, error) {
	n, err := PlainLen(stored)
	if err != nil {
		return nil, err
	}
	payload := stored[headerLen:]
	switch stored[0] {
	case codecRaw:
		if len(payload) != n {
			return nil, fmt.Errorf("%w: %d raw bytes, header says %d", ErrFormat, len(payload), n)
		}
		return append(dst, payload...), nil
	case codecZstd:
		if err := checkFrame(payload, n); err != nil {
			return nil, err
		}
		start := len(dst)
		dst = slices.Grow(dst, n)[:start+n]
		got, err := decompress(dst[start:], payload)
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %v", ErrFormat, err)
		}
		if got != n {
			return nil, fmt.Errorf("%w: zstd gave %d bytes, header says %d", ErrFormat, got, n)
		}
		return dst, nil
	}
	return nil, fmt.Errorf("%w %d", ErrUnknownCodec, stored[0])
}

// Open decodes a stored block, appends its plain bytes to dst and returns it,
// provided that they have the digest want; otherwise the error is ErrDigest, or
// one of Decode's.
func Open(dst, stored []byte, want Digest) ([]byte, error) {
	start := len(dst)
	out, err := Decode(dst, stored)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", want, err)
	}
	if got := Sum(out[start:]); got != want {
		return nil, fmt.Errorf("block %s: %w: content has %s", want, ErrDigest, got)
	}
	return out, nil
}
