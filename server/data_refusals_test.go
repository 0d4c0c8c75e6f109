package server

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
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
	wantField(t, err, "blocks.digest")
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
		"runs.first_block": runs(&pb.DiskMapRun{FirstBlock: -1, Digests: have}),
		"runs.zero_blocks": runs(&pb.DiskMapRun{ZeroBlocks: -1}),
		"runs":             runs(&pb.DiskMapRun{FirstBlock: 3}),
		"runs ":            runs(&pb.DiskMapRun{ZeroBlocks: 1, Digests: have}),
		"header":           write(&pb.WriteDiskMapRequest{}),
		"header ":          write(),
		"header  ":         write(&pb.WriteDiskMapRequest{Header: head}, &pb.WriteDiskMapRequest{Header: head}),
		"upload_token":     write(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{Disk: "vda"}}),
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
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: d.size, Length: 1}), "offset")
	wantField(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: 1, Length: 1<<63 - 1}), "offset")
	wantError(t, disk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vdb"}), codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND)
	wantError(t, disk(&pb.ReadDiskRequest{Name: item1 + "/recoveryPoints/p1", Disk: "vda"}), codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	_, err := w.readExtents(&pb.ReadExtentsRequest{Name: p.Name, Disk: "vda", Base: strings.Replace(p.Name, "v1", "v2", 1)})
	wantField(t, err, "base")
	_, err = w.points.Restore(w.ctx, &pb.RestoreRequest{Name: p.Name})
	if info := wantError(t, err, codes.Unimplemented, pb.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED); info.Metadata["method"] != "cairn.v1.RecoveryPointService/Restore" {
		t.Errorf("metadata %v", info.Metadata)
	}
}

func TestDeleteAndExtend(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", blockSize).fill(1, 0)
	old := w.backUp("", day, []*testDisk{d}, nil)
	p := w.backUp(old.Name, day.Add(time.Hour), []*testDisk{d}, nil)
	newest := w.backUp(p.Name, day.Add(2*time.Hour), []*testDisk{d}, nil)
	if p.NewBytes != 0 || newest.StoredBytes != 0 {
		t.Errorf("the same again took %d and %d bytes", p.NewBytes, newest.StoredBytes)
	}
	del := func(r *pb.DeleteRecoveryPointRequest) error {
		_, err := w.points.DeleteRecoveryPoint(w.ctx, r)
		return err
	}
	wantField(t, del(&pb.DeleteRecoveryPointRequest{Name: "x"}), "name")
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: newest.Name}), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_NEWEST_RECOVERY_POINT)
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: p.Name, Etag: "x"}), codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)

	until := p.ExpireTime.AsTime().Add(time.Hour)
	extend := func(at time.Time, etag string) (*pb.ExtendRecoveryPointResponse, error) {
		return w.points.ExtendRecoveryPoint(w.ctx, &pb.ExtendRecoveryPointRequest{Name: p.Name, RetainUntil: timestamppb.New(at), Etag: etag})
	}
	_, err := extend(until.Add(-2*time.Hour), "")
	wantField(t, err, "retain_until")
	_, err = extend(until.AddDate(100, 0, 0), "")
	wantField(t, err, "retain_until")
	e := must[*pb.ExtendRecoveryPointResponse](t)(extend(until, p.Etag)).RecoveryPoint
	if e.ExpireTime.AsTime() != until || e.RetentionRule != pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL || e.Etag == p.Etag {
		t.Errorf("extended to %v", e)
	}
	_, err = extend(until, p.Etag)
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)
	if got := must[*pb.GetRecoveryPointResponse](t)(w.points.GetRecoveryPoint(w.ctx, &pb.GetRecoveryPointRequest{Name: p.Name})).RecoveryPoint; !proto.Equal(got, e) {
		t.Errorf("read %v, extended %v", got, e)
	}

	lease := must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name, Holder: "mount on web"}))
	info := wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: p.Name}), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE)
	if info.Metadata["holders"] != "mount on web" {
		t.Errorf("metadata %v", info.Metadata)
	}
	renewed := must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name, LeaseId: lease.LeaseId, Duration: durationpb.New(time.Hour)}))
	if renewed.LeaseId != lease.LeaseId || !renewed.ExpireTime.AsTime().After(lease.ExpireTime.AsTime()) {
		t.Errorf("lease %v, renewed %v", lease, renewed)
	}
	release := &pb.ReleaseRecoveryPointRequest{Name: p.Name, LeaseId: lease.LeaseId}
	must[*pb.ReleaseRecoveryPointResponse](t)(w.points.ReleaseRecoveryPoint(w.ctx, release))
	_, err = w.points.ReleaseRecoveryPoint(w.ctx, release)
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)
	_, err = w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name, LeaseId: lease.LeaseId})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)

	if err := del(&pb.DeleteRecoveryPointRequest{Name: p.Name, Etag: e.Etag}); err != nil {
		t.Fatal(err)
	}
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: p.Name}), codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	_, err = w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	if n := len(w.s.data.leases.byPoint); n != 0 {
		t.Errorf("%d points are leased in the end", n)
	}
	w.checkBytes(newest, d)
	it := must[*pb.GetProtectedItemResponse](t)(w.items.GetProtectedItem(w.ctx, &pb.GetProtectedItemRequest{Name: item1})).ProtectedItem
	if it.RecoveryPointCount != 2 {
		t.Errorf("%d points are counted, want 2", it.RecoveryPointCount)
	}

	must[*pb.UpdateVaultResponse](t)(w.vaults.UpdateVault(w.ctx, &pb.UpdateVaultRequest{
		Vault:      &pb.Vault{Name: vault, Immutability: pb.Immutability_IMMUTABILITY_UNLOCKED},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"immutability"}},
	}))
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: old.Name}), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
}

// TestPointLeaseRunsOut: with the server's time moved on.
func TestPointLeaseRunsOut(t *testing.T) {
	now := day
	l := newPointLeases(func() time.Time { return now }, strings.NewReader(strings.Repeat("0123456789", 3)))
	n := PointName{ItemName{VaultName{"s", "v"}, "i"}, "p"}
	id, expires, err := l.take(n, "", "me", time.Minute)
	if err != nil || expires != now.Add(time.Minute) {
		t.Fatal(id, expires, err)
	}
	if _, err := l.closePoint(n); err == nil {
		t.Error("closed while leased")
	}
	now = expires
	reopen, err := l.closePoint(n)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.take(n, "", "me", time.Minute); err == nil {
		t.Error("leased while it is deleted")
	}
	if _, err := l.closePoint(n); err == nil {
		t.Error("closed twice")
	}
	reopen()
	if _, _, err := l.take(n, id, "me", time.Minute); err == nil {
		t.Error("renewed after it ran out")
	}
	if len(l.byPoint) != 0 || l.count != 0 {
		t.Errorf("left: %v, %d", l.byPoint, l.count)
	}
}

// damage flips a byte of what is stored somewhere in the vault's tables.
func (w *world) damage(needle []byte) {
	w.t.Helper()
	done := false
	err := filepath.WalkDir(w.opts.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || done || !strings.HasSuffix(path, ".sst") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		i := bytes.Index(b, needle)
		if i < 0 {
			return nil
		}
		b[i+10] ^= 0x40
		done = true
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || !done {
		w.t.Fatalf("block not found in the vault's tables: %v", err)
	}
}

// TestDamagedVault flips a byte in a table and reads in all ways.
func TestDamagedVault(t *testing.T) {
	w := dataWorld(t, Options{})
	d := newTestDisk("vda", 4<<20)
	for i := range uint64(64) {
		if i%3 != 0 { // blocks that shrink may share what Pebble checks as a whole
			d.fill(1, i)
		}
	}
	p1 := w.backUp("", day, []*testDisk{d}, nil)
	d2 := d.clone().fill(2, 50)
	p2 := w.backUp(p1.Name, day.Add(time.Hour), []*testDisk{d2}, []*testDisk{d})
	w.stop()
	w.damage(d.blocks[50][1000:1100]) // of p1 only
	w.start()
	bad := block.Sum(d.blocks[50])
	check := func(err error) {
		t.Helper()
		info := wantError(t, err, codes.DataLoss, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT)
		if m := info.Metadata; m["recovery_point"] != p1.Name || m["digest"] != bad.String() || m["block_id"] == "" {
			t.Errorf("metadata %v", m)
		}
	}
	var all []block.Digest
	indexes := d.indexes()
	at := slices.Index(indexes, 50)
	for _, i := range indexes {
		all = append(all, block.Sum(d.blocks[i]))
	}
	for _, form := range []pb.BlockForm{pb.BlockForm_BLOCK_FORM_PLAIN, pb.BlockForm_BLOCK_FORM_STORED} {
		got, err := w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: p1.Name, Digests: flatten(all...), Form: form})
		check(err)
		for i, b := range got {
			if form == pb.BlockForm_BLOCK_FORM_PLAIN && !bytes.Equal(b, d.blocks[indexes[i]]) {
				t.Errorf("block %d, sent before the bad one, is wrong", i)
			}
		}
		if len(got) > at {
			t.Errorf("%d blocks sent, the bad one is at %d", len(got), at)
		}
		_, err = w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: p1.Name, Digests: bad[:], Form: form})
		check(err)
	}
	got, sent, err := w.readDisk(&pb.ReadDiskRequest{Name: p1.Name, Disk: "vda"}, d.size)
	check(err)
	if sent > 50*blockSize || !bytes.Equal(got[:sent], d.bytes()[:sent]) {
		t.Errorf("%d bytes sent before the bad block", sent)
	}
	w.checkBytes(p2, d2)

	verify := func(p *pb.RecoveryPoint, id string) *pb.Job {
		r := &pb.VerifyRequest{Name: p.Name, RequestId: id}
		j := must[*pb.VerifyResponse](t)(w.points.Verify(w.ctx, r)).Job
		if again := must[*pb.VerifyResponse](t)(w.points.Verify(w.ctx, r)).Job; again.Name != j.Name {
			t.Errorf("the same request made %s and %s", j.Name, again.Name)
		}
		if j.Operation != pb.JobOperation_JOB_OPERATION_VERIFY || j.RecoveryPoint != p.Name || len(j.Tasks) != 1 || j.Tasks[0].Title != "Verify data" {
			t.Errorf("job %v", j)
		}
		return w.waitJob(j.Name)
	}
	if j := verify(p2, "2"); j.State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.BadBlocks != 0 || j.Stats.ReadBytes < 42*blockSize || j.Tasks[0].DoneBytes != j.Tasks[0].TotalBytes {
		t.Errorf("verification of a sound point: %v", j)
	}
	j := verify(p1, "1")
	if j.State != pb.JobState_JOB_STATE_FAILED || j.Stats.BadBlocks != 1 || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_DATA_CORRUPT ||
		!strings.Contains(j.Error.Message, bad.String()) || j.Error.Metadata["recovery_points"] != p1.Name || j.Error.Metadata["digest"] != bad.String() {
		t.Errorf("verification of a damaged point: %v", j)
	}
	_, err = w.points.Verify(w.ctx, &pb.VerifyRequest{Name: p1.Name + "x"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)

	// A damaged map page is named as well.
	w.stop()
	w.damage(mapPage(d)[32:96]) // two digests next to each other
	w.start()
	_, err = w.readExtents(&pb.ReadExtentsRequest{Name: p1.Name, Disk: "vda"})
	wantError(t, err, codes.DataLoss, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT)
	_, _, err = w.readDisk(&pb.ReadDiskRequest{Name: p1.Name, Disk: "vda"}, d.size)
	wantError(t, err, codes.DataLoss, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT)
	if j := verify(p1, "3"); j.State != pb.JobState_JOB_STATE_FAILED {
		t.Errorf("verification with a damaged map: %v", j)
	}
}

