package server

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/upload"
)

// uploadError gives errors of package upload the words for a client. What it
// does not know is left to classify.
func uploadError(err error) error {
	var large *upload.TooLargeError
	var bad *upload.BlockError
	var missing *upload.MissingError
	var mapErr *upload.MapError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return errTooLarge("blocks", large.What, large.Have, large.Max)
	case errors.As(err, &bad):
		return errBadBlock(bad)
	case errors.As(err, &missing):
		return newError(pb.ErrorReason_ERROR_REASON_BLOCK_MISSING,
			"%v; ask FindMissing and upload what it names before the map", missing).
			with("disk", missing.Disk).with("block", strconv.FormatUint(missing.Index, 10)).
			with("digest", missing.Digest.String()).because(err)
	case errors.As(err, &mapErr):
		e := newError(pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID, "%v", mapErr).with("disk", mapErr.Disk).because(err)
		if len(mapErr.Lacking) > 0 {
			e.Message += "; call WriteDiskMap for each before CommitUpload"
			return e.code(codes.FailedPrecondition).with("disks", strings.Join(mapErr.Lacking, ","))
		}
		return e.field("runs", "%v", mapErr)
	case errors.Is(err, upload.ErrDisk):
		return newError(pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND, "%v; CreateUpload names the disks of an upload", err).because(err)
	case errors.Is(err, upload.ErrExpired):
		return newError(pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED,
			"the lease of this upload ran out because no call named it for too long; start a new upload: the blocks that were acknowledged are found there and need not be sent again").because(err)
	case errors.Is(err, upload.ErrCancelled):
		return newError(pb.ErrorReason_ERROR_REASON_CANCELLED, "the job of this upload was cancelled").code(codes.Aborted).because(err)
	case errors.Is(err, upload.ErrStopping):
		return newError(pb.ErrorReason_ERROR_REASON_INTERRUPTED,
			"the server is stopping and has abandoned this upload; start a new one when it is back: the blocks that were acknowledged are found there and need not be sent again").
			code(codes.Unavailable).retry(time.Second).because(err)
	case errors.Is(err, upload.ErrNotFound), errors.Is(err, blockstore.ErrUploadClosed):
		return newError(pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND,
			"%s; start a new upload: the blocks that were acknowledged are found there and need not be sent again", unknownUpload(err)).because(err)
	}
	return err
}

// unknownUpload says what became of an upload that is not there.
func unknownUpload(err error) string {
	if _, how, ok := strings.Cut(err.Error(), upload.ErrNotFound.Error()+": "); ok {
		return "this upload is not open any more: " + how
	}
	return "no open upload has this token: it was never given out, or the upload ended long ago or with a restart of the server"
}

// errTooLarge answers that the field at path has too much.
func errTooLarge(path, what string, have, most int) error {
	return newError(pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE,
		"%d %s in one message; at most %d are allowed: send more, smaller messages", have, what, most).
		with("what", what).with("have", strconv.Itoa(have)).with("max", strconv.Itoa(most)).
		field(path, "has %d %s; at most %d are allowed", have, what, most)
}

func errBadBlock(b *upload.BlockError) error {
	reason, say := pb.ErrorReason_ERROR_REASON_MALFORMED_BLOCK, b.Err.Error()
	switch {
	case errors.Is(b.Err, blockstore.ErrZeroBlock):
		reason, say = pb.ErrorReason_ERROR_REASON_ZERO_BLOCK, "is all zeros, or has the zero digest; such blocks are not sent, the zero digest stands for them in maps"
	case errors.Is(b.Err, blockstore.ErrBlockSize):
		reason = pb.ErrorReason_ERROR_REASON_WRONG_BLOCK_LENGTH
		say += ", the block size of the vault; the last block of a disk is padded with zeros"
	case errors.Is(b.Err, blockstore.ErrDigestMismatch):
		reason = pb.ErrorReason_ERROR_REASON_DIGEST_MISMATCH
		say = fmt.Sprintf("has the digest %s, not %s as claimed", b.Actual, b.Claimed)
	default:
		say = "is not in the stored form: " + say
	}
	e := newError(reason, "block %d of batch %d (both counted from 0): %s", b.Index, b.Batch, say).
		with("batch", strconv.FormatInt(b.Batch, 10)).with("index", strconv.Itoa(b.Index)).
		with("claimed_digest", b.Claimed.String()).because(b)
	if b.Actual != block.Zero {
		_ = e.with("actual_digest", b.Actual.String())
	}
	return e.field(fmt.Sprintf("blocks[%d].stored", b.Index), "%s", say)
}

// readError gives errors of reading for a recovery point the words for a
// client. What it does not know is left to classify.
func readError(n PointName, err error) error {
	var corrupt *blockstore.CorruptError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &corrupt):
		e := errCorrupt(n, corrupt.Digest).with("block_id", strconv.FormatUint(corrupt.ID, 10)).because(err)
		e.Message = fmt.Sprintf("recovery point %q: block %s (id %d) is damaged: %s", n, corrupt.Digest, corrupt.ID, firstLine(corrupt.Err))
		return e
	case errors.Is(err, block.ErrCorrupt):
		e := errCorrupt(n, block.Zero).because(err)
		e.Message = fmt.Sprintf("recovery point %q is damaged: %s", n, firstLine(err))
		return e
	}
	return err
}

// firstLine is an error's text up to the first newline: Pebble's go on with
// internals.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func errCorrupt(n PointName, d block.Digest) *Error {
	e := newError(pb.ErrorReason_ERROR_REASON_DATA_CORRUPT, "").with("recovery_point", n.String())
	if d != block.Zero {
		_ = e.with("digest", d.String())
	}
	return e
}

// lostBlock is readError for what a point's own maps name: a block that is
// missing there is as bad as a damaged one.
func lostBlock(n PointName, err error) error {
	if errors.Is(err, blockstore.ErrBlockMissing) {
		e := errCorrupt(n, block.Zero).because(err)
		e.Message = fmt.Sprintf("recovery point %q is damaged: %s", n, firstLine(err))
		return e
	}
	return readError(n, err)
}
