package server

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "cairn/proto/cairn/v1"
)

// TestCodec compares the codec's own ways with the protobuf library's.
func TestCodec(t *testing.T) {
	c := &codec{CodecV2: encoding.GetCodecV2("proto")}
	some := rapid.SliceOfN(rapid.Byte(), 0, 300)
	rapid.Check(t, func(t *rapid.T) {
		blocks := rapid.SliceOfN(some, 0, 4).Draw(t, "blocks")
		offset := rapid.Int64().Draw(t, "offset")
		for _, m := range []struct {
			sent any
			is   proto.Message
		}{
			{&pb.ReadBlocksResponse{Blocks: blocks}, &pb.ReadBlocksResponse{Blocks: blocks}},
			{toWire(blocks), &pb.ReadBlocksResponse{Blocks: blocks}},
			{&diskBytes{offset, blocks}, &pb.ReadDiskResponse{Offset: offset, Data: slices.Concat(blocks...)}},
			{&pb.FindMissingResponse{Missing: []uint32{7}}, &pb.FindMissingResponse{Missing: []uint32{7}}},
		} {
			got, err := c.Marshal(m.sent)
			if err != nil {
				t.Fatal(err)
			}
			if want, err := proto.Marshal(m.is); err != nil || !bytes.Equal(want, got.Materialize()) {
				t.Fatalf("%v became %x, want %x, %v", m.is, got.Materialize(), want, err)
			}
		}
		up := &pb.UploadBlocksRequest{UploadToken: rapid.String().Draw(t, "token")}
		for range rapid.IntRange(0, 4).Draw(t, "blocks") {
			up.Blocks = append(up.Blocks, &pb.Block{Digest: some.Draw(t, "digest"), Stored: some.Draw(t, "stored")})
		}
		wire, err := proto.Marshal(up)
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
		var pieces mem.BufferSlice
		for p := range slices.Chunk(wire, rapid.IntRange(1, 100).Draw(t, "piece")) {
			pieces = append(pieces, mem.SliceBuffer(p))
		}
		want := new(pb.UploadBlocksRequest)
		wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(wire, want)
		got := new(pb.UploadBlocksRequest)
		gotErr := c.Unmarshal(pieces, got)
		if _, wrong := c.wrong.LoadAndDelete(got); gotErr != nil || wrong != (wantErr != nil) {
			t.Fatalf("%x: wrong %v, library says %v", wire, wrong, wantErr)
		}
		if wantErr == nil && !proto.Equal(got, want) {
			t.Fatalf("%x became %v, want %v", wire, got, want)
		}
	})
}

func toWire(blocks [][]byte) wireBlocks {
	var out wireBlocks
	for _, b := range blocks {
		room := stored.Get(len(b))
		copy(*room, b)
		out = append(out, mem.NewBuffer(room, stored))
	}
	return out
}
