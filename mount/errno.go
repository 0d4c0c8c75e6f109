package mount

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// errnos says what the sentinels of the readers are in errno. All else,
// filesys.ErrCorrupt and what an Image returns, is EIO.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{filesys.ErrNotExist, syscall.ENOENT},
	{filesys.ErrNoXattr, syscall.ENODATA},
	{filesys.ErrNotDir, syscall.ENOTDIR},
	{filesys.ErrIsDir, syscall.EISDIR},
	{filesys.ErrInvalid, syscall.EINVAL},
	{tree.ErrLoop, syscall.ELOOP},
	{context.Canceled, syscall.EINTR},
}

// reporter turns errors into errno and logs those that tell of damage.
type reporter struct {
	log  *slog.Logger
	mu   sync.Mutex
	said map[string]struct{}
}

// maxSaid bounds how many messages are remembered as said.
const maxSaid = 1024

// errno translates err, and logs it with the path when it means that something
// is wrong: the kernel shows programs only an errno. The kernel retries failed
// reads page by page, so each message is logged once.
func (r *reporter) errno(err error, op string, path func() string) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) && !errors.Is(err, filesys.ErrCorrupt) {
			return e.errno
		}
	}
	errno := syscall.EIO
	if errors.Is(err, filesys.ErrUnsupported) {
		errno = syscall.EOPNOTSUPP
	}
	if text := err.Error(); r.first(text) {
		r.log.Error("cannot "+op, "path", path(), "error", text)
	}
	return errno
}

// first says whether a message is new.
func (r *reporter) first(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, said := r.said[text]; said {
		return false
	}
	if len(r.said) >= maxSaid || r.said == nil {
		r.said = make(map[string]struct{})
	}
	r.said[text] = struct{}{}
	return true
}
