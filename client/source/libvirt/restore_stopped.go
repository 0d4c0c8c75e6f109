package libvirt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

// A machine that is stopped for a restore has a note, the file UUID.stopped
// beside the journals, from before it is stopped until it runs again or its
// restore has succeeded. The process that stopped it holds a lock on the note for
// as long as it lives; a note without one tells the next process of a machine
// that it owes a start. What counts is that the file is there, and its name; in
// it is the machine's name, for those who look.
const noteSuffix = ".stopped"

func (r *restorer) notePath(uuid string) string {
	return filepath.Join(r.journals, uuid+noteSuffix)
}

// makeDirs makes the directory of journals. QEMU's user must get through what is
// above: sessions are in there, too.
func (r *restorer) makeDirs() error {
	return errors.Join(os.MkdirAll(filepath.Dir(r.journals), 0o711), os.MkdirAll(r.journals, 0o700))
}

// note makes durable that a machine runs that is about to be stopped.
func (r *restorer) note(dom rpc.Domain) error {
	r.notes.Lock()
	defer r.notes.Unlock()
	uuid := dom.UUID.String()
	if r.noted[uuid] != nil {
		return nil
	}
	if err := r.makeDirs(); err != nil {
		return fmt.Errorf("note that it runs: %w", err)
	}
	f, err := os.OpenFile(r.notePath(uuid), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("note that it runs: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("note that it runs: %s: %w", f.Name(), errBusy)
	}
	_, err = f.WriteAt([]byte(dom.Name+"\n"), 0)
	if err := errors.Join(err, f.Sync(), syncDir(r.journals)); err != nil {
		return fmt.Errorf("note that it runs: %w", errors.Join(err, r.removeNote(uuid), f.Close()))
	}
	r.noted[uuid] = f
	return nil
}

// forget removes the note of a machine, if there is one and it is not that of
// another process that lives.
func (r *restorer) forget(uuid string) error {
	r.notes.Lock()
	defer r.notes.Unlock()
	f := r.noted[uuid]
	if f == nil {
		var err error
		if f, err = r.lockNote(uuid); f == nil {
			return err
		}
		defer f.Close()
	}
	if err := r.step("forget"); err != nil {
		return err
	}
	if err := r.removeNote(uuid); err != nil {
		return err
	}
	if r.noted[uuid] != nil {
		delete(r.noted, uuid)
		return f.Close()
	}
	return nil
}

func (r *restorer) removeNote(uuid string) error {
	if err := os.Remove(r.notePath(uuid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(r.journals)
}

// lockNote opens the note that a process has left which is gone; nil if there is
// none. Notes are locked.
func (r *restorer) lockNote(uuid string) (*os.File, error) {
	f, err := os.Open(r.notePath(uuid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !exists(f.Name()) {
		return nil, f.Close()
	}
	return f, nil
}

// startNoted starts the machines that a process which is gone had stopped and not
// started again. Those in pending, by UUID, have a restore that has not ended; ""
// stands for any.
func (r *restorer) startNoted(ctx context.Context, hv hypervisor, names []string, pending map[string]bool) error {
	var errs []error
	for _, name := range names {
		uuid := strings.TrimSuffix(filepath.Base(name), noteSuffix)
		if err := r.startAgain(ctx, hv, uuid, pending[uuid] || pending[""]); err != nil {
			errs = append(errs, fmt.Errorf("start machine %s, which ran before its restore was broken off: %w", uuid, err))
		}
	}
	return errors.Join(errs...)
}

func (r *restorer) startAgain(ctx context.Context, hv hypervisor, uuid string, pending bool) error {
	r.notes.Lock()
	defer r.notes.Unlock()
	if r.noted[uuid] != nil {
		return nil
	}
	f, err := r.lockNote(uuid)
	if f == nil {
		return err
	}
	defer f.Close()
	if pending {
		return fmt.Errorf("%w: a restore of it has not ended", source.ErrMachineState)
	}
	u, err := rpc.ParseUUID(uuid)
	if err != nil {
		return err
	}
	dom, err := hv.LookupByUUID(ctx, u)
	if errors.Is(err, rpc.ErrNoDomain) {
		return r.removeNote(uuid)
	} else if err != nil {
		return mapped(err)
	}
	on, err := isActive(ctx, hv, dom)
	if err != nil {
		return err
	}
	if !on {
		// The answer of a start that is under way is waited for.
		if _, err := hv.Start(context.WithoutCancel(ctx), dom, 0); err != nil {
			if on, stateErr := isActive(ctx, hv, dom); stateErr != nil || !on {
				return mapped(err)
			}
		}
		r.log.Info("a machine runs again that a process which is gone had stopped for a restore", "domain", dom.Name)
	}
	return r.removeNote(uuid)
}

// uuidIn is the UUID of the machine of a journal that cannot be locked or ended,
// or "" if it does not tell.
func uuidIn(path string) (uuid string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		var rec record
		if json.Unmarshal(line, &rec) == nil {
			uuid = rec.UUID
		}
	}
	return uuid
}
