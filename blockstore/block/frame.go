package block

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// maxZstdBlock is Block_Maximum_Size (RFC 8878, section 3.1.1.2.4). Decoders
// differ in whether they take an RLE block above it.
const maxZstdBlock = 128 << 10

// checkFrame makes sure that p is one zstd frame that states n content bytes,
// and nothing else (RFC 8878, section 3.1.1). The decoder alone would take
// several frames, skip some, and make room before it finds a size wrong.
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
	end, content := h.HeaderSize, 0
	for last := false; !last; {
		if len(p)-end < 3 {
			return fmt.Errorf("%w: zstd frame is cut short", ErrFormat)
		}
		b := int(p[end]) | int(p[end+1])<<8 | int(p[end+2])<<16
		last = b&1 != 0
		size := b >> 3
		if size > maxZstdBlock {
			return fmt.Errorf("%w: zstd block of %d bytes, at most %d allowed", ErrFormat, size, maxZstdBlock)
		}
		switch b >> 1 & 3 {
		case 0: // raw
			content += size
		case 1: // one byte, repeated
			content += size
			size = 1
		}
		if end += 3; len(p)-end < size {
			return fmt.Errorf("%w: zstd frame is cut short", ErrFormat)
		}
		end += size
	}
	if content > n {
		return fmt.Errorf("%w: zstd frame holds %d bytes at least, header says %d", ErrFormat, content, n)
	}
	if h.HasCheckSum {
		end += 4
	}
	if end != len(p) {
		return fmt.Errorf("%w: payload of %d bytes, its zstd frame ends at %d", ErrFormat, len(p), end)
	}
	return nil
}
