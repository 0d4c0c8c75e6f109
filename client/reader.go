package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that is built upon

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	cairnv1 "cairn/proto/cairn/v1"
)

// maxDigests is how many digests one FindMissing or ReadBlocks call may have.
const maxDigests = 4096

const digestSize = len(block.Digest{})

// pageCacheEntries bounds the map pages that a Reader keeps: 2 MiB of them,
// enough for every inner page of a disk of 1 TiB on the way to its leaves.
const pageCacheEntries = 256

// Reader reads blocks and map pages of a vault through a recovery point. What
// it returns was decoded and re-hashed here. It keeps map pages that it has
// seen, and is safe for concurrent use.
type Reader struct {
	blocks cairnv1.BlockServiceClient
	point  string
	outage *outage
	// RetryFor is for how long the server may be gone, or say nothing, before
	// reads fail; 0 means that they fail at once when it is gone. It counts from
	// when the server was last heard of: while it stays away, later reads fail
	// without waiting.
	RetryFor time.Duration

	mu    sync.Mutex
	pages map[block.Digest][]byte
}

var _ diskmap.IntoReader = (*Reader)(nil)

// Reader reads blocks for the recovery point of that resource name.
func (c *Client) Reader(point string) *Reader {
	return &Reader{blocks: c.Blocks, point: point, outage: c.outage, pages: make(map[block.Digest][]byte)}
}

// ReadBlocks implements diskmap.BlockReader. A block that does not have the
// digest asked for is an error that matches block.ErrCorrupt and names digest
// and point.
func (r *Reader) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	out := make([][]byte, len(ds))
	if err := r.ReadBlocksInto(ctx, ds, out); err != nil {
		return nil, err
	}
	return out, nil
}

// ReadBlocksInto implements diskmap.IntoReader.
func (r *Reader) ReadBlocksInto(ctx context.Context, ds []block.Digest, into [][]byte) error {
	missing := make([]int, 0, len(ds))
	r.mu.Lock()
	for i, d := range ds {
		p, ok := r.pages[d]
		switch {
		case !ok:
			missing = append(missing, i)
		case into[i] == nil:
			into[i] = p
		default:
			into[i] = append(into[i][:0], p...)
		}
	}
	r.mu.Unlock()
	for len(missing) > 0 {
		n := min(len(missing), maxDigests)
		if err := r.fetch(ctx, ds, missing[:n], into); err != nil {
			return err
		}
		missing = missing[n:]
	}
	return nil
}

// fetch reads the blocks at the given indexes of ds, and tries again while the
// server is gone.
func (r *Reader) fetch(ctx context.Context, ds []block.Digest, idx []int, into [][]byte) error {
	err := r.outage.retry(ctx, r.RetryFor, func() (time.Time, error) { return r.fetchOnce(ctx, ds, idx, into) })
	if err != nil {
		return fmt.Errorf("read blocks of %s: %w", r.point, err)
	}
	return nil
}

// perOpener is how many blocks are decoded and hashed by one goroutine: what
// one takes is some tens of microseconds.
const perOpener = 4

var stored = grpc.ForceCodecV2(storedCodec{encoding.GetCodecV2("proto")})

// errSilent: the connection stands, and nothing comes.
var errSilent = errors.New("the server does not answer")

// fetchOnce makes one call, and tells when it last brought something. When it
// returns, nothing writes to into any more.
func (r *Reader) fetchOnce(ctx context.Context, ds []block.Digest, idx []int, into [][]byte) (heard time.Time, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // ends the stream when a block is bad
	if r.RetryFor > 0 {
		silence := time.AfterFunc(r.RetryFor, func() { cancel(errSilent) })
		defer silence.Stop()
		defer func() {
			if err != nil && context.Cause(ctx) == errSilent {
				err = errSilent
			}
		}()
		return r.receive(ctx, ds, idx, into, func() { silence.Reset(r.RetryFor) })
	}
	return r.receive(ctx, ds, idx, into, func() {})
}

// receive is fetchOnce that says when something came.
func (r *Reader) receive(ctx context.Context, ds []block.Digest, idx []int, into [][]byte, came func()) (heard time.Time, err error) {
	digests := make([]byte, 0, len(idx)*digestSize)
	for _, i := range idx {
		digests = append(digests, ds[i][:]...)
	}
	stream, err := r.blocks.ReadBlocks(ctx, &cairnv1.ReadBlocksRequest{
		RecoveryPoint: r.point, Digests: digests, Form: cairnv1.BlockForm_BLOCK_FORM_STORED,
	}, stored)
	if err != nil {
		return heard, err
	}
	// Decoding and hashing are spread over the cores while more blocks arrive.
	// A lone block, what a random read asks for, is not worth a goroutine.
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	n := 0
	for n < len(idx) {
		resp := new(storedBlocks)
		if err := stream.RecvMsg(resp); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("server sent %d of %d blocks", n, len(idx))
			}
			return heard, errors.Join(err, g.Wait())
		}
		heard = time.Now()
		came()
		if len(resp.blocks) > len(idx)-n {
			return heard, errors.Join(fmt.Errorf("server sent more than the %d blocks asked for", len(idx)), g.Wait())
		}
		for first := 0; first < len(resp.blocks); first += perOpener {
			part := resp.blocks[first:min(first+perOpener, len(resp.blocks))]
			at := idx[n : n+len(part)]
			n += len(part)
			open := func() error {
				for k, b := range part {
					if err := r.open(into, at[k], b, ds[at[k]]); err != nil {
						return err
					}
					resp.opened()
				}
				return nil
			}
			if len(idx) == 1 {
				return heard, open()
			}
			g.Go(open)
		}
	}
	return heard, g.Wait()
}

// open decodes a block into its place, and keeps a copy of what may be a page.
func (r *Reader) open(into [][]byte, i int, b storedBlock, want block.Digest) error {
	plain, err := b.open(into[i][:0], want)
	if err != nil {
		return fmt.Errorf("block %s: %w", want, err)
	}
	into[i] = plain
	if len(plain) == diskmap.PageSize {
		r.mu.Lock()
		if len(r.pages) >= pageCacheEntries {
			for d := range r.pages { // any will do: there is no order to prefer
				delete(r.pages, d)
				break
			}
		}
		r.pages[want] = bytes.Clone(plain)
		r.mu.Unlock()
	}
	return nil
}

// Map is the disk map of one disk of a point.
func Map(d *cairnv1.RecoveryPointDisk) (diskmap.Map, error) {
	root, err := block.DigestFromBytes(d.GetRootDigest())
	if err != nil {
		return diskmap.Map{}, fmt.Errorf("disk %s: root digest: %w", d.GetTarget(), err)
	}
	m := diskmap.Map{Size: d.GetSize(), BlockSize: int(d.GetBlockSize()), Root: root}
	if err := m.Validate(); err != nil {
		return diskmap.Map{}, fmt.Errorf("disk %s: %w", d.GetTarget(), err)
	}
	return m, nil
}
