package upload

import (
	"errors"

	"cairn/blockstore"
	"cairn/blockstore/block"
)

// check refuses a batch before anything of it is stored, as far as can be said
// without decoding it, and gives the bytes that it holds in memory.
func (s *Session) check(blocks []blockstore.Block, number int64) (size int64, err error) {
	if len(blocks) > MaxBatchBlocks {
		return 0, &TooLargeError{What: "blocks", Have: len(blocks), Max: MaxBatchBlocks}
	}
	for _, b := range blocks {
		size += int64(len(b.Stored))
	}
	limit := MaxBatchBytes
	if len(blocks) == 1 {
		limit = max(limit, block.MaxEncodedLen(s.blockSize))
	}
	if size > int64(limit) {
		return 0, &TooLargeError{What: "stored bytes", Have: int(size), Max: limit}
	}
	for i, b := range blocks {
		if err := s.checkHeader(b); err != nil {
			return 0, &BlockError{Batch: number, Index: i, Claimed: b.Digest, Err: err}
		}
	}
	return size + int64(len(blocks))*blockOverhead, nil
}

// blockOverhead is what a block in flight costs beside its bytes.
const blockOverhead = 128

// checkHeader is what a block tells without being decoded. Map pages, which the
// store would take, are made by the server alone.
func (s *Session) checkHeader(b blockstore.Block) error {
	if b.Digest == block.Zero {
		return blockstore.ErrZeroBlock
	}
	n, err := block.PlainLen(b.Stored)
	if err != nil {
		return err
	}
	if n != s.blockSize {
		return &LengthError{Have: n, Want: s.blockSize}
	}
	return nil
}

// blame finds the block because of which the store refused a batch.
func (s *Session) blame(err error, blocks []blockstore.Block, number int64) error {
	if !errors.Is(err, blockstore.ErrDigestMismatch) && !errors.Is(err, blockstore.ErrZeroBlock) &&
		!errors.Is(err, blockstore.ErrBlockSize) && !errors.Is(err, block.ErrCorrupt) {
		return s.reason(err)
	}
	for i, b := range blocks {
		at := &BlockError{Batch: number, Index: i, Claimed: b.Digest}
		plain, derr := block.Decode(nil, b.Stored)
		switch {
		case derr != nil:
			at.Err = derr
		case block.IsZero(plain):
			at.Err = blockstore.ErrZeroBlock
		default:
			if at.Actual = block.Sum(plain); at.Actual == b.Digest {
				continue
			}
			at.Err = blockstore.ErrDigestMismatch
		}
		return at
	}
	return err
}
