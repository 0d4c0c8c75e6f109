package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
)

const blockSize = block.DefaultSize

// testDisk is what a disk holds: blocks that are not zeros, padded to whole
// blocks.
type testDisk struct {
	target string
	size   int64
	blocks map[uint64][]byte
}

func newTestDisk(target string, size int64) *testDisk {
	return &testDisk{target, size, map[uint64][]byte{}}
}

// fill gives blocks content that depends on seed; every third shrinks. What lies
// behind the end of the disk is zeros.
func (d *testDisk) fill(seed uint64, indexes ...uint64) *testDisk {
	for _, i := range indexes {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed)
		binary.LittleEndian.PutUint64(key[8:], i+1)
		p := make([]byte, blockSize)
		if i%3 == 0 {
			_, _ = rand.NewChaCha8(key).Read(p[:1000])
		} else {
			_, _ = rand.NewChaCha8(key).Read(p)
		}
		if end := d.size - int64(i)*blockSize; end < blockSize {
			clear(p[end:])
		}
		d.blocks[i] = p
	}
	return d
}

func (d *testDisk) clone() *testDisk { return &testDisk{d.target, d.size, maps.Clone(d.blocks)} }

func (d *testDisk) bytes() []byte {
	p := make([]byte, d.size)
	for i, b := range d.blocks {
		copy(p[i*blockSize:], b)
	}
	return p
}

func (d *testDisk) indexes() []uint64 { return slices.Sorted(maps.Keys(d.blocks)) }

func span(from, to uint64) (is []uint64) {
	for i := from; i < to; i++ {
		is = append(is, i)
	}
	return is
}

func wireBlock(plain []byte) *pb.Block {
	d := block.Sum(plain)
	return &pb.Block{Digest: d[:], Stored: block.Encode(nil, plain, block.Fastest)}
}

func flatten(ds ...block.Digest) []byte {
	var b []byte
	for _, d := range ds {
		b = append(b, d[:]...)
	}
	return b
}

// createUpload opens an upload of disks for item web1.
func (w *world) createUpload(r *pb.CreateUploadRequest, disks ...*testDisk) *pb.CreateUploadResponse {
	w.t.Helper()
	if r.Parent == "" {
		r.Parent = item1
	}
	for _, d := range disks {
		r.Disks = append(r.Disks, &pb.UploadDisk{Target: d.target, Size: d.size, SourceFormat: "raw"})
	}
	return must[*pb.CreateUploadResponse](w.t)(w.blocks.CreateUpload(w.ctx, r))
}

// sendBlocks sends batches and returns the last acknowledgement.
func (w *world) sendBlocks(token string, batches ...[]*pb.Block) (*pb.UploadBlocksResponse, error) {
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range batches {
		if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: token, Blocks: b}); err != nil {
			break // Recv has the reason
		}
	}
	_ = stream.CloseSend()
	last := new(pb.UploadBlocksResponse)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last = r
	}
}

// sendMissing asks what is missing of some blocks of a disk and sends it.
func (w *world) sendMissing(token string, d *testDisk, indexes []uint64) *pb.UploadBlocksResponse {
	w.t.Helper()
	var ask []byte
	for _, i := range indexes {
		ask = append(ask, flatten(block.Sum(d.blocks[i]))...)
	}
	miss := must[*pb.FindMissingResponse](w.t)(w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: token, Digests: ask}))
	var batches [][]*pb.Block
	for part := range slices.Chunk(miss.Missing, 16) {
		var b []*pb.Block
		for _, m := range part {
			b = append(b, wireBlock(d.blocks[indexes[m]]))
		}
		batches = append(batches, b)
	}
	ack := must[*pb.UploadBlocksResponse](w.t)(w.sendBlocks(token, batches...))
	if ack.AcknowledgedBatches != int64(len(batches)) {
		w.t.Fatalf("%d of %d batches acknowledged", ack.AcknowledgedBatches, len(batches))
	}
	return ack
}

