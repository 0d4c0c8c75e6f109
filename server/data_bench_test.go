package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
)

// bareService answers without a store: what gRPC alone can move, the yardstick of
// the other benchmarks.
type bareService struct {
	pb.UnimplementedBlockServiceServer
	block []byte
}

func (s bareService) ReadBlocks(r *pb.ReadBlocksRequest, stream grpc.ServerStreamingServer[pb.ReadBlocksResponse]) error {
	blocks := make([]mem.Buffer, len(r.Digests)/32)
	for i := range blocks {
		blocks[i] = mem.SliceBuffer(s.block)
	}
	return sendBlocks(stream, blocks)
}

func (s bareService) UploadBlocks(stream grpc.BidiStreamingServer[pb.UploadBlocksRequest, pb.UploadBlocksResponse]) error {
	for n := int64(1); ; n++ {
		if _, err := stream.Recv(); err != nil {
			return stream.Send(&pb.UploadBlocksResponse{AcknowledgedBatches: n - 1})
		}
	}
}

func bareWorld(b *testing.B) *world {
	g := grpc.NewServer(grpc.ForceServerCodecV2(&codec{CodecV2: encoding.GetCodecV2("proto")}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(2*window), grpc.ReadBufferSize(256<<10), grpc.WriteBufferSize(256<<10))
	pb.RegisterBlockServiceServer(g, bareService{block: newNoise().stored})
	return &world{g: g, conn: benchDial(b, g), ctx: context.Background()}
}

func BenchmarkBareUpload(b *testing.B) {
	w := bareWorld(b)
	w.blocks = pb.NewBlockServiceClient(w.conn)
	blk := newNoise().next()
	b.SetBytes(blockSize)
	defer cpu(b, 1)()
	w.benchUpload(b, "", b.N, func() *pb.Block { return blk })
}

func BenchmarkBareRead(b *testing.B) {
	w := bareWorld(b)
	w.blocks = pb.NewBlockServiceClient(w.conn)
	for _, n := range []int{1, 32, 4096} {
		b.Run(fmt.Sprintf("blocks=%d", n), func(b *testing.B) {
			b.SetBytes(int64(n) * blockSize)
			defer cpu(b, n)()
			for range b.N {
				w.drain(b, &pb.ReadBlocksRequest{Digests: make([]byte, n*32)})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// benchDial serves g on a unix socket and connects to it.
func benchDial(b *testing.B, g *grpc.Server) *grpc.ClientConn {
	sock := filepath.Join(b.TempDir(), "s")
	lis, err := net.Listen("unix", sock)
	if err != nil {
		b.Fatal(err)
	}
	go g.Serve(lis)
	conn, err := grpc.NewClient("unix:"+sock,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(2*window),
		grpc.WithReadBufferSize(256<<10), grpc.WithWriteBufferSize(256<<10))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		conn.Close()
		g.Stop()
	})
	return conn
}

// benchWorld is a server behind a unix socket, a client of it and the item
// web1.
func benchWorld(b *testing.B) *world {
	s, err := Open(Options{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	g, _ := s.NewGRPC()
	conn := benchDial(b, g)
	w := &world{s: s, g: g, conn: conn, ctx: context.Background()}
	w.vaults, w.policies = pb.NewVaultServiceClient(conn), pb.NewPolicyServiceClient(conn)
	w.hosts, w.items = pb.NewHostServiceClient(conn), pb.NewProtectedItemServiceClient(conn)
	w.points, w.blocks = pb.NewRecoveryPointServiceClient(conn), pb.NewBlockServiceClient(conn)
	_, err1 := w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1"})
	_, err2 := w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "daily"})
	_, err3 := w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: "rack1", Host: &pb.Host{}})
	_, err4 := w.hosts.ReportMachines(w.ctx, &pb.ReportMachinesRequest{Parent: host1, Machines: []*pb.Machine{machineOf(host1, "web1")}})
	_, err5 := w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily}})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		b.Fatal(err)
	}
	return w
}

// cpu reports the processor time that a block took, of both ends together,
// which tells more than the clock where others use the machine as well.
func cpu(b *testing.B, blocksPerOp int) func() {
	var t0, t1 unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &t0); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := unix.Getrusage(unix.RUSAGE_SELF, &t1); err != nil {
			b.Fatal(err)
		}
		took := t1.Utime.Nano() + t1.Stime.Nano() - t0.Utime.Nano() - t0.Stime.Nano()
		b.ReportMetric(float64(took)/1e3/float64(b.N)/float64(blocksPerOp), "cpu-µs/block")
	}
}

// noise makes blocks that are all different and do not shrink, quickly.
type noise struct {
	stored []byte
	n      uint64
}

