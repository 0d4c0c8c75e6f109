package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

// place puts the staged files where they belong. What was there is kept beside.
func (r *restorer) place(j *journal) error {
	for _, m := range j.Moves {
		if m.Kept != "" {
			if err := r.step("keep " + m.Final); err != nil {
				return err
			}
			if err := renameNew(m.Final, m.Kept); err != nil && !(errors.Is(err, os.ErrNotExist)) {
				return err
			}
		}
		if err := r.step("place " + m.Final); err != nil {
			return err
		}
		if err := renameNew(m.Staged, m.Final); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(m.Final)); err != nil {
			return err
		}
	}
	return nil
}

// undo brings back what there was before the restore, and ends the journal.
// Every step can be repeated. A machine that was restored in place and runs has
// been started on what was restored, by a call whose answer was lost: it is not
// taken from it, and the restore is finished.
func (r *restorer) undo(ctx context.Context, hv hypervisor, j *journal) error {
	if j.Placed && !j.New {
		dom, err := j.lookup(ctx, hv)
		if err == nil {
			j.forward, err = isActive(ctx, hv, dom)
		}
		if err != nil && !errors.Is(err, source.ErrMachineNotFound) {
			return err
		}
		if j.forward {
			if err := j.write(phaseDone); err != nil {
				return err
			}
			return r.finish(ctx, hv, j)
		}
	}
	if err := r.undoDomain(ctx, hv, j); err != nil {
		return err
	}
	for i := len(j.Moves) - 1; i >= 0; i-- {
		m := j.Moves[i]
		kept := m.Kept != "" && exists(m.Kept)
		switch {
		case m.ours(m.Final) && kept:
			if err := os.Rename(m.Kept, m.Final); err != nil {
				return err
			}
		case m.ours(m.Final):
			if err := os.Remove(m.Final); err != nil {
				return err
			}
		case kept:
			if err := renameNew(m.Kept, m.Final); err != nil {
				return err
			}
		default:
			continue
		}
		if err := syncDir(filepath.Dir(m.Final)); err != nil {
			return err
		}
	}
	if err := removeStaging(j); err != nil {
		return err
	}
	for i := len(j.Made) - 1; i >= 0; i-- {
		os.Remove(j.Made[i]) // unless something is in it
	}
	return j.remove()
}

// undoDomain brings the definition back.
func (r *restorer) undoDomain(ctx context.Context, hv hypervisor, j *journal) error {
	if j.Phase == phaseWrite || j.UUID == "" {
		return nil
	}
	dom, err := j.lookup(ctx, hv)
	if errors.Is(err, source.ErrMachineNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	on, err := isActive(ctx, hv, dom)
	if err != nil {
		return err
	}
	switch {
	case j.Created && dom.Name == j.Domain:
		if on {
			if err := hv.Destroy(ctx, dom, 0); err != nil {
				if on, stateErr := isActive(ctx, hv, dom); stateErr == nil && on {
					return mapped(err)
				}
			}
		}
		return undefine(ctx, hv, dom, j.New)
	case on:
		return fmt.Errorf("%w: %s was started while it was being restored: shut it down", source.ErrMachineState, dom.Name)
	case j.OldXML != "":
		if _, err := hv.DefineXML(ctx, j.OldXML, 0); err != nil {
			return fmt.Errorf("bring back the definition of %s: %w", dom.Name, mapped(err))
		}
	}
	return nil
}

// undefine forgets a domain, with its state files if all is set.
func undefine(ctx context.Context, hv hypervisor, dom rpc.Domain, all bool) error {
	flags := rpc.UndefineManagedSave | rpc.UndefineSnapshots | rpc.UndefineCheckpoints
	nvram, tpm := rpc.UndefineKeepNVRAM, rpc.UndefineKeepTPM
	if all {
		nvram, tpm = rpc.UndefineNVRAM, rpc.UndefineTPM
	}
	err := hv.Undefine(ctx, dom, flags|nvram|tpm)
	if err != nil && !errors.Is(err, rpc.ErrNoDomain) { // before libvirt 8.9 no TPM can be told of
		err = hv.Undefine(ctx, dom, flags|nvram)
	}
	if err != nil && !errors.Is(err, rpc.ErrNoDomain) {
		return fmt.Errorf("undefine %s: %w", dom.Name, mapped(err))
	}
	return nil
}

// finish removes what was kept of the old state, and ends the journal. The
// checkpoints of backups go too: their bitmaps were in the disks that were
// replaced, so that the next backup has to read everything anyway.
func (r *restorer) finish(ctx context.Context, hv hypervisor, j *journal) error {
	// It has been started if that was asked for.
	if err := r.forget(j.UUID); err != nil {
		return err
	}
	for _, m := range j.Moves {
		if m.Kept == "" || m.Stays {
			continue
		}
		if err := r.step("remove " + m.Kept); err != nil {
			return err
		}
		if err := os.Remove(m.Kept); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := removeStaging(j); err != nil {
		return err
	}
	if dom, err := j.lookup(ctx, hv); err == nil && !j.New {
		cps, err := hv.ListCheckpoints(ctx, dom, 0)
		if err != nil && !errors.Is(err, rpc.ErrNoSupport) {
			return mapped(err)
		}
		for _, cp := range cps {
			if !strings.HasPrefix(cp.Name, "cairn-") {
				continue
			}
			if err := hv.DeleteCheckpoint(ctx, cp, rpc.CheckpointMetadataOnly); err != nil && !errors.Is(err, rpc.ErrNoCheckpoint) {
				return mapped(err)
			}
		}
	}
	return j.remove()
}

// lookup finds the domain of a restore; source.ErrMachineNotFound.
func (j *journal) lookup(ctx context.Context, hv hypervisor) (rpc.Domain, error) {
	u, err := rpc.ParseUUID(j.UUID)
	if err != nil {
		return rpc.Domain{}, fmt.Errorf("%w: %w", source.ErrMachineNotFound, err)
	}
	dom, err := hv.LookupByUUID(ctx, u)
	return dom, mapped(err)
}

// startRestored starts the machine unless it runs.
func (r *restorer) startRestored(ctx context.Context, hv hypervisor, j *journal) error {
	dom, err := j.lookup(ctx, hv)
	if err != nil {
		return err
	}
	if on, err := isActive(ctx, hv, dom); err != nil || on {
		return err
	}
	if err := r.step("start"); err != nil {
		return err
	}
	// A start that is under way cannot be called back: its answer is waited for.
	if _, err := hv.Start(context.WithoutCancel(ctx), dom, 0); err != nil {
		if on, stateErr := isActive(ctx, hv, dom); stateErr == nil && on {
			return nil
		}
		return fmt.Errorf("start %s: %w", dom.Name, mapped(err))
	}
	return nil
}

const stagingPrefix = ".cairn-restore-"

func removeStaging(j *journal) error {
	if j.Socket != "" {
		if err := os.Remove(j.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, dir := range j.Staging {
		if !strings.HasPrefix(filepath.Base(dir), stagingPrefix) {
			return fmt.Errorf("the journal of restore %s names %s as its own", j.ID, dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// renameNew renames a file to a name that must be free.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS cannot, but it has links
		if err = unix.Link(from, to); err == nil {
			err = unix.Unlink(from)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rename to %s: %w", to, source.ErrTargetExists)
	} else if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
