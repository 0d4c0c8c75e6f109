package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
)

const (
	// chunkBytes is how much of a call is read from the store at a time, in
	// plain bytes: a chunk fills a message.
	chunkBytes = 1 << 20
	// readAhead is how many chunks of one call are read ahead of what is sent.
	readAhead = 4
	// maxMessageBlocks bounds the bytes of a message that has several blocks.
	maxMessageBlocks = 2 << 20
)

// ReadBlocks streams blocks by digest.
func (s *blockService) ReadBlocks(r *pb.ReadBlocksRequest, stream grpc.ServerStreamingServer[pb.ReadBlocksResponse]) error {
	var f fields
	n := f.point("recovery_point", r.RecoveryPoint)
	enum(&f, "form", r.Form, pb.BlockForm_name)
	if err := f.err(); err != nil {
		return err
	}
	ds, err := parseDigests(r.Digests)
	if err != nil {
		return err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return err
	}
	defer release()
	unhold, err := v.hold(n)
	if err != nil {
		return err
	}
	defer unhold()
	read := func(ctx context.Context, ds []block.Digest) ([]mem.Buffer, error) {
		blocks, err := v.Store.Reader(n.storeID()).ReadBlocks(ctx, ds)
		out := make([]mem.Buffer, len(blocks))
		for i, b := range blocks {
			out[i] = mem.SliceBuffer(b)
		}
		return out, err
	}
	if r.Form == pb.BlockForm_BLOCK_FORM_STORED {
		// They are not verified here: whoever asks for this form has to, since
		// nothing else could vouch for the way to him.
		read = func(ctx context.Context, ds []block.Digest) ([]mem.Buffer, error) {
			return readStored(ctx, v.Store, ds)
		}
	}
	fetch := func(ctx context.Context, ds []block.Digest) ([]mem.Buffer, error) {
		blocks, err := read(ctx, ds)
		if errors.Is(err, blockstore.ErrBlockMissing) {
			return nil, blockMissing(ctx, v.Store, n, ds, err)
		}
		return blocks, readError(n, err)
	}
	send := func(blocks []mem.Buffer) error { return sendBlocks(stream, blocks) }
	size := max(1, chunkBytes/v.Store.Info().BlockSize)
	if len(ds) <= size { // the common call for a few blocks needs no goroutines
		blocks, err := fetch(stream.Context(), ds)
		if err != nil {
			return err
		}
		return send(blocks)
	}
	return ordered(stream.Context(), readAhead, func(yield func([]block.Digest) error) error {
		for rest := ds; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if err := yield(rest[:min(size, len(rest))]); err != nil {
				return err
			}
		}
		return nil
	}, fetch, send)
}

// hold keeps what a point needs while a call reads it. Error:
// RECOVERY_POINT_NOT_FOUND.
func (v *Vault) hold(n PointName) (release func(), err error) {
	release, err = v.Store.HoldPoint(n.storeID())
	if errors.Is(err, blockstore.ErrNotFound) {
		return nil, errPointNotFound(n)
	}
	return release, err
}

// stored is the memory of stored blocks that are being sent.
var stored = newStoredPool()

// readStored reads stored blocks into memory that is used again after sending.
func readStored(ctx context.Context, st *blockstore.Store, ds []block.Digest) ([]mem.Buffer, error) {
	room := make([]*[]byte, len(ds))
	_, err := st.ReadStoredInto(ctx, ds, func(i, n int) []byte {
		room[i] = stored.Get(n)
		return *room[i]
	})
	if err != nil {
		return nil, err
	}
	out := make([]mem.Buffer, len(ds))
	for i, b := range room {
		out[i] = mem.NewBuffer(b, stored)
	}
	return out, nil
}

// wireBlocks is a ReadBlocksResponse whose blocks the codec does not copy.
type wireBlocks []mem.Buffer

// sendBlocks sends blocks in as few messages as the limit allows.
func sendBlocks(stream grpc.ServerStream, blocks []mem.Buffer) error {
	for len(blocks) > 0 {
		n, size := 0, 0
		for n < len(blocks) && (n == 0 || size+blocks[n].Len() <= maxMessageBlocks) {
			size += blocks[n].Len()
			n++
		}
		if err := stream.SendMsg(wireBlocks(blocks[:n])); err != nil {
			return err
		}
		blocks = blocks[n:]
	}
	return nil
}

// blockMissing finds out which of the digests the vault does not have.
func blockMissing(ctx context.Context, st *blockstore.Store, n PointName, ds []block.Digest, err error) error {
	e := newError(pb.ErrorReason_ERROR_REASON_BLOCK_MISSING, "vault %q does not have a block that was asked for", n.VaultName).
		with("recovery_point", n.String()).because(err)
	for _, d := range ds {
		if _, err := st.ReadStored(ctx, []block.Digest{d}); errors.Is(err, blockstore.ErrBlockMissing) {
			e.Message = fmt.Sprintf("vault %q does not have block %s", n.VaultName, d)
			return e.with("digest", d.String())
		}
	}
	return e
}