func newNoise() *noise {
	p := make([]byte, blockSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return &noise{stored: block.Encode(nil, p, block.None)}
}

func (n *noise) next() *pb.Block {
	n.n++
	binary.LittleEndian.PutUint64(n.stored[4:], n.n)
	d := block.Sum(n.stored[4:])
	return &pb.Block{Digest: d[:], Stored: append([]byte(nil), n.stored...)}
}

// upload sends count blocks in batches and waits until they are durable.
func (w *world) benchUpload(b *testing.B, token string, count int, next func() *pb.Block) [][]byte {
	stream, err := w.blocks.UploadBlocks(w.ctx)
	if err != nil {
		b.Fatal(err)
	}
	var digests [][]byte
	acked := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = stream.Recv()
		}
		acked <- err
	}()
	for count > 0 {
		batch := make([]*pb.Block, min(count, 31))
		for i := range batch {
			batch[i] = next()
			digests = append(digests, batch[i].Digest)
		}
		count -= len(batch)
		if err := stream.Send(&pb.UploadBlocksRequest{UploadToken: token, Blocks: batch}); err != nil {
			break
		}
	}
	_ = stream.CloseSend()
	if err := <-acked; err != io.EOF {
		b.Fatal(err)
	}
	return digests
}

func (w *world) benchCreate(b *testing.B, size int64) string {
	up, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda", Size: size}}})
	if err != nil {
		b.Fatal(err)
	}
	return up.UploadToken
}

// BenchmarkUploadBlocks sends blocks that are new to the vault; the time
// includes making them durable, and the client's work in this process.
func BenchmarkUploadBlocks(b *testing.B) {
	w := benchWorld(b)
	token := w.benchCreate(b, 1<<40)
	n := newNoise()
	b.SetBytes(blockSize)
	b.ResetTimer()
	defer cpu(b, 1)()
	w.benchUpload(b, token, b.N, n.next)
}

// BenchmarkUploadKnown sends blocks that the vault has.
func BenchmarkUploadKnown(b *testing.B) {
	w := benchWorld(b)
	token := w.benchCreate(b, 1<<40)
	n := newNoise()
	blk := n.next()
	b.SetBytes(blockSize)
	b.ResetTimer()
	defer cpu(b, 1)()
	w.benchUpload(b, token, b.N, func() *pb.Block { return blk })
}

func BenchmarkFindMissing(b *testing.B) {
	w := benchWorld(b)
	token := w.benchCreate(b, 1<<40)
	r := rand.NewChaCha8([32]byte{2})
	ask := make([]byte, 4096*32)
	b.ResetTimer()
	for range b.N {
		_, _ = r.Read(ask)
		if _, err := w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: token, Digests: ask}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*4096/b.Elapsed().Seconds(), "digests/s")
}

// benchPoint is a point of 256 MiB.
func (w *world) benchPoint(b *testing.B) (point string, digests [][]byte) {
	const blocks = 4096
	token := w.benchCreate(b, blocks*blockSize)
	digests = w.benchUpload(b, token, blocks, newNoise().next)
	stream, err := w.blocks.WriteDiskMap(w.ctx)
	if err != nil {
		b.Fatal(err)
	}
	var all []byte
	for _, d := range digests {
		all = append(all, d...)
	}
	_ = stream.Send(&pb.WriteDiskMapRequest{
		Header: &pb.DiskMapHeader{UploadToken: token, Disk: "vda"},
		Runs:   []*pb.DiskMapRun{{Digests: all}},
	})
	if _, err := stream.CloseAndRecv(); err != nil {
		b.Fatal(err)
	}
	c, err := w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: token})
	if err != nil {
		b.Fatal(err)
	}
	return c.RecoveryPoint.Name, digests
}

// BenchmarkReadBlocks reads blocks from a file system that has them in memory,
// with as many calls at a time as there are cores.
func BenchmarkReadBlocks(b *testing.B) {
	w := benchWorld(b)
	point, digests := w.benchPoint(b)
	for _, form := range []pb.BlockForm{pb.BlockForm_BLOCK_FORM_STORED, pb.BlockForm_BLOCK_FORM_PLAIN} {
		for _, n := range []int{1, 32, 4096} {
			for _, calls := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/blocks=%d/calls=%d", form.String()[11:], n, calls), func(b *testing.B) {
					b.SetBytes(int64(n) * blockSize)
					defer cpu(b, n)()
					var wg sync.WaitGroup
					for c := range calls {
						wg.Go(func() {
							r := rand.New(rand.NewPCG(1, uint64(c)))
							for range b.N / calls {
								var ask []byte
								for at, i := r.IntN(len(digests)), 0; i < n; i++ {
									ask = append(ask, digests[(at+i)%len(digests)]...)
								}
								w.drain(b, &pb.ReadBlocksRequest{RecoveryPoint: point, Digests: ask, Form: form})
							}
						})
					}
					wg.Wait()
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
				})
			}
		}
	}
}

func (w *world) drain(b *testing.B, r *pb.ReadBlocksRequest) {
	stream, err := w.blocks.ReadBlocks(w.ctx, r)
	if err != nil {
		b.Error(err)
		return
	}
	for {
		if _, err := stream.Recv(); err != nil {
			if err != io.EOF {
				b.Error(err)
			}
			return
		}
	}
}

func BenchmarkReadDisk(b *testing.B) {
	w := benchWorld(b)
	point, digests := w.benchPoint(b)
	b.SetBytes(int64(len(digests)) * blockSize)
	b.ResetTimer()
	defer cpu(b, len(digests))()
	for range b.N {
		stream, err := w.points.ReadDisk(w.ctx, &pb.ReadDiskRequest{Name: point, Disk: "vda"})
		for err == nil {
			_, err = stream.Recv()
		}
		if err != io.EOF {
			b.Fatal(err)
		}
	}
}
