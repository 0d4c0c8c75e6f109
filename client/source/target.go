package source

import (
	"context"
	"errors"
	"io"
)

// DiskWriter writes one restored disk. WriteAt may be called from many
// goroutines at once, in any order; what is never written reads as zeros. A
// write beyond the size given at creation is refused.
//
// Exactly one of Commit and Abort ends it (Abort after a failed Commit, or
// after a successful one, is harmless, so that it can be deferred). Until
// Commit has returned nil nothing has the final name.
type DiskWriter interface {
	io.WriterAt
	// Commit makes the disk durable and gives it its final name. It refuses
	// with ErrTargetExists when that name has been taken meanwhile.
	Commit(ctx context.Context) error
	// Abort removes everything. It is idempotent.
	Abort() error
}

// CreateRaw starts a sparse raw image of size bytes at path. allocated is how
// many bytes the caller is going to write; when the file system has less room
// than that, the answer is ErrNoSpace at once. An existing path is refused
// with ErrTargetExists.
func CreateRaw(ctx context.Context, path string, size, allocated int64) (DiskWriter, error) {
	return nil, errors.New("not implemented")
}

// CreateQCOW2 does the same for a qcow2 image; it needs qemu-img and qemu-nbd.
// A size that is no multiple of 512 is rounded up to one, as QEMU does.
// Cancelling ctx makes writes fail.
func CreateQCOW2(ctx context.Context, path string, size, allocated int64) (DiskWriter, error) {
	return nil, errors.New("not implemented")
}