// mapPage is the only page of a small disk's map.
func mapPage(d *testDisk) []byte {
	p := make([]byte, diskmap.PageSize)
	for i, b := range d.blocks {
		digest := block.Sum(b)
		copy(p[i*32:], digest[:])
	}
	return p
}

// TestDrain: an open upload may finish while the server stops, another is
// abandoned, new ones are refused.
func TestDrainUploads(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", blockSize).fill(1, 0)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	w.sendMissing(up.UploadToken, d, d.indexes())
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() { w.s.DrainUploads(ctx); close(done) }()
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
	p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	<-done
	_, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}}})
	wantError(t, err, codes.Unavailable, pb.ErrorReason_ERROR_REASON_INTERRUPTED)
	jobs := must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault})).Jobs
	if e := jobs[0].Error; e.GetReason() != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job of the refused upload: %v", jobs[0])
	}
	cancel()
	w.restart()
	w.checkBytes(p, d)

	up = w.createUpload(&pb.CreateUploadRequest{}, d)
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: up.UploadToken}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // the stream is open
		t.Fatal(err)
	}
	w.s.DrainUploads(ctx)
	for err == nil {
		_, err = stream.Recv()
	}
	wantError(t, err, codes.Unavailable, pb.ErrorReason_ERROR_REASON_INTERRUPTED)
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_FAILED || j.Error.Reason != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job %v", j)
	}
}

// TestVerifyCancelled: a verification that is cancelled ends as such.
func TestVerifyCancelled(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20).fill(1, span(0, 16)...)
	p := w.backUp("", day, []*testDisk{d}, nil)
	n := newPointName(t, p.Name)
	v, release, err := w.s.vaults.use(n.VaultName)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	run, err := w.s.jobs.Begin(job.Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY, RecoveryPoint: p.Name, Tasks: []string{"Verify data"}})
	if err != nil {
		t.Fatal(err)
	}
	must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: run.Name()}))
	run.Finish(w.s.verifyPoint(run, v, n, p, n.storeID()))
	if j := w.waitJob(run.Name()); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job %v", j)
	}
	if len(w.s.data.leases.byPoint) != 0 {
		t.Error("the verification's lease is left")
	}
}

// tightFS says how much space is free.
type tightFS struct {
	vfs.FS
	free *atomic.Uint64
}

func (fs tightFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: fs.free.Load(), TotalBytes: 1 << 40}, nil
}

// TestUploadToFullDisk: an upload to a full disk fails and goes on when there is space.
func TestUploadToFullDisk(t *testing.T) {
	fs := tightFS{vfs.NewMem(), new(atomic.Uint64)}
	fs.free.Store(1 << 40)
	w := dataWorld(t, Options{FS: fs, Dir: "data"})
	d := newTestDisk("vda", 1<<20).fill(1, span(0, 16)...)
	p := w.backUp("", day, []*testDisk{d}, nil)
	d2 := d.clone().fill(2, 3)
	up := w.createUpload(&pb.CreateUploadRequest{}, d2)
	fs.free.Store(100 << 20) // enough for the catalog
	_, err := w.sendBlocks(up.UploadToken, []*pb.Block{wireBlock(d2.blocks[3])})
	wantError(t, err, codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_STORE_FULL)
	w.checkBytes(p, d)
	fs.free.Store(1 << 40)
	w.sendMissing(up.UploadToken, d2, d2.indexes())
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d2, nil))
	p2 := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	w.checkBytes(p2, d2)
}
