package block

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
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

// MaxEncodedLen is the room that Encode needs at most for n plain bytes; with
// that much spare capacity in dst it does not allocate.
func MaxEncodedLen(n int) int {
	return headerLen + n + 18 + 3*(n/(128<<10)+1) // a zstd frame of raw zstd blocks
}

var (
	fastest = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedFastest) })
	better  = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedDefault) })
	decoder = sync.OnceValue(newDecoder)
)

func newEncoder(l zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(l),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true),
		zstd.WithLowerEncoderMem(true),
	)
	if err != nil {
		panic(err) // only wrong options
	}
	return e
}

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0), // one per GOMAXPROCS; more callers wait
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxSize),
		zstd.WithDecoderMaxWindow(MaxSize),
		zstd.WithDecodeAllCapLimit(true),
	)
	if err != nil {
		panic(err)
	}
	return d
}

// Encode appends the stored form of plain to dst and returns it. What does not
// shrink is stored raw. The length of plain must be 1 … MaxSize: anything else
// is a bug in the caller, and panics.
func Encode(dst, plain []byte, c Compression) []byte {
	n := len(plain)
	if n < 1 || n > MaxSize {
		panic(fmt.Sprintf("block.Encode: %d plain bytes, must be 1 … %d", n, MaxSize))
	}
	start := len(dst)
	header := [headerLen]byte{codecZstd, byte(n), byte(n >> 8), byte(n >> 16)}
	switch c {
	case None:
	case Fastest, Default:
		enc := fastest
		if c == Default {
			enc = better
		}
		dst = enc().EncodeAll(plain, append(dst, header[:]...))
		if len(dst)-start < headerLen+n {
			return dst
		}
		dst = dst[:start]
	default:
		panic("block.Encode: " + c.String())
	}
	header[0] = codecRaw
	return append(append(dst, header[:]...), plain...)
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
// grows dst by MaxSize at most, and only by as much as the header states. On
// error (ErrFormat, ErrUnknownCodec) it returns nil.
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
		dst = slices.Grow(dst, n)
		out, err := decoder().DecodeAll(payload, dst[:start:start+n])
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %v", ErrFormat, err)
		}
		if len(out)-start != n {
			return nil, fmt.Errorf("%w: zstd gave %d bytes, header says %d", ErrFormat, len(out)-start, n)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w %d", ErrUnknownCodec, stored[0])
}

// checkFrame makes sure that p is one zstd frame of n content bytes and nothing
// else. The decoder alone would take several frames, and skip some.
func checkFrame(p []byte, n int) error {
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return fmt.Errorf("%w: zstd frame header: %v", ErrFormat, err)
	}
	switch {
	case h.Skippable:
		return fmt.Errorf("%w: a skippable zstd frame", ErrFormat)
	case h.DictionaryID != 0:
		return fmt.Errorf("%w: zstd frame needs dictionary %d", ErrFormat, h.DictionaryID)
	case !h.HasFCS || h.FrameContentSize != uint64(n):
		return fmt.Errorf("%w: zstd content size %d (stated: %t), header says %d", ErrFormat, h.FrameContentSize, h.HasFCS, n)
	case !h.SingleSegment && h.WindowSize > MaxSize:
		return fmt.Errorf("%w: zstd window of %d bytes, at most %d allowed", ErrFormat, h.WindowSize, MaxSize)
	}
	const rleBlock = 1
	end := h.HeaderSize
	for last := false; !last; {
		if len(p)-end < 3 {
			return fmt.Errorf("%w: zstd frame is cut short", ErrFormat)
		}
		b := int(p[end]) | int(p[end+1])<<8 | int(p[end+2])<<16
		last = b&1 != 0
		size := b >> 3
		if b>>1&3 == rleBlock {
			size = 1
		}
		if end += 3; len(p)-end < size {
			return fmt.Errorf("%w: zstd frame is cut short", ErrFormat)
		}
		end += size
	}
	if h.HasCheckSum {
		end += 4
	}
	if end != len(p) {
		return fmt.Errorf("%w: payload of %d bytes, its zstd frame ends at %d", ErrFormat, len(p), end)
	}
	return nil
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
