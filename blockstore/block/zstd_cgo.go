//go:build cgo

package block

import (
	"sync"

	"github.com/DataDog/zstd"
)

// contexts are the reference implementation's, in C: on two cores that both
// compress, its level 1 makes a backup a third shorter than the Go encoder does,
// and it decodes half as fast again. Stored blocks may come from anyone: its
// decoder is made for that, gets frames only that checkFrame took, writes only
// into the room it is given, and what it gives is believed by its digest alone.
var contexts = sync.Pool{New: func() any { return zstd.NewCtx() }}

// compress returns one zstd frame that holds plain, in the spare capacity of the
// empty dst if that is enough: MaxEncodedLen less the header.
func compress(dst, plain []byte, c Compression) []byte {
	level := 1
	if c == Default {
		level = 3
	}
	ctx := contexts.Get().(zstd.Ctx)
	defer contexts.Put(ctx)
	frame, err := ctx.CompressLevel(dst, plain, level)
	if err != nil {
		panic("block.Encode: " + err.Error()) // dst too small, or no memory
	}
	return frame
}

// decompress decodes one zstd frame into dst, which has room for all of it, and
// returns how many bytes it holds.
func decompress(dst, frame []byte) (int, error) {
	ctx := contexts.Get().(zstd.Ctx)
	defer contexts.Put(ctx)
	return ctx.DecompressInto(dst, frame)
}
