package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"cairn/blockstore/block"
	cairnv1 "cairn/proto/cairn/v1"
)

// maxBatch is how many stored bytes go in one message of an upload.
const maxBatch = 2 << 20

// Upload is an open upload of one recovery point. Its methods are safe for
// concurrent use; maps are written after the blocks that they name.
type Upload struct {
	blocks cairnv1.BlockServiceClient
	// Token names the upload to the server, and resumes it.
	Token string
	// Job is the job that it belongs to.
	Job string
	// BlockSize is the vault's, in bytes.
	BlockSize int
}

// StartUpload begins an upload, or resumes the one that req names by its token.
func (c *Client) StartUpload(ctx context.Context, req *cairnv1.CreateUploadRequest) (*Upload, error) {
	resp, err := c.Blocks.CreateUpload(ctx, req)
	if err != nil {
		return nil, err
	}
	return &Upload{blocks: c.Blocks, Token: resp.GetUploadToken(), Job: resp.GetJob(), BlockSize: int(resp.GetBlockSize())}, nil
}

// FindMissing tells which of the digests, by index, the vault lacks. The others
// are kept for this upload.
func (u *Upload) FindMissing(ctx context.Context, ds []block.Digest) ([]int, error) {
	var missing []int
	for base := 0; base < len(ds); base += maxDigests {
		part := ds[base:min(base+maxDigests, len(ds))]
		resp, err := u.blocks.FindMissing(ctx, &cairnv1.FindMissingRequest{UploadToken: u.Token, Digests: appendDigests(nil, part)})
		if err != nil {
			return nil, err
		}
		for _, i := range resp.GetMissing() {
			if int(i) >= len(part) {
				return nil, fmt.Errorf("find missing: server answered index %d for %d digests", i, len(part))
			}
			missing = append(missing, base+int(i))
		}
	}
	return missing, nil
}

// Commit makes the recovery point. The request's token is set here.
func (u *Upload) Commit(ctx context.Context, req *cairnv1.CommitUploadRequest) (*cairnv1.RecoveryPoint, error) {
	req.UploadToken = u.Token
	resp, err := u.blocks.CommitUpload(ctx, req)
	return resp.GetRecoveryPoint(), err
}

// Renew keeps the upload alive while nothing else is called.
func (u *Upload) Renew(ctx context.Context) error {
	_, err := u.blocks.RenewUpload(ctx, &cairnv1.RenewUploadRequest{UploadToken: u.Token})
	return err
}

// Abort ends the upload without a point.
func (u *Upload) Abort(ctx context.Context) error {
	_, err := u.blocks.AbortUpload(ctx, &cairnv1.AbortUploadRequest{UploadToken: u.Token})
	return err
}

// Sent counts what a BlockStream brought to the vault, as acknowledged.
type Sent struct {
	NewBlocks   int64 // blocks that were new to the vault
	NewBytes    int64 // plain bytes of these
	StoredBytes int64 // bytes they take there
}

// BlockStream sends blocks. Send may be called from several goroutines; it
// blocks when the server is busy, so that memory stays bounded. Sent blocks are
// durable only when Close has returned nil.
type BlockStream struct {
	stream cairnv1.BlockService_UploadBlocksClient
	token  string
	cancel context.CancelFunc

	mu      sync.Mutex // serialises Send
	batches int64

	acked chan struct{} // closed when the server has ended the stream
	sent  Sent          // valid after acked
	count int64         // acknowledged batches, valid after acked
	err   error         // valid after acked
}

// SendBlocks opens a stream for blocks.
func (u *Upload) SendBlocks(ctx context.Context) (*BlockStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := u.blocks.UploadBlocks(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &BlockStream{stream: stream, token: u.Token, cancel: cancel, acked: make(chan struct{})}
	go s.receive()
	return s, nil
}

func (s *BlockStream) receive() {
	defer close(s.acked)
	for {
		resp, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.err = err
			return
		}
		s.count = resp.GetAcknowledgedBatches()
		s.sent.NewBlocks = resp.GetNewBlocks()
		s.sent.NewBytes = resp.GetNewBytes()
		s.sent.StoredBytes = resp.GetStoredBytes()
	}
}

// Send sends blocks in as few messages as the limits allow. The blocks' bytes
// may be reused after it returns.
func (s *BlockStream) Send(blocks []*cairnv1.Block) error {
	for len(blocks) > 0 {
		n, size := 0, 0
		for n < len(blocks) && n < maxDigests && (n == 0 || size+len(blocks[n].GetStored()) <= maxBatch) {
			size += len(blocks[n].GetStored())
			n++
		}
		if err := s.send(blocks[:n]); err != nil {
			return err
		}
		blocks = blocks[n:]
	}
	return nil
}

