//go:build !cgo

package block

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

var (
	fastest = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedFastest) })
	better  = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedDefault) })
)

func newEncoder(l zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(l),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithEncoderCRC(false), // a block's digest is checked anyway
		zstd.WithSingleSegment(true),
		zstd.WithLowerEncoderMem(true),
	)
	if err != nil {
		panic(err) // only wrong options
	}
	return e
}

// compress returns one zstd frame that holds plain, in the spare capacity of the
// empty dst if that is enough: MaxEncodedLen less the header.
func compress(dst, plain []byte, c Compression) []byte {
	if c == Default {
		return better().EncodeAll(plain, dst)
	}
	return fastest().EncodeAll(plain, dst)
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0), // one per GOMAXPROCS; more callers wait
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxSize),
		zstd.WithDecoderMaxWindow(MaxSize),
		zstd.WithDecodeAllCapLimit(true),
	)
	if err != nil {
		panic(err) // only wrong options
	}
	return d
})

// decompress decodes one zstd frame into dst, which has room for all of it, and
// returns how many bytes it holds.
func decompress(dst, frame []byte) (int, error) {
	out, err := decoder().DecodeAll(frame, dst[:0:len(dst)])
	return len(out), err
}
