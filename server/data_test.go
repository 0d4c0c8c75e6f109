package server

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
)

func TestBackUpAndReadBack(t *testing.T) {
	w := dataWorld(t, Options{})
	vda := newTestDisk("vda", 4<<20+5000).fill(1, span(0, 30)...).fill(1, 40, 41, 53, 64)
	vdb := newTestDisk("vdb", 1<<40).fill(2, 7, 9_999_999)
	vdc := newTestDisk("vdc", 3<<20)
	p1 := w.backUp("", day, []*testDisk{vda, vdb, vdc}, nil)
	if got, want := p1.Disks[0].DataBytes, int64(33*blockSize+5000); got != want {
		t.Errorf("data bytes %d, want %d", got, want)
	}
	if p1.NewBytes != 36*blockSize || p1.StoredBytes >= p1.NewBytes || p1.StoredBytes == 0 {
		t.Errorf("new %d, stored %d", p1.NewBytes, p1.StoredBytes)
	}
	if !bytes.Equal(p1.Disks[2].RootDigest, block.Zero[:]) || p1.Disks[1].Size != 1<<40 || p1.Disks[1].SourceFormat != "raw" {
		t.Errorf("disks %v", p1.Disks)
	}
	if kept := p1.ExpireTime.AsTime().Sub(p1.CreateTime.AsTime()); kept > defaultRetention || kept < defaultRetention-defaultRetention/1000 || p1.RetentionRule != pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL {
		t.Errorf("kept until %v by %v", p1.ExpireTime.AsTime(), p1.RetentionRule)
	}
	if !validID(newPointName(t, p1.Name).Point) || p1.Etag == "" || p1.Uid == "" || p1.Machine != web1 || p1.MachineTitle != "web 1" ||
		string(p1.MachineDefinition) != "<domain/>" || p1.SnapshotTime.AsTime() != day ||
		p1.Consistency != pb.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT {
		t.Errorf("point %v", p1)
	}
	j := must[*pb.GetJobResponse](t)(w.jobs.GetJob(w.ctx, &pb.GetJobRequest{Name: p1.Job})).Job
	if j.State != pb.JobState_JOB_STATE_COMPLETED || j.RecoveryPoint != p1.Name || j.Stats.NewBytes != p1.NewBytes ||
		len(j.Tasks) != 2 || j.Tasks[1].State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.ChangedBlocks != 36 {
		t.Errorf("job %v", j)
	}
	w.checkDisk(p1, 0, vda)
	w.checkDisk(p1, 2, vdc)

	// The second backup changes, clears, grows and shrinks.
	a2, b2, c2 := vda.clone(), vdb.clone(), vdc.clone()
	a2.size = 5 << 20
	a2.fill(1, 64) // the block that the disk ended in is another now
	a2.fill(3, 5, 6, 7, 70)
	delete(a2.blocks, 20)
	b2.size = 1 << 30
	delete(b2.blocks, 9_999_999)
	c2.size = 1<<20 + 1
	p2 := w.backUp(p1.Name, day.AddDate(0, 0, 1), []*testDisk{a2, b2, c2}, []*testDisk{vda, vdb, vdc})
	if p2.NewBytes != 5*blockSize {
		t.Errorf("second point brought %d bytes", p2.NewBytes)
	}
	w.checkDisk(p2, 0, a2)
	w.checkDisk(p1, 0, vda)
	for _, r := range []*pb.ReadExtentsRequest{{}, {Offset: 5*blockSize + 1, Length: 10}, {Offset: 3, Length: 21 * blockSize}} {
		r.Name, r.Base, r.Disk = p2.Name, p1.Name, "vda"
		w.checkExtents(r, a2, vda)
	}
	w.checkExtents(&pb.ReadExtentsRequest{Name: p1.Name, Base: p2.Name, Disk: "vda"}, vda, a2)
	w.checkExtents(&pb.ReadExtentsRequest{Name: p2.Name, Base: p1.Name, Disk: "vdb"}, b2, vdb)
	w.checkExtents(&pb.ReadExtentsRequest{Name: p2.Name, Base: p2.Name, Disk: "vda"}, a2, a2)
	if ex, err := w.readExtents(&pb.ReadExtentsRequest{Name: p1.Name, Disk: "vdb"}); err != nil || len(ex) != 2 || ex[1].Offset != 9_999_999*blockSize {
		t.Errorf("extents of a disk of 1 TiB: %v, %v", ex, err)
	}

	// A base without that disk counts as zeros.
	p3 := w.backUp(p2.Name, day.AddDate(0, 0, 2), []*testDisk{{"vdx", 1 << 20, map[uint64][]byte{}}}, nil)
	w.checkExtents(&pb.ReadExtentsRequest{Name: p2.Name, Base: p3.Name, Disk: "vda"}, a2, newTestDisk("vda", 0))

	it := must[*pb.GetProtectedItemResponse](t)(w.items.GetProtectedItem(w.ctx, &pb.GetProtectedItemRequest{Name: item1})).ProtectedItem
	if it.LatestRecoveryPoint != p3.Name || it.RecoveryPointCount != 3 || it.LastBackupJob != p3.Job ||
		it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_PROTECTED || it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_HEALTHY {
		t.Errorf("item %v", it)
	}
	w.restart()
	w.checkDisk(p2, 0, a2)
	var names []string
	for token, first := "", true; first || token != ""; first = false {
		l := must[*pb.ListRecoveryPointsResponse](t)(w.points.ListRecoveryPoints(w.ctx, &pb.ListRecoveryPointsRequest{Parent: item1, PageSize: 2, PageToken: token}))
		for _, p := range l.RecoveryPoints {
			names = append(names, p.Name)
		}
		token = l.NextPageToken
	}
	if !slices.Equal(names, []string{p3.Name, p2.Name, p1.Name}) {
		t.Errorf("points %v", names)
	}
	if got := must[*pb.GetRecoveryPointResponse](t)(w.points.GetRecoveryPoint(w.ctx, &pb.GetRecoveryPointRequest{Name: p2.Name})).RecoveryPoint; !proto.Equal(got, p2) {
		t.Errorf("point read as\n%v, committed as\n%v", got, p2)
	}
}