func (s *BlockStream) send(blocks []*cairnv1.Block) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.stream.Send(&cairnv1.UploadBlocksRequest{UploadToken: s.token, Blocks: blocks})
	if err != nil {
		// The reason stands on the receiving side.
		s.cancelIfOpen(err)
		<-s.acked
		if s.err != nil {
			return s.err
		}
		return fmt.Errorf("upload blocks: server ended the stream: %w", err)
	}
	s.batches++
	return nil
}

// cancelIfOpen ends the receiving side unless the server has ended it itself,
// which is what io.EOF of Send means.
func (s *BlockStream) cancelIfOpen(err error) {
	if !errors.Is(err, io.EOF) {
		s.cancel()
	}
}

// Close waits until everything that was sent is durable, and tells how much of
// it was new. No Send may follow.
func (s *BlockStream) Close() (Sent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.cancel()
	closeErr := s.stream.CloseSend()
	<-s.acked
	switch {
	case s.err != nil:
		return s.sent, s.err
	case closeErr != nil:
		return s.sent, closeErr
	case s.count != s.batches:
		return s.sent, fmt.Errorf("upload blocks: server acknowledged %d of %d batches", s.count, s.batches)
	}
	return s.sent, nil
}

// Cancel ends the stream at once. What was not acknowledged may be lost.
func (s *BlockStream) Cancel() {
	s.cancel()
	<-s.acked
}

// MapWriter writes the map of one disk, in ascending order.
type MapWriter struct {
	stream cairnv1.BlockService_WriteDiskMapClient
	runs   []*cairnv1.DiskMapRun // not sent yet
	size   int                   // about how many bytes they take
}

// maxMapMessage is about how many bytes go in one message of a disk map.
const maxMapMessage = 512 << 10

// WriteMap begins the map of a disk: from nothing, or as changes to the disk of
// that name in the upload's base point.
func (u *Upload) WriteMap(ctx context.Context, disk string, overBase bool) (*MapWriter, error) {
	stream, err := u.blocks.WriteDiskMap(ctx)
	if err != nil {
		return nil, err
	}
	w := &MapWriter{stream: stream}
	return w, w.send(&cairnv1.WriteDiskMapRequest{Header: &cairnv1.DiskMapHeader{UploadToken: u.Token, Disk: disk, OverBase: overBase}})
}

// Set says which digest block index has; block.Zero for a block of zeros.
func (w *MapWriter) Set(index uint64, d block.Digest) error {
	var run *cairnv1.DiskMapRun
	if n := len(w.runs); n > 0 {
		run = w.runs[n-1]
	}
	if run == nil || run.ZeroBlocks > 0 || uint64(run.FirstBlock)+uint64(len(run.Digests)/digestSize) != index {
		run = &cairnv1.DiskMapRun{FirstBlock: int64(index)}
		if err := w.add(run); err != nil {
			return err
		}
	}
	run.Digests = append(run.Digests, d[:]...)
	w.size += digestSize
	return w.flushAt(maxMapMessage)
}

// SetZero says that count blocks from index on are zeros.
func (w *MapWriter) SetZero(index, count uint64) error {
	return w.add(&cairnv1.DiskMapRun{FirstBlock: int64(index), ZeroBlocks: int64(count)})
}

// Close ends the map and gives its root digest, and how many blocks the map
// names that differ from the base.
func (w *MapWriter) Close() (root block.Digest, changed int64, err error) {
	if err := w.flushAt(1); err != nil {
		return root, 0, err
	}
	resp, err := w.stream.CloseAndRecv()
	if err != nil {
		return root, 0, err
	}
	root, err = block.DigestFromBytes(resp.GetRootDigest())
	return root, resp.GetChangedBlocks(), err
}

func (w *MapWriter) add(run *cairnv1.DiskMapRun) error {
	if err := w.flushAt(maxMapMessage); err != nil {
		return err
	}
	w.runs = append(w.runs, run)
	w.size += 32 // framing and numbers
	return nil
}

// flushAt sends the runs once they take at least size bytes.
func (w *MapWriter) flushAt(size int) error {
	if w.size < size {
		return nil
	}
	runs := w.runs
	w.runs, w.size = nil, 0
	return w.send(&cairnv1.WriteDiskMapRequest{Runs: runs})
}

func (w *MapWriter) send(req *cairnv1.WriteDiskMapRequest) error {
	err := w.stream.Send(req)
	if errors.Is(err, io.EOF) { // the server refused: its reason comes with the answer
		if _, err := w.stream.CloseAndRecv(); err != nil {
			return err
		}
	}
	return err
}

func appendDigests(b []byte, ds []block.Digest) []byte {
	for _, d := range ds {
		b = append(b, d[:]...)
	}
	return b
}
