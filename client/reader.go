package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that is built upon
	"google.golang.org/protobuf/types/known/durationpb"

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
	// RetryFor is how long a read waits for a server that is gone before it
	// fails; 0 means that it fails at once.
	RetryFor time.Duration

	mu    sync.Mutex
	pages map[block.Digest][]byte
}

var _ diskmap.IntoReader = (*Reader)(nil)

// Reader reads blocks for the recovery point of that resource name.
func (c *Client) Reader(point string) *Reader {
	return &Reader{blocks: c.Blocks, point: point, pages: make(map[block.Digest][]byte)}
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
	deadline := time.Now().Add(r.RetryFor)
	wait := 50 * time.Millisecond
	for {
		done, err := r.fetchOnce(ctx, ds, idx, into)
		if err == nil {
			return nil
		}
		idx = idx[done:]
		if !Transient(err) || time.Now().Add(wait).After(deadline) {
			return fmt.Errorf("read blocks of %s: %w", r.point, err)
		}
		select {
		case <-time.After(wait + rand.N(wait)):
			wait = min(2*wait, 2*time.Second)
		case <-ctx.Done():
			return fmt.Errorf("read blocks of %s: %w", r.point, context.Cause(ctx))
		}
	}
}

// perOpener is how many blocks are decoded and hashed by one goroutine: what
// one takes is some tens of microseconds.
const perOpener = 4

var stored = grpc.ForceCodecV2(storedCodec{encoding.GetCodecV2("proto")})

// fetchOnce makes one call and tells how many blocks it brought. When it
// returns, nothing writes to into any more.
func (r *Reader) fetchOnce(ctx context.Context, ds []block.Digest, idx []int, into [][]byte) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when a block is bad
	digests := make([]byte, 0, len(idx)*digestSize)
	for _, i := range idx {
		digests = append(digests, ds[i][:]...)
	}
	stream, err := r.blocks.ReadBlocks(ctx, &cairnv1.ReadBlocksRequest{
		RecoveryPoint: r.point, Digests: digests, Form: cairnv1.BlockForm_BLOCK_FORM_STORED,
	}, stored)
	if err != nil {
		return 0, err
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
			return 0, errors.Join(err, g.Wait())
		}
		if len(resp.blocks) > len(idx)-n {
			return 0, errors.Join(fmt.Errorf("server sent more than the %d blocks asked for", len(idx)), g.Wait())
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
				return 1, open()
			}
			g.Go(open)
		}
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return n, nil
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

// leaseTime is how long a lease outlives a reader that died.
const leaseTime = 2 * time.Minute

// HoldPoint leases a recovery point, so that it is not deleted while it is
// read, and keeps renewing the lease until release is called. holder says who
// reads, for the person who wonders why the point cannot be deleted.
func (c *Client) HoldPoint(ctx context.Context, point, holder string) (release func(), err error) {
	req := &cairnv1.LeaseRecoveryPointRequest{Name: point, Duration: durationpb.New(leaseTime), Holder: holder}
	resp, err := c.Points.LeaseRecoveryPoint(ctx, req)
	if err != nil {
		return nil, err
	}
	req.LeaseId = resp.GetLeaseId()
	renewCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(leaseTime / 4)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-renewCtx.Done():
				return
			}
			_, err := c.Points.LeaseRecoveryPoint(renewCtx, req)
			if Reason(err) == cairnv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND {
				// The server restarted and has forgotten it: take a new one.
				again := &cairnv1.LeaseRecoveryPointRequest{Name: point, Duration: req.Duration, Holder: holder}
				if resp, err := c.Points.LeaseRecoveryPoint(renewCtx, again); err == nil {
					req.LeaseId = resp.GetLeaseId()
				}
			}
		}
	})
	return func() {
		stop()
		wg.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		// A lease that cannot be given back runs out by itself.
		_, _ = c.Points.ReleaseRecoveryPoint(ctx, &cairnv1.ReleaseRecoveryPointRequest{Name: point, LeaseId: req.LeaseId})
	}, nil
}

// Holder describes this process for a lease: "mount on web1, pid 123".
func Holder(what string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s on %s, pid %d", what, path.Base(host), os.Getpid())
}
