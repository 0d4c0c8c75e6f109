package server

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
)

func TestCreateUploadRefusals(t *testing.T) {
	w := dataWorld(t, inMemory())
	disks := []*pb.UploadDisk{{Target: "vda", Size: 1}}
	create := func(r *pb.CreateUploadRequest) error {
		_, err := w.blocks.CreateUpload(w.ctx, r)
		return err
	}
	for field, r := range map[string]*pb.CreateUploadRequest{
		"parent":               {Parent: "web1", Disks: disks},
		"disks":                {Parent: item1},
		"disks[1].target":      {Parent: item1, Disks: []*pb.UploadDisk{disks[0], disks[0]}},
		"disks[0].size":        {Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda", Size: -1}}},
		"lease_duration":       {Parent: item1, Disks: disks, LeaseDuration: durationpb.New(2 * time.Hour)},
		"lease_token":          {Parent: item1, Disks: disks, Job: vault + "/jobs/j1"},
		"job":                  {Parent: item1, Disks: disks, LeaseToken: "x"},
		"base_recovery_point":  {Parent: item1, Disks: disks, BaseRecoveryPoint: vault + "/protectedItems/db1/recoveryPoints/p1"},
		"base_recovery_point ": {Parent: item1, Disks: disks, BaseRecoveryPoint: "p1"},
	} {
		t.Run(field, func(t *testing.T) { wantField(t, create(r), strings.TrimSpace(field)) })
	}
	for reason, r := range map[pb.ErrorReason]*pb.CreateUploadRequest{
		pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND:          {Parent: sub + "/vaults/v2/protectedItems/web1", Disks: disks},
		pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND: {Parent: vault + "/protectedItems/web2", Disks: disks},
		pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND: {Parent: item1, Disks: disks, BaseRecoveryPoint: item1 + "/recoveryPoints/p1"},
		pb.ErrorReason_ERROR_REASON_JOB_NOT_FOUND:            {Parent: item1, Disks: disks, Job: vault + "/jobs/j1", LeaseToken: "x"},
	} {
		wantError(t, create(r), codes.NotFound, reason)
	}
	// None of these left a job behind that has not ended.
	up := w.createUpload(&pb.CreateUploadRequest{}, newTestDisk("vda", 1))
	err := create(&pb.CreateUploadRequest{Parent: item1, Disks: disks, Job: up.Job, LeaseToken: "x"})
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST)
	err = create(&pb.CreateUploadRequest{Parent: vault + "/protectedItems/other", ResumeToken: up.UploadToken})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
	if r := must[*pb.RenewUploadResponse](t)(w.blocks.RenewUpload(w.ctx, &pb.RenewUploadRequest{UploadToken: up.UploadToken})); r.LeaseExpireTime.AsTime().Before(up.LeaseExpireTime.AsTime()) {
		t.Errorf("renewed until %v, was %v", r.LeaseExpireTime.AsTime(), up.LeaseExpireTime.AsTime())
	}
}