func newPointName(t *testing.T, name string) PointName {
	t.Helper()
	var f fields
	n := f.point("name", name)
	if err := f.err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestResume breaks a stream in the middle, on the client's side, and goes on.
func TestResume(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 8<<20).fill(1, span(0, 128)...)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	ctx, cancel := context.WithCancel(w.ctx)
	stream, err := w.blocks.UploadBlocks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(100) {
		if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: up.UploadToken, Blocks: []*pb.Block{wireBlock(d.blocks[i])}}); err != nil {
			t.Fatal(err)
		}
	}
	ack, err := stream.Recv() // after a second at most
	if err != nil || ack.AcknowledgedBatches == 0 {
		t.Fatal(ack, err)
	}
	cancel()
	again := must[*pb.CreateUploadResponse](t)(w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, ResumeToken: up.UploadToken}))
	if again.UploadToken != up.UploadToken || again.Job != up.Job || again.BlockSize != blockSize {
		t.Errorf("resumed as %v, was %v", again, up)
	}
	sent := w.sendMissing(up.UploadToken, d, d.indexes())
	if sent.NewBlocks > 128-ack.AcknowledgedBatches {
		t.Errorf("%d blocks were new after %d were acknowledged", sent.NewBlocks, ack.AcknowledgedBatches)
	}
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
	p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	if p.NewBytes != 128*blockSize {
		t.Errorf("new bytes %d, want all", p.NewBytes)
	}
	w.checkBytes(p, d)
}

