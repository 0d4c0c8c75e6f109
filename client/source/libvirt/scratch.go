package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"cairn/client/source"
)

// makeScratch makes the scratch files of all disks, empty qcow2 images. libvirt
// would make them itself, one after the other, while the guest stands still: of
// a machine with 33 disks that is most of the time for which it is frozen.
func (p *snapshot) makeScratch(ctx context.Context) error {
	uid, gid := p.d.qemuOwner()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, t := range p.plan.tasks {
		if t.skip {
			continue
		}
		g.Go(func() error {
			path := scratchPath(p.scratch, t)
			cmd := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", path, strconv.FormatInt(t.info.Size, 10))
			cmd.Env = append(cmd.Environ(), "LC_ALL=C")
			out, err := cmd.CombinedOutput()
			switch {
			case errors.Is(err, exec.ErrNotFound):
				return fmt.Errorf("%w: qemu-img: install the package qemu-utils", source.ErrToolMissing)
			case err != nil:
				if cause := context.Cause(ctx); cause != nil {
					return cause
				}
				return fmt.Errorf("make scratch file of disk %s: %w: %s", t.info.Target, err, strings.TrimSpace(string(out)))
			}
			if uid >= 0 && uid != os.Geteuid() {
				if err := os.Chown(path, uid, gid); err != nil {
					return fmt.Errorf("scratch file for QEMU, which runs as user %d: %w", uid, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}