// writeMap writes the map of a disk: all of it, or what differs from base.
func (w *world) writeMap(token string, d, base *testDisk) (*pb.WriteDiskMapResponse, error) {
	stream, err := w.blocks.WriteDiskMap(w.ctx)
	if err != nil {
		return nil, err
	}
	send := func(r *pb.WriteDiskMapRequest) { _ = stream.Send(r) } // the answer has the reason
	send(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: token, Disk: d.target, OverBase: base != nil}})
	all := d.clone()
	if base != nil {
		maps.Copy(all.blocks, base.blocks)
	}
	for _, i := range all.indexes() {
		b, ok := d.blocks[i]
		switch {
		case i >= uint64(d.size+blockSize-1)/blockSize:
		case base != nil && bytes.Equal(b, base.blocks[i]):
		case ok:
			send(&pb.WriteDiskMapRequest{Runs: []*pb.DiskMapRun{{FirstBlock: int64(i), Digests: flatten(block.Sum(b))}}})
		case base != nil:
			send(&pb.WriteDiskMapRequest{Runs: []*pb.DiskMapRun{{FirstBlock: int64(i), ZeroBlocks: 1}}})
		}
	}
	return stream.CloseAndRecv()
}

// backUp makes a whole point of the disks, over bases if base is a point.
func (w *world) backUp(base string, snapshot time.Time, disks []*testDisk, bases []*testDisk) *pb.RecoveryPoint {
	w.t.Helper()
	up := w.createUpload(&pb.CreateUploadRequest{BaseRecoveryPoint: base}, disks...)
	var roots [][]byte
	for i, d := range disks {
		w.sendMissing(up.UploadToken, d, d.indexes())
		var b *testDisk
		if bases != nil {
			b = bases[i]
		}
		m := must[*pb.WriteDiskMapResponse](w.t)(w.writeMap(up.UploadToken, d, b))
		roots = append(roots, m.RootDigest)
	}
	return must[*pb.CommitUploadResponse](w.t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{
		UploadToken: up.UploadToken, SnapshotTime: timestamppb.New(snapshot), RootDigests: roots,
		Consistency:  pb.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT,
		MachineTitle: "web 1", GuestOs: "Debian 13", MachineDefinition: []byte("<domain/>"), MachineDefinitionType: "application/xml",
	})).RecoveryPoint
}

// readDisk reads a range by ReadDisk into zeros, and counts the bytes sent.
func (w *world) readDisk(r *pb.ReadDiskRequest, length int64) ([]byte, int64, error) {
	stream, err := w.points.ReadDisk(w.ctx, r)
	if err != nil {
		return nil, 0, err
	}
	p, sent, next := make([]byte, length), int64(0), r.Offset
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return p, sent, nil
		}
		if err != nil {
			return p, sent, err
		}
		if resp.Offset < next || !r.SkipZeros && resp.Offset != next || len(resp.Data) == 0 || len(resp.Data) > maxDiskMessage {
			w.t.Fatalf("%d bytes at %d after %d", len(resp.Data), resp.Offset, next)
		}
		sent += int64(copy(p[resp.Offset-r.Offset:], resp.Data))
		next = resp.Offset + int64(len(resp.Data))
	}
}

func (w *world) readExtents(r *pb.ReadExtentsRequest) ([]*pb.Extent, error) {
	stream, err := w.points.ReadExtents(w.ctx, r)
	if err != nil {
		return nil, err
	}
	var out []*pb.Extent
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, resp.Extents...)
	}
}

// readBlocks reads blocks by digest.
func (w *world) readBlocks(r *pb.ReadBlocksRequest) ([][]byte, error) {
	stream, err := w.blocks.ReadBlocks(w.ctx, r)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if n := proto.Size(resp); n > maxMessageBlocks+4096 && len(resp.Blocks) > 1 {
			w.t.Errorf("a message of %d bytes", n)
		}
		out = append(out, resp.Blocks...)
	}
}

// blockReader is a diskmap.BlockReader over ReadBlocks.
type blockReader struct {
	w     *world
	point string
	form  pb.BlockForm
}

