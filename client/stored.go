package client

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"cairn/blockstore/block"
	cairnv1 "cairn/proto/cairn/v1"
)

// The answers of ReadBlocks are decoded here instead of in the protobuf library,
// which would copy the bytes of every block twice and make new memory for them:
// a stored block is decompressed from where gRPC received it.

// tagBlocks is ReadBlocksResponse.blocks: number 1, with a length.
const tagBlocks = 1<<3 | 2

// storedBlocks is a ReadBlocksResponse as it was received.
type storedBlocks struct {
	blocks []storedBlock
	bufs   mem.BufferSlice // what blocks refer to
	left   atomic.Int32    // blocks that were not opened yet
}

// storedBlock is a stored block in pieces, since it comes in frames of 16 KiB.
type storedBlock [][]byte

// storedCodec is the ordinary codec, for storedBlocks as well.
type storedCodec struct{ encoding.CodecV2 }

func (c storedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*storedBlocks)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if blocks, err := splitBlocks(data); err == nil {
		data.Ref()
		m.blocks, m.bufs = blocks, data
		m.left.Store(int32(len(blocks)))
		return nil
	}
	// Something else stands in it, of a later version perhaps: the library knows
	// what to make of that.
	var resp cairnv1.ReadBlocksResponse
	if err := c.CodecV2.Unmarshal(data, &resp); err != nil {
		return err
	}
	for _, b := range resp.GetBlocks() {
		m.blocks = append(m.blocks, storedBlock{b})
	}
	m.left.Store(int32(len(m.blocks)))
	return nil
}

// opened says that one more block will not be looked at again.
func (m *storedBlocks) opened() {
	if m.left.Add(-1) == 0 {
		m.bufs.Free()
	}
}

var errUnusual = errors.New("unusual encoding")

// splitBlocks finds the blocks in an encoded ReadBlocksResponse that holds
// nothing else.
func splitBlocks(data mem.BufferSlice) ([]storedBlock, error) {
	in := pieces{left: data.Len()}
	for _, b := range data {
		in.bufs = append(in.bufs, b.ReadOnlyData())
	}
	var out []storedBlock
	for in.left > 0 {
		if tag, err := in.ReadByte(); err != nil || tag != tagBlocks {
			return nil, errUnusual
		}
		n, err := binary.ReadUvarint(&in)
		if err != nil || n > uint64(in.left) {
			return nil, errUnusual
		}
		out = append(out, in.take(int(n)))
	}
	return out, nil
}

// pieces is bytes in several buffers.
type pieces struct {
	bufs [][]byte
	left int // bytes in all of them
}

// ReadByte implements io.ByteReader.
func (p *pieces) ReadByte() (byte, error) {
	for len(p.bufs) > 0 && len(p.bufs[0]) == 0 {
		p.bufs = p.bufs[1:]
	}
	if p.left == 0 {
		return 0, errUnusual
	}
	b := p.bufs[0][0]
	p.bufs[0] = p.bufs[0][1:]
	p.left--
	return b, nil
}

// take cuts off n bytes, which must be there.
func (p *pieces) take(n int) (out [][]byte) {
	p.left -= n
	for n > 0 {
		k := min(n, len(p.bufs[0]))
		if k > 0 {
			out = append(out, p.bufs[0][:k:k])
		}
		if p.bufs[0] = p.bufs[0][k:]; len(p.bufs[0]) == 0 {
			p.bufs = p.bufs[1:]
		}
		n -= k
	}
	return out
}

// scratch is memory in which a block that came in pieces is put together.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// open decodes a stored block into dst and makes sure that it is the one asked
// for.
func (s storedBlock) open(dst []byte, want block.Digest) ([]byte, error) {
	if len(s) == 1 {
		return block.Open(dst, s[0], want)
	}
	p := scratch.Get().(*[]byte)
	defer scratch.Put(p)
	*p = (*p)[:0]
	for _, part := range s {
		*p = append(*p, part...)
	}
	return block.Open(dst, *p, want)
}