func TestUploadBlocksRefusals(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 64<<20).fill(1, span(0, 40)...)
	good := []*pb.Block{wireBlock(d.blocks[0])}
	edit := func(i uint64, f func(*pb.Block)) []*pb.Block {
		b := wireBlock(d.blocks[i])
		f(b)
		return append(slices.Clone(good), b)
	}
	zeros := make([]byte, blockSize)
	page := bytes.Repeat([]byte{1}, diskmap.PageSize)
	var big, many []*pb.Block
	for i := range uint64(40) {
		if i%3 != 0 {
			big = append(big, wireBlock(d.blocks[i]), wireBlock(d.blocks[i]))
		}
	}
	for range 4097 {
		many = append(many, &pb.Block{Digest: block.Zero[:], Stored: []byte{0}})
	}
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	for name, c := range map[string]struct {
		batch  []*pb.Block
		reason pb.ErrorReason
		index  string
	}{
		"digest":    {edit(1, func(b *pb.Block) { b.Digest = wireBlock(d.blocks[2]).Digest }), pb.ErrorReason_ERROR_REASON_DIGEST_MISMATCH, "1"},
		"bytes":     {edit(2, func(b *pb.Block) { b.Stored[777] ^= 4 }), pb.ErrorReason_ERROR_REASON_DIGEST_MISMATCH, "1"},
		"cut short": {edit(3, func(b *pb.Block) { b.Stored = b.Stored[:100] }), pb.ErrorReason_ERROR_REASON_MALFORMED_BLOCK, "1"},
		"empty":     {edit(3, func(b *pb.Block) { b.Stored = nil }), pb.ErrorReason_ERROR_REASON_MALFORMED_BLOCK, "1"},
		"codec":     {edit(1, func(b *pb.Block) { b.Stored[0] = 7 }), pb.ErrorReason_ERROR_REASON_MALFORMED_BLOCK, "1"},
		"length":    {append(slices.Clone(good), wireBlock(d.blocks[1][:blockSize/2])), pb.ErrorReason_ERROR_REASON_WRONG_BLOCK_LENGTH, "1"},
		"page":      {[]*pb.Block{wireBlock(page)}, pb.ErrorReason_ERROR_REASON_WRONG_BLOCK_LENGTH, "0"},
		"zeros":     {[]*pb.Block{wireBlock(zeros)}, pb.ErrorReason_ERROR_REASON_ZERO_BLOCK, "0"},
		"zero name": {[]*pb.Block{{Digest: block.Zero[:], Stored: wireBlock(d.blocks[1]).Stored}}, pb.ErrorReason_ERROR_REASON_ZERO_BLOCK, "0"},
		"big":       {big, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE, ""},
		"many":      {many, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE, ""},
		"huge":      {[]*pb.Block{{Digest: block.Zero[:], Stored: make([]byte, maxMessage-1000)}}, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ack, err := w.sendBlocks(up.UploadToken, good, c.batch, good)
			info := wantError(t, err, codes.InvalidArgument, c.reason)
			if ack.AcknowledgedBatches != 1 {
				t.Errorf("%d batches acknowledged before it, want 1", ack.AcknowledgedBatches)
			}
			if c.index != "" && (info.Metadata["batch"] != "1" || info.Metadata["index"] != c.index || len(info.Metadata["claimed_digest"]) != 64) {
				t.Errorf("metadata %v", info.Metadata)
			}
			if a := info.Metadata["actual_digest"]; (a != "") != (c.reason == pb.ErrorReason_ERROR_REASON_DIGEST_MISMATCH) {
				t.Errorf("actual digest %q", a)
			}
		})
	}
	_, err := w.sendBlocks(up.UploadToken, []*pb.Block{{Digest: []byte{1}, Stored: good[0].Stored}})
	wantField(t, err, "blocks[0].digest")
	_, err = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: up.UploadToken, Digests: make([]byte, 4097*32)})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE)
	_, err = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: up.UploadToken, Digests: make([]byte, 33)})
	wantField(t, err, "digests")
	_, err = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: up.UploadToken, Digests: make([]byte, 32)})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_ZERO_BLOCK)
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{up.UploadToken, "", "other"} {
		_ = stream.Send(&pb.UploadBlocksRequest{UploadToken: token, Blocks: good})
	}
	for err == nil {
		_, err = stream.Recv()
	}
	wantField(t, err, "upload_token")
	// The whole upload is none the worse for it.
	w.sendMissing(up.UploadToken, d, d.indexes())
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
	must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken}))
}