// TestRestartWithOpenUpload: the upload is gone, what was acknowledged is not.
func TestRestartWithOpenUpload(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 4<<20).fill(1, span(0, 64)...)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	w.sendMissing(up.UploadToken, d, span(0, 40))
	w.restart()
	_, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, ResumeToken: up.UploadToken})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
	j := must[*pb.GetJobResponse](t)(w.jobs.GetJob(w.ctx, &pb.GetJobRequest{Name: up.Job})).Job
	if j.State != pb.JobState_JOB_STATE_FAILED || j.Error.Reason != pb.ErrorReason_ERROR_REASON_INTERRUPTED {
		t.Errorf("job %v", j)
	}
	up = w.createUpload(&pb.CreateUploadRequest{}, d)
	if ack := w.sendMissing(up.UploadToken, d, d.indexes()); ack.NewBlocks != 24 {
		t.Errorf("%d blocks were new, want 24", ack.NewBlocks)
	}
}

// TestSameContentAtOnce backs up two machines with the same disk concurrently.
func TestSameContentAtOnce(t *testing.T) {
	w := dataWorld(t, inMemory())
	item2 := must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: host1 + "/machines/db1", Policy: daily},
	})).ProtectedItem.Name
	d := newTestDisk("vda", 8<<20).fill(1, span(0, 128)...)
	points := make(chan *pb.RecoveryPoint, 2)
	for _, item := range []string{item1, item2} {
		up := w.createUpload(&pb.CreateUploadRequest{Parent: item}, d)
		go func() {
			points <- nil // both are open
			w.sendMissing(up.UploadToken, d, d.indexes())
			must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil))
			points <- must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
		}()
	}
	total := int64(0)
	for range 4 {
		if p := <-points; p != nil {
			total += p.NewBytes
			w.checkBytes(p, d)
		}
	}
	if total != 128*blockSize {
		t.Errorf("%d bytes were new in both together, want %d", total, 128*blockSize)
	}
}

// TestLargestBlocks: with blocks of 4 MiB a batch is one of them, and a message
// of ReadDisk a part of one.
func TestLargestBlocks(t *testing.T) {
	w := newWorld(t, inMemory())
	must[*pb.CreateVaultResponse](t)(w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1", Vault: &pb.Vault{BlockSize: block.MaxSize}}))
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "daily"}))
	w.host("rack1", "", "web1")
	w.protect()
	disk := make([]byte, 3*block.MaxSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(disk)
	clear(disk[block.MaxSize : 2*block.MaxSize])
	size := int64(len(disk) - 1000)
	clear(disk[size:])
	up := w.createUpload(&pb.CreateUploadRequest{}, newTestDisk("vda", size))
	a, c := wireBlock(disk[:block.MaxSize]), wireBlock(disk[2*block.MaxSize:])
	_, err := w.sendBlocks(up.UploadToken, []*pb.Block{a, c})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE)
	must[*pb.UploadBlocksResponse](t)(w.sendBlocks(up.UploadToken, []*pb.Block{a}, []*pb.Block{c}))
	stream, err := w.blocks.WriteDiskMap(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&pb.WriteDiskMapRequest{
		Header: &pb.DiskMapHeader{UploadToken: up.UploadToken, Disk: "vda"},
		Runs:   []*pb.DiskMapRun{{Digests: slices.Concat(a.Digest, block.Zero[:], c.Digest)}},
	})
	must[*pb.WriteDiskMapResponse](t)(stream.CloseAndRecv())
	p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken})).RecoveryPoint
	for _, off := range []int64{0, 1<<20 + 1, size - 3} {
		for _, skip := range []bool{false, true} {
			got, _, err := w.readDisk(&pb.ReadDiskRequest{Name: p.Name, Disk: "vda", Offset: off, SkipZeros: skip}, size-off)
			if err != nil || !bytes.Equal(got, disk[off:size]) {
				t.Errorf("read from %d on: differs, %v", off, err)
			}
		}
	}
	if got, err := w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: p.Name, Digests: slices.Concat(a.Digest, c.Digest), Form: pb.BlockForm_BLOCK_FORM_STORED}); err != nil ||
		len(got) != 2 || !bytes.Equal(got[1], c.Stored) {
		t.Errorf("read blocks: %v", err)
	}
}
