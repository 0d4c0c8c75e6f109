package blockstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"cairn/blockstore/block"
)

// Errors that callers tell apart, with errors.Is.
var (
	// ErrExists: Create found a vault or a foreign file, Commit a point of that id.
	ErrExists = errors.New("exists already")
	// ErrNotVault: the directory has no FORMAT file, or one that is not a vault's.
	ErrNotVault = errors.New("not a vault")
	// ErrNewerFormat: a later version of Cairn wrote the vault.
	ErrNewerFormat = errors.New("vault format is newer than this program knows")
	// ErrLocked: another process, or another Store of this one, has the vault open.
	ErrLocked = errors.New("vault is in use")
	// ErrReadOnly: the store was opened for reading, or its file system is
	// read-only, or was full when it was opened (matches ErrFull as well then).
	ErrReadOnly = errors.New("vault is open read-only")
	// ErrFailed: the disk failed a write that cannot be taken back. The store
	// goes on reading and refuses to write until it is opened again.
	ErrFailed = errors.New("vault stopped writing")
	// ErrFull: writing would leave less free space than Options.MinFree. What
	// was not acknowledged is dropped; the store works on when there is space.
	ErrFull = errors.New("not enough disk space")
	// ErrReclaiming: another Reclaim of the vault is under way.
	ErrReclaiming = errors.New("vault is being reclaimed already")
	// ErrNotFound: no point, or no record, of that name.
	ErrNotFound = errors.New("not found")
	// ErrBlockMissing: a block that is read, or that a page or a point refers
	// to, is not in the store.
	ErrBlockMissing = errors.New("block is not in the vault")
	// ErrZeroBlock: blocks of zeros are never stored; block.Zero stands for them.
	ErrZeroBlock = errors.New("block of zeros must not be stored")
	// ErrBlockSize: neither the vault's block size nor a page.
	ErrBlockSize = errors.New("wrong block length")
	// ErrDigestMismatch: a block that was put does not have the digest it came
	// with, or cannot be decoded. Nothing of that Put is stored.
	ErrDigestMismatch = errors.New("block does not match its digest")
	// ErrInvalid: a point, an id or a key that no store takes.
	ErrInvalid = errors.New("invalid argument")
	// ErrUploadClosed: the upload was committed or aborted, or its store closed.
	ErrUploadClosed = errors.New("upload is closed")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("vault is closed")
	// ErrCorrupt marks what is stored and is not what it should be. It is
	// block.ErrCorrupt, so errors of block and diskmap match it too. Those of
	// the store are CorruptErrors.
	ErrCorrupt = block.ErrCorrupt
)

// CorruptError names a stored block that cannot be used. It matches ErrCorrupt.
type CorruptError struct {
	Digest block.Digest // what was asked for; block.Zero if not known
	ID     uint64       // its id in blocks/
	Point  string       // the point that was read, "" when none was named
	Err    error        // what is wrong with it
}

func (e *CorruptError) Error() string {
	var b strings.Builder
	if e.Point != "" {
		fmt.Fprintf(&b, "point %s: ", e.Point)
	}
	b.WriteString("block ")
	if e.Digest != block.Zero {
		fmt.Fprintf(&b, "%s ", e.Digest)
	}
	fmt.Fprintf(&b, "(id %d) is damaged: %v", e.ID, e.Err)
	return b.String()
}

func (e *CorruptError) Unwrap() error { return e.Err }

// Is makes every CorruptError match ErrCorrupt, whatever caused it.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// FullError says how much space is missing. It matches ErrFull.
type FullError struct {
	Path string // directory on the full file system
	Free uint64 // bytes available to this process there
	Need uint64 // bytes that must be available
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: %s has %s free, %s needed: free some space or add a disk, then try again",
		ErrFull, e.Path, humanize.IBytes(e.Free), humanize.IBytes(e.Need))
}

// Is makes every FullError match ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }
