package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/upload"
)

// UploadBlocks takes batches and acknowledges them. One goroutine receives and
// hands over, this one sends acknowledgements, each for all batches that have
// become durable since the last. When it returns, Recv ends as well.
func (s *blockService) UploadBlocks(stream grpc.BidiStreamingServer[pb.UploadBlocksRequest, pb.UploadBlocksResponse]) error {
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	sess, err := s.session(first.UploadToken)
	if err != nil {
		return err
	}
	st, err := sess.NewStream(stream.Context())
	if err != nil {
		return uploadError(err)
	}
	go func() { st.CloseSend(receiveBlocks(stream, st, first)) }()
	o := sess.Spec().Owner.(*ownedUpload)
	acked, shown := int64(0), time.Now()
	for {
		got, err := st.Next()
		if got.Batches > acked {
			acked = got.Batches
			if err := stream.Send(&pb.UploadBlocksResponse{
				AcknowledgedBatches: got.Batches, NewBlocks: got.NewBlocks,
				NewBytes: got.NewBytes, StoredBytes: got.StoredBytes,
			}); err != nil {
				return err
			}
			if now := time.Now(); now.Sub(shown) > time.Second {
				shown = now
				o.showProgress(sess.Received())
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return uploadError(err)
		}
	}
}

// receiveBlocks hands batches over until the client has no more, or something
// is wrong.
func receiveBlocks(stream grpc.BidiStreamingServer[pb.UploadBlocksRequest, pb.UploadBlocksResponse], st *upload.Stream, r *pb.UploadBlocksRequest) error {
	token := r.UploadToken
	for {
		if r.UploadToken != "" && r.UploadToken != token {
			return invalidField("upload_token", "differs from that of the first message; all messages of a stream belong to one upload")
		}
		blocks, err := parseBlocks(r.Blocks)
		if err != nil {
			return err
		}
		if err := st.Send(blocks); err != nil {
			return err
		}
		if r, err = stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func parseBlocks(bs []*pb.Block) ([]blockstore.Block, error) {
	if len(bs) > upload.MaxBatchBlocks {
		return nil, errTooLarge("blocks", "blocks", len(bs), upload.MaxBatchBlocks)
	}
	blocks := make([]blockstore.Block, len(bs))
	for i, b := range bs {
		if len(b.GetDigest()) != len(block.Digest{}) {
			return nil, invalidField(fmt.Sprintf("blocks[%d].digest", i), "has %d bytes; it must have %d", len(b.GetDigest()), len(block.Digest{}))
		}
		blocks[i] = blockstore.Block{Digest: block.Digest(b.Digest), Stored: b.Stored}
	}
	return blocks, nil
}

// showProgress shows what came in, in the server's own job. Agents report
// theirs themselves.
func (o *ownedUpload) showProgress(got upload.Received) {
	if o.run == nil {
		return
	}
	o.run.Update(func(j *pb.Job) {
		j.Tasks[1].DoneBytes = got.NewBytes
		j.Stats.NewBlocks, j.Stats.NewBytes, j.Stats.SentBytes = got.NewBlocks, got.NewBytes, got.StoredBytes
	})
}

// maxRun is how many digests one run of a map may have.
const maxRun = 65536

// WriteDiskMap takes the map of one disk.
func (s *blockService) WriteDiskMap(stream grpc.ClientStreamingServer[pb.WriteDiskMapRequest, pb.WriteDiskMapResponse]) error {
	r, err := stream.Recv()
	if errors.Is(err, io.EOF) || err == nil && r.Header == nil {
		return invalidField("header", "must be given in the first message")
	}
	if err != nil {
		return err
	}
	var f fields
	f.uploadToken("header.upload_token", r.Header.UploadToken)
	f.text("header.disk", r.Header.Disk, 64)
	if err := f.err(); err != nil {
		return err
	}
	sess, err := s.session(r.Header.UploadToken)
	if err != nil {
		return err
	}
	w, err := sess.WriteMap(r.Header.Disk, r.Header.OverBase)
	if err != nil {
		return uploadError(err)
	}
	for {
		if err := writeRuns(stream.Context(), w, r.Runs); err != nil {
			return uploadError(err)
		}
		if r, err = stream.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if r.Header != nil {
			return invalidField("header", "must be given in the first message only")
		}
	}
	m, err := w.Finish(stream.Context())
	if err != nil {
		return uploadError(err)
	}
	return stream.SendAndClose(&pb.WriteDiskMapResponse{RootDigest: m.Root[:], ChangedBlocks: m.Changed})
}

func writeRuns(ctx context.Context, w *upload.MapWriter, runs []*pb.DiskMapRun) error {
	for i, run := range runs {
		if err := writeRun(ctx, w, fmt.Sprintf("runs[%d]", i), run); err != nil {
			return err
		}
	}
	return nil
}

func writeRun(ctx context.Context, w *upload.MapWriter, path string, run *pb.DiskMapRun) error {
	n := len(run.GetDigests()) / len(block.Digest{})
	switch {
	case run.GetFirstBlock() < 0:
		return invalidField(path+".first_block", "is %d; it must not be negative", run.FirstBlock)
	case run.GetZeroBlocks() < 0:
		return invalidField(path+".zero_blocks", "is %d; it must not be negative", run.ZeroBlocks)
	case len(run.GetDigests()) > 0 == (run.GetZeroBlocks() > 0):
		return invalidField(path, "the run from block %d on must have either digests or zero_blocks", run.GetFirstBlock())
	case n > maxRun:
		return errTooLarge(path+".digests", "digests of a run", n, maxRun)
	case run.ZeroBlocks > 0:
		return w.SetZero(ctx, uint64(run.FirstBlock), uint64(run.ZeroBlocks))
	default:
		return w.Set(ctx, uint64(run.FirstBlock), run.Digests)
	}
}
