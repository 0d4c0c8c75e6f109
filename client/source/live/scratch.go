package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"cairn/client/source"
)

const (
	// DefaultState is where sessions are kept unless something else is asked for.
	// It is not below /var/lib/cairn, which is a server's, and closed to QEMU's
	// user.
	DefaultState = "/var/lib/cairn-agent"
	// DefaultReserve is how many bytes of the scratch files' file system are left
	// alone unless something else is asked for.
	DefaultReserve = 512 << 20
)

// CreateScratch makes an empty qcow2 image of a disk's size for what the guest
// overwrites, and gives it to the user that QEMU runs as: see GiveTo.
//
// Errors: source.ErrToolMissing.
func CreateScratch(ctx context.Context, path string, size int64, uid, gid int) error {
	cmd := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", path, strconv.FormatInt(size, 10))
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: qemu-img: install the package qemu-utils", source.ErrToolMissing)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("scratch file: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return GiveTo(path, uid, gid)
}

// GiveTo gives a file or directory to the user that QEMU runs as. Nothing is
// done when that is who we are, or uid is -1.
func GiveTo(path string, uid, gid int) error {
	if uid < 0 || uid == os.Geteuid() {
		return nil
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return fmt.Errorf("give it to QEMU, which runs as user %d: %w (run as root)", uid, err)
	}
	return nil
}