func TestWriteDiskMapRefusals(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 100*blockSize-1).fill(1, 1)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	w.sendMissing(up.UploadToken, d, d.indexes())
	have := flatten(block.Sum(d.blocks[1]))
	head := &pb.DiskMapHeader{UploadToken: up.UploadToken, Disk: "vda"}
	write := func(rs ...*pb.WriteDiskMapRequest) error {
		stream, err := w.blocks.WriteDiskMap(w.ctx)
		if err != nil {
			return err
		}
		for _, r := range rs {
			_ = stream.Send(r) // the answer has the reason
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	runs := func(rs ...*pb.DiskMapRun) error { return write(&pb.WriteDiskMapRequest{Header: head, Runs: rs}) }
	for name, err := range map[string]error{
		"runs[0].first_block": runs(&pb.DiskMapRun{FirstBlock: -1, Digests: have}),
		"runs[0].zero_blocks": runs(&pb.DiskMapRun{ZeroBlocks: -1}),
		"runs[0]":             runs(&pb.DiskMapRun{FirstBlock: 3}),
		"runs[0] ":            runs(&pb.DiskMapRun{ZeroBlocks: 1, Digests: have}),
		"header":              write(&pb.WriteDiskMapRequest{}),
		"header ":             write(),
		"header  ":            write(&pb.WriteDiskMapRequest{Header: head}, &pb.WriteDiskMapRequest{Header: head}),
		"header.upload_token": write(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{Disk: "vda"}}),
	} {
		t.Run(name, func(t *testing.T) { wantField(t, err, strings.TrimSpace(name)) })
	}
	for name, err := range map[string]error{
		"behind":     runs(&pb.DiskMapRun{FirstBlock: 100, Digests: have}),
		"over":       runs(&pb.DiskMapRun{FirstBlock: 99, ZeroBlocks: 2}),
		"descending": runs(&pb.DiskMapRun{FirstBlock: 5, Digests: have}, &pb.DiskMapRun{FirstBlock: 4, Digests: have}),
		"overlap":    runs(&pb.DiskMapRun{FirstBlock: 5, ZeroBlocks: 3}, &pb.DiskMapRun{FirstBlock: 7, Digests: have}),
		"half":       runs(&pb.DiskMapRun{FirstBlock: 5, Digests: have[:31]}),
		"no base":    write(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: up.UploadToken, Disk: "vda", OverBase: true}}),
	} {
		t.Run(name, func(t *testing.T) {
			if info := wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID); info.Metadata["disk"] != "vda" {
				t.Errorf("metadata %v", info.Metadata)
			}
		})
	}
	wantError(t, runs(&pb.DiskMapRun{Digests: make([]byte, 32*65537)}), codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE)
	err := write(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: up.UploadToken, Disk: "vdz"}})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND)
	lost := block.Sum([]byte("never sent"))
	err = runs(&pb.DiskMapRun{FirstBlock: 5, Digests: append(slices.Clone(have), lost[:]...)})
	info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BLOCK_MISSING)
	if m := info.Metadata; m["disk"] != "vda" || m["block"] != "6" || m["digest"] != lost.String() {
		t.Errorf("metadata %v", m)
	}
	_, err = w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID)
}

func TestReadRefusals(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 3*blockSize+5).fill(1, 1)
	p := w.backUp("", day, []*testDisk{d}, nil)
	have, lost := block.Sum(d.blocks[1]), block.Sum([]byte("never sent"))
	read := func(point string, ds []byte) error {
		_, err := w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: point, Digests: ds})
		return err
	}
	wantField(t, read("p", nil), "recovery_point")
	wantField(t, read(p.Name, have[:31]), "digests")
	wantError(t, read(p.Name, bytes.Repeat([]byte{1}, 4097*32)), codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE)
	wantError(t, read(p.Name, flatten(have, block.Zero)), codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_ZERO_BLOCK)
	wantError(t, read(item1+"/recoveryPoints/p1", have[:]), codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	info := wantError(t, read(p.Name, flatten(have, lost)), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BLOCK_MISSING)
	if info.Metadata["digest"] != lost.String() || info.Metadata["recovery_point"] != p.Name {
		t.Errorf("metadata %v", info.Metadata)
	}
	disk := func(r *pb.ReadDiskRequest) error {
		_, _, err := w.readDisk(r, 0)
		_, err2 := w.readExtents(&pb.ReadExtentsRequest{Name: r.Name, Disk: r.Disk, Offset: r.Offset, Length: r.Length})
		if (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Errorf("ReadDisk says %v, ReadExtents %v", err, err2)
		}
		return err
	}
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name}), "disk")
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: -1}), "offset")
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Length: -1}), "length")
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: d.size + 1}), "offset")
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: d.size, Length: 1}), "length")
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: 1, Length: 1<<63 - 1}), "length")
	wantError(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vdb"}), codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND)
	wantError(t, disk(&pb.ReadDiskRequest{Name: item1 + "/recoveryPoints/p1", Disk: "vda"}), codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	_, err := w.readExtents(&pb.ReadExtentsRequest{Name: p.Name, Disk: "vda", Base: strings.Replace(p.Name, "v1", "v2", 1)})
	wantField(t, err, "base")
}
