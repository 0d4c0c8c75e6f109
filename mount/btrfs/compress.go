package btrfs

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// decompressors by the compression of an extent item. They fill dst; what the
// stream does not have of it, behind the end of a file, becomes zeros. Behind
// the stream, src may have anything.
var decompressors = [...]func(dst, src []byte, sector int) error{
	1: inflate,
	2: unpackLZO,
	3: unpackZstd,
}

var inflaters sync.Pool

func inflate(dst, src []byte, _ int) error {
	r := bytes.NewReader(src)
	z, _ := inflaters.Get().(io.ReadCloser)
	var err error
	if z == nil {
		z, err = zlib.NewReader(r)
	} else {
		err = z.(zlib.Resetter).Reset(r, nil)
	}
	if err != nil {
		return corrupt("zlib: %v", err)
	}
	defer inflaters.Put(z)
	n := 0
	for n < len(dst) {
		m, err := z.Read(dst[n:])
		if n += m; err == io.EOF {
			break // of the stream, whose own checksum is right
		} else if err != nil {
			return corrupt("zlib: %v", err)
		}
	}
	clear(dst[n:])
	return nil
}

// unzstd decodes whole frames. It is made at first use, as it keeps goroutines'
// worth of state.
var unzstd = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(4<<20), zstd.WithDecodeAllCapLimit(true))
})

func unpackZstd(dst, src []byte, _ int) error {
	frame, err := zstdFrame(src)
	if err != nil {
		return err
	}
	d, err := unzstd()
	if err != nil {
		return wrap(err, "zstd")
	}
	out, err := d.DecodeAll(frame, dst[:0:len(dst)])
	if err != nil {
		return corrupt("zstd: %v", err)
	}
	clear(dst[len(out):])
	return nil
}

// zstdFrame cuts the first frame out of what lies in an extent (RFC 8878, 3.1).
func zstdFrame(b []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, corrupt("zstd: %v", err)
	}
	if h.Skippable {
		return nil, corrupt("zstd: a frame without data")
	}
	for end := h.HeaderSize; end+3 <= len(b); {
		head := uint32(b[end]) | uint32(b[end+1])<<8 | uint32(b[end+2])<<16
		size := int(head >> 3)
		if head>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		end += 3 + size
		if head&1 == 1 { // the last block
			if h.HasCheckSum {
				end += 4
			}
			if end > len(b) {
				break
			}
			return b[:end], nil
		}
	}
	return nil, corrupt("zstd: the frame is cut short")
}