func (r blockReader) ReadBlocks(_ context.Context, ds []block.Digest) ([][]byte, error) {
	out, err := r.w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: r.point, Digests: flatten(ds...), Form: r.form})
	if err != nil || r.form != pb.BlockForm_BLOCK_FORM_STORED {
		return out, err
	}
	for i := range out {
		if out[i], err = block.Open(nil, out[i], ds[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkBytes reads the first disk of a point as a whole.
func (w *world) checkBytes(p *pb.RecoveryPoint, d *testDisk) {
	w.t.Helper()
	got, _, err := w.readDisk(&pb.ReadDiskRequest{Name: p.Name, Disk: d.target}, d.size)
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, d.bytes()) {
		w.t.Errorf("disk %s of %s differs", d.target, p.Name)
	}
}

// checkDisk reads a disk of a point in all ways.
func (w *world) checkDisk(p *pb.RecoveryPoint, n int, d *testDisk) {
	w.t.Helper()
	want := d.bytes()
	disk := p.Disks[n]
	for _, form := range []pb.BlockForm{pb.BlockForm_BLOCK_FORM_PLAIN, pb.BlockForm_BLOCK_FORM_STORED} {
		im := diskmap.NewImage(blockReader{w, p.Name, form},
			diskmap.Map{Size: disk.Size, BlockSize: int(disk.BlockSize), Root: block.Digest(disk.RootDigest)}, diskmap.ImageOptions{})
		got := make([]byte, disk.Size)
		if _, err := im.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
			w.t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			w.t.Errorf("disk %s of %s differs, read as %v", d.target, p.Name, form)
		}
	}
	ranges := [][2]int64{{0, 0}, {d.size, 0}, {1, d.size - 1}, {blockSize - 1, 2}, {d.size - 1, 1}}
	for range 4 {
		off := rand.Int64N(d.size)
		ranges = append(ranges, [2]int64{off, rand.Int64N(d.size - off + 1)})
	}
	for _, r := range ranges {
		off, length := r[0], r[1]
		if length == 0 {
			length = d.size - off
		}
		if off < 0 || off+length > d.size {
			continue
		}
		for _, skip := range []bool{false, true} {
			got, sent, err := w.readDisk(&pb.ReadDiskRequest{Name: p.Name, Disk: d.target, Offset: off, Length: r[1], SkipZeros: skip}, length)
			if err != nil {
				w.t.Fatal(err)
			}
			if !bytes.Equal(got, want[off:off+length]) || (sent == length) != (!skip || length == 0) && len(d.blocks) == 0 {
				w.t.Errorf("ReadDisk of %d bytes at %d: differs, %d sent", length, off, sent)
			}
		}
		w.checkExtents(&pb.ReadExtentsRequest{Name: p.Name, Disk: d.target, Offset: off, Length: r[1]}, d, nil)
	}
}

// checkExtents compares extents with what differs between d and base.
func (w *world) checkExtents(r *pb.ReadExtentsRequest, d, base *testDisk) {
	w.t.Helper()
	end := r.Offset + r.Length
	if r.Length == 0 {
		end = d.size
	}
	var want []*pb.Extent
	for i := range uint64(d.size+blockSize-1) / blockSize {
		b, ok := d.blocks[i]
		if base == nil && !ok || base != nil && bytes.Equal(b, base.blocks[i]) {
			continue
		}
		from, to := max(r.Offset, int64(i)*blockSize), min(end, int64(i+1)*blockSize)
		if from >= to {
			continue
		}
		if n := len(want); n > 0 && want[n-1].Offset+want[n-1].Length == from && want[n-1].Zero == !ok {
			want[n-1].Length += to - from
			continue
		}
		want = append(want, &pb.Extent{Offset: from, Length: to - from, Zero: !ok})
	}
	got, err := w.readExtents(r)
	if err != nil {
		w.t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, func(a, b *pb.Extent) bool { return proto.Equal(a, b) }) {
		w.t.Errorf("extents of %v:\n%v, want\n%v", r, got, want)
	}
}

// inMemory puts a server's files where syncing them takes no time.
func inMemory() Options { return Options{FS: vfs.NewMem(), Dir: "data"} }

// dataWorld is a world with the item web1.
func dataWorld(t *testing.T, opts Options) *world {
	w := newWorld(t, opts)
	w.setUp()
	w.protect()
	return w
}

// day is the time of the first snapshot, some days ago.
var day = time.Now().UTC().AddDate(0, 0, -10).Truncate(time.Hour)

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
	if p1.ExpireTime.AsTime() != day.AddDate(0, 0, 30) || p1.RetentionRule != pb.RetentionRule_RETENTION_RULE_DAILY {
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

// waitJob follows a job until it has ended.
func (w *world) waitJob(name string) *pb.Job {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	stream, err := w.jobs.WatchJobs(ctx, &pb.WatchJobsRequest{Parent: vault})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Job.GetName() == name && r.Job.EndTime != nil {
			return r.Job
		}
	}
}

func TestUploadLease(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20).fill(1, 0)
	up := w.createUpload(&pb.CreateUploadRequest{LeaseDuration: durationpb.New(time.Second)}, d)
	// An idle stream does not keep it.
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: up.UploadToken, Blocks: []*pb.Block{wireBlock(d.blocks[0])}}); err != nil {
		t.Fatal(err)
	}
	j := w.waitJob(up.Job)
	if j.State != pb.JobState_JOB_STATE_FAILED || j.Error.Reason != pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED {
		t.Errorf("job %v", j)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED)
	for what, err := range w.allCalls(up.UploadToken) {
		t.Run(what, func(t *testing.T) {
			wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED)
		})
	}
}

