package upload

import (
	"fmt"
	"strings"

	"cairn/blockstore"

	"cairn/blockstore/block"
)

// TooLargeError: one call brought more than it may.
type TooLargeError struct {
	What      string // "blocks", "stored bytes", "digests"
	Have, Max int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%d %s, at most %d are allowed", e.Have, e.What, e.Max)
}

// BlockError says which block of a batch is at fault.
type BlockError struct {
	Batch int64 // counted from 0 in its stream
	Index int   // in the batch
	Err   error // what is wrong; one of blockstore's errors, or of block's
	// Claimed is the digest that came with the block, Actual the one that its
	// bytes have; block.Zero where it is not known.
	Claimed, Actual block.Digest
}

func (e *BlockError) Error() string {
	return fmt.Sprintf("batch %d, block %d: %v", e.Batch, e.Index, e.Err)
}

func (e *BlockError) Unwrap() error { return e.Err }

// MissingError: a map names a block that the vault does not have.
type MissingError struct {
	Disk   string
	Index  uint64 // the block's place on the disk
	Digest block.Digest
	More   int // how many others are missing among those looked up with it
}

func (e *MissingError) Error() string {
	s := fmt.Sprintf("disk %s, block %d: the vault has no block %s", e.Disk, e.Index, e.Digest)
	if e.More > 0 {
		s += fmt.Sprintf(" (and %d more)", e.More)
	}
	return s
}

// MapError: a map, and the disks that the upload announced, do not fit
// together.
type MapError struct {
	Disk    string
	Detail  string
	Lacking []string // on commit: disks that have no map yet
}

func (e *MapError) Error() string {
	if len(e.Lacking) > 0 {
		return fmt.Sprintf("no map was written for %s", strings.Join(e.Lacking, ", "))
	}
	return fmt.Sprintf("map of disk %s: %s", e.Disk, e.Detail)
}

// LengthError: a block's plain length is not the vault's block size. It matches
// blockstore.ErrBlockSize.
type LengthError struct{ Have, Want int }

func (e *LengthError) Error() string {
	return fmt.Sprintf("block of %d plain bytes, must be %d", e.Have, e.Want)
}

// Is makes it match blockstore.ErrBlockSize.
func (e *LengthError) Is(target error) bool { return target == blockstore.ErrBlockSize }
