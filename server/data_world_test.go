package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
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
	return must[*pb.UploadBlocksResponse](w.t)(w.trySendMissing(token, d, indexes))
}

func (w *world) trySendMissing(token string, d *testDisk, indexes []uint64) (*pb.UploadBlocksResponse, error) {
	var ask []byte
	for _, i := range indexes {
		ask = append(ask, flatten(block.Sum(d.blocks[i]))...)
	}
	miss, err := w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: token, Digests: ask})
	if err != nil {
		return nil, err
	}
	var batches [][]*pb.Block
	for part := range slices.Chunk(miss.Missing, 16) {
		var b []*pb.Block
		for _, m := range part {
			b = append(b, wireBlock(d.blocks[indexes[m]]))
		}
		batches = append(batches, b)
	}
	ack, err := w.sendBlocks(token, batches...)
	if err == nil && ack.AcknowledgedBatches != int64(len(batches)) {
		err = fmt.Errorf("%d of %d batches acknowledged", ack.AcknowledgedBatches, len(batches))
	}
	return ack, err
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