// allCalls gives what each call that names an upload answers.
func (w *world) allCalls(token string) map[string]error {
	errs := map[string]error{}
	_, errs["resume"] = w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, ResumeToken: token})
	_, errs["renew"] = w.blocks.RenewUpload(w.ctx, &pb.RenewUploadRequest{UploadToken: token})
	_, errs["find"] = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: token})
	_, errs["upload"] = w.sendBlocks(token, nil)
	_, errs["map"] = w.writeMap(token, newTestDisk("vda", 1), nil)
	_, errs["commit"] = w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: token})
	_, errs["abort"] = w.blocks.AbortUpload(w.ctx, &pb.AbortUploadRequest{UploadToken: token})
	return errs
}

func TestCancelAndAbort(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20)
	up := w.createUpload(&pb.CreateUploadRequest{}, d)
	_, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}}})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS)
	must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: up.Job}))
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job %v", j)
	}
	for what, err := range w.allCalls(up.UploadToken) {
		t.Run(what, func(t *testing.T) { wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_CANCELLED) })
	}
	up = w.createUpload(&pb.CreateUploadRequest{}, d)
	must[*pb.AbortUploadResponse](t)(w.blocks.AbortUpload(w.ctx, &pb.AbortUploadRequest{UploadToken: up.UploadToken}))
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job %v", j)
	}
	for _, token := range []string{up.UploadToken, "no-such-token"} {
		for what, err := range w.allCalls(token) {
			t.Run(what, func(t *testing.T) {
				wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
			})
		}
	}
	for what, err := range w.allCalls("") {
		t.Run("no token, "+what, func(t *testing.T) {
			if what == "resume" { // then it is a new upload, without disks
				wantField(t, err, "disks")
			} else {
				wantField(t, err, "upload_token")
			}
		})
	}
}

func TestCommitTwice(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20).fill(1, 3)
	up := w.createUpload(&pb.CreateUploadRequest{}, d, newTestDisk("vdb", 5))
	commit := func(roots ...[]byte) (*pb.CommitUploadResponse, error) {
		return w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken, RootDigests: roots, Warnings: []*pb.Warning{
			{Reason: pb.ErrorReason_ERROR_REASON_FREEZE_FAILED, Message: "it would not freeze"},
		}})
	}
	w.sendMissing(up.UploadToken, d, d.indexes())
	root := must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, nil)).RootDigest
	_, err := commit()
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID); info.Metadata["disks"] != "vdb" {
		t.Errorf("metadata %v", info.Metadata)
	}
	must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, newTestDisk("vdb", 5), nil))
	_, err = commit(root)
	wantField(t, err, "root_digests")
	for _, at := range []*timestamppb.Timestamp{timestamppb.New(time.Now().AddDate(0, 0, 2)), {}, {Nanos: -1}} {
		at.Seconds--
		_, err = w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken, SnapshotTime: at})
		wantField(t, err, "snapshot_time")
	}
	_, err = commit(root, root)
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID); info.Metadata["disk"] != "vdb" {
		t.Errorf("metadata %v", info.Metadata)
	}
	points := make(chan *pb.RecoveryPoint)
	for range 4 { // at once
		go func() {
			points <- must[*pb.CommitUploadResponse](t)(commit(root, block.Zero[:])).RecoveryPoint
		}()
	}
	first := <-points
	for range 3 {
		if p := <-points; !proto.Equal(p, first) {
			t.Errorf("commits gave\n%v and\n%v", first, p)
		}
	}
	if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS || len(j.Warnings) != 1 || len(first.Warnings) != 1 {
		t.Errorf("job %v, point %v", j, first)
	}
	l := must[*pb.ListRecoveryPointsResponse](t)(w.points.ListRecoveryPoints(w.ctx, &pb.ListRecoveryPointsRequest{Parent: item1}))
	if len(l.RecoveryPoints) != 1 || l.NextPageToken != "" {
		t.Errorf("points %v", l)
	}
	_, err = w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: up.UploadToken})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND)
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
