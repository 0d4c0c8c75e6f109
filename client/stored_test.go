package client

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"cairn/blockstore/block"
	cairnv1 "cairn/proto/cairn/v1"
)

// TestStoredCodec compares what the codec makes of a message, in pieces of any
// size, whole or damaged or with fields of a later version, with what the
// protobuf library makes of it.
func TestStoredCodec(t *testing.T) {
	c := storedCodec{encoding.GetCodecV2("proto")}
	rapid.Check(t, func(t *rapid.T) {
		wire, err := proto.Marshal(&cairnv1.ReadBlocksResponse{
			Blocks: rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 0, 5).Draw(t, "blocks"),
		})
		if err != nil {
			t.Fatal(err)
		}
		switch rapid.IntRange(0, 4).Draw(t, "damage") {
		case 0:
			wire = wire[:rapid.IntRange(0, len(wire)).Draw(t, "cut")]
		case 1:
			if len(wire) > 0 {
				wire[rapid.IntRange(0, len(wire)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
		case 2:
			wire = protowire.AppendVarint(protowire.AppendTag(wire, 77, protowire.VarintType), 5)
		}
		var data mem.BufferSlice
		for p := range slices.Chunk(wire, rapid.IntRange(1, 100).Draw(t, "piece")) {
			data = append(data, mem.SliceBuffer(p))
		}
		var want cairnv1.ReadBlocksResponse
		wantErr := proto.Unmarshal(wire, &want)
		var got storedBlocks
		err = c.Unmarshal(data, &got)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, the library says %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if len(got.blocks) != len(want.Blocks) || int(got.left.Load()) != len(want.Blocks) {
			t.Fatalf("%d blocks, the library has %d", len(got.blocks), len(want.Blocks))
		}
		for i, b := range got.blocks {
			if !bytes.Equal(slices.Concat(b...), want.Blocks[i]) {
				t.Fatalf("block %d is another", i)
			}
		}
	})
}

// TestStoredBlockInPieces: a block that comes in pieces is opened, into memory
// that had something else in it, and refused if a byte of it is another.
func TestStoredBlockInPieces(t *testing.T) {
	plain := bytes.Repeat([]byte("0123456789abcdef"), 1024)
	stored := block.Encode(nil, plain, block.Fastest)
	for _, piece := range []int{1, 7, len(stored) - 1, len(stored)} {
		dst := bytes.Repeat([]byte{0xee}, len(plain))
		got, err := storedBlock(slices.Collect(slices.Chunk(stored, piece))).open(dst[:0], block.Sum(plain))
		if err != nil || !bytes.Equal(got, plain) || &got[0] != &dst[0] {
			t.Errorf("in pieces of %d: %v, in place: %t", piece, err, len(got) > 0 && &got[0] == &dst[0])
		}
	}
	if _, err := (storedBlock{stored[:9], stored[9:]}).open(nil, block.Sum([]byte("another"))); err == nil {
		t.Error("another block was taken")
	}
	if _, err := (storedBlock{}).open(nil, block.Sum(plain)); err == nil {
		t.Error("no bytes were taken for a block")
	}
}
