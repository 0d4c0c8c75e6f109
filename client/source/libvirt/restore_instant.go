package libvirt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/nbd"
)

// An instant machine runs on qcow2 overlays over disks that this process serves
// by NBD. While this process is away (it was restarted, or crashed), QEMU is asked
// to try to come back to the socket for reconnectFor, while the guest's reads of
// data that has not been moved in wait. libvirt 9.0 does not pass that on for a
// backing file, so there they fail at once; by the disks' error policy the machine
// is then paused rather than told of a broken disk, but for SCSI disks, whose
// reads give the guest an error (see domxml.PauseOnError). The machine is not
// lost: the same restore asked for again (same point, same name) finds the
// journal, serves on the same socket, lets a paused machine go on and moves the
// rest. Abort is what ends it otherwise.
const reconnectFor = 15 * time.Minute

// served are the disks being served.
type served struct {
	cancel context.CancelFunc
	done   chan error
}

// digest is what two asks for the same restore have in common.
func digest(s source.RestoreSpec) string {
	b, _ := json.Marshal([]any{s.Definition, s.Disks, s.New.Title})
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// resume looks whether the restore is an instant one that an earlier process
// began, under whatever ID, and takes it over.
func (j *restoreJob) resume(title string) error {
	if j.log.Phase != phaseInstant {
		names, err := filepath.Glob(filepath.Join(j.r.journals, "*.journal"))
		if err != nil {
			return err
		}
		for _, name := range names {
			l, err := lockJournal(name)
			if err != nil {
				continue
			}
			if l.Phase != phaseInstant || l.Domain != title {
				l.f.Close()
				continue
			}
			if err := j.log.remove(); err != nil {
				return errors.Join(err, l.f.Close())
			}
			j.log = l
			break
		}
	}
	if j.log.Phase != phaseInstant {
		return nil
	}
	if j.log.Spec != digest(j.spec) {
		return fmt.Errorf("%w: the machine %q still reads from another point: finish that restore, or remove the machine", source.ErrTargetExists, j.log.Domain)
	}
	if _, err := j.log.lookup(j.ctx, j.hv); errors.Is(err, source.ErrMachineNotFound) {
		return fmt.Errorf("%w: the machine %q was undefined while it was being restored: ask again", source.ErrMachineState, title)
	} else if err != nil {
		return err
	}
	now, err := domxml.Parse([]byte(j.log.NewXML))
	if err != nil {
		return err
	}
	for _, k := range j.spec.Disks {
		d, _ := now.Disk(k.Target)
		j.places[k.Target] = &place{RestoreDisk: k, path: d.Path, format: "qcow2"}
	}
	j.resumed = true
	j.warn("the machine %q runs already: the restore that was broken off goes on", title)
	return nil
}

// Instant implements source.Restore.
func (j *restoreJob) Instant(ctx context.Context, disks map[string]source.Backing) error {
	if err := j.instant(ctx, disks); err != nil {
		return fmt.Errorf("instant restore of %s: %w", j.log.Domain, err)
	}
	return nil
}

func (j *restoreJob) instant(ctx context.Context, disks map[string]source.Backing) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || !j.log.New || j.export != nil {
		return fmt.Errorf("%w: it is for new machines, once", source.ErrRestoreUnsupported)
	}
	for _, k := range j.spec.Disks {
		if b := disks[k.Target]; b == nil || b.Size() > roundUp(k.Size) || b.Size() < k.Size {
			return fmt.Errorf("disk %s: what it is to be read from is missing or not of its size", k.Target)
		}
	}
	if j.resumed {
		if err := j.listen(disks); err != nil {
			return err
		}
		return j.goOn(ctx)
	}
	if err := j.overlays(ctx, disks); err != nil {
		return err
	}
	if err := j.prepareMoves(); err != nil {
		return err
	}
	j.log.Start, j.log.Spec = true, digest(j.spec)
	if err := j.log.write(phasePlace); err != nil {
		return err
	}
	if err := j.listen(disks); err != nil {
		return j.giveUp(err)
	}
	if err := j.r.place(j.log); err != nil {
		return j.giveUp(err)
	}
	if err := j.r.step("define"); err != nil {
		return j.giveUp(err)
	}
	if _, err := j.hv.DefineXML(ctx, j.log.NewXML, 0); err != nil {
		return j.giveUp(fmt.Errorf("define the machine: %w", mapped(err)))
	}
	if err := j.r.startRestored(ctx, j.hv, j.log); err != nil {
		return j.giveUp(err)
	}
	// From here on a crash of this process must not cost the machine.
	if err := j.log.write(phaseInstant); err != nil {
		return j.giveUp(err)
	}
	return nil
}

func (j *restoreJob) giveUp(cause error) error {
	err := j.takeBack(cause)
	j.stopServing()
	return err
}

// roundUp is the size that a disk has in QEMU, which counts whole sectors.
func roundUp(n int64) int64 { return (n + 511) &^ 511 }

// overlays makes the images, and the two definitions: of the machine while it
// reads from elsewhere, and of that which it becomes.
func (j *restoreJob) overlays(ctx context.Context, disks map[string]source.Backing) error {
	j.log.Socket = filepath.Join(j.r.sockets, restorePrefix+j.spec.ID+".sock")
	for _, k := range j.spec.Disks {
		p := j.places[k.Target]
		if p.format != "qcow2" {
			p.format = "qcow2"
			p.path = p.path[:len(p.path)-len(filepath.Ext(p.path))] + ".qcow2"
			if exists(p.path) {
				return fmt.Errorf("%w: %s", source.ErrTargetExists, p.path)
			}
			p.staged = filepath.Join(filepath.Dir(p.staged), filepath.Base(p.path))
			j.warn("disk %s was raw; restored instantly, it is qcow2", k.Target)
		}
		// The image names its backing too, so that nobody who opens it without
		// the definition takes what is missing for zeros. It is not opened now (-u).
		backing := "nbd+unix:///" + k.Target + "?socket=" + j.log.Socket
		cmd := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw",
			p.staged, strconv.FormatInt(roundUp(k.Size), 10))
		out, err := cmd.CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w: qemu-img: install the package qemu-utils", source.ErrToolMissing)
		} else if err != nil {
			return fmt.Errorf("create %s: %w: %.300s", p.path, err, bytes.TrimSpace(out))
		}
		if err := os.Chmod(p.staged, 0o600); err != nil {
			return err
		}
	}
	if err := j.moveDisks(j.spec.Disks, nil); err != nil {
		return err
	}
	j.log.Final = string(j.dom.Bytes())
	during := j.dom.Clone()
	for _, k := range j.spec.Disks {
		place := domxml.Place{Path: j.places[k.Target].path, Format: "qcow2",
			Backing: &domxml.NBD{Socket: j.log.Socket, Export: k.Target, Reconnect: reconnectFor}}
		notices, err := during.SetDisk(k.Target, place)
		if err != nil {
			return err
		}
		j.warnAll(notices)
		during.PauseOnError(k.Target)
	}
	j.log.NewXML = string(during.Bytes())
	return nil
}

// listen serves the disks on the restore's socket, to root and QEMU's user only.
func (j *restoreJob) listen(disks map[string]source.Backing) error {
	exports := map[string]nbd.Export{}
	for target, b := range disks {
		exports[target] = nbd.Export{Data: b, Description: j.log.Domain + " " + target}
	}
	if err := os.MkdirAll(j.r.sockets, 0o711); err != nil {
		return fmt.Errorf("serve the disks: %w", err)
	}
	if err := os.Remove(j.log.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve the disks: %w", err)
	}
	// Who may connect is who may write to the socket: by any sane umask only its
	// owner until the owner changes.
	l, err := net.Listen("unix", j.log.Socket)
	if err != nil {
		return fmt.Errorf("serve the disks: %w", err)
	}
	if err := os.Chmod(j.log.Socket, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("serve the disks: %w", err)
	}
	if u, ok := qemuUser(); ok {
		if err := os.Chown(j.log.Socket, u.uid, u.gid); err != nil && !errors.Is(err, os.ErrPermission) {
			l.Close()
			return fmt.Errorf("serve the disks: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(j.ctx)
	j.export = &served{cancel: cancel, done: make(chan error, 1)}
	go func() { j.export.done <- nbd.NewServer(exports).Serve(ctx, l) }()
	return nil
}

// stopServing ends the server; QEMU must not need it any more.
func (j *restoreJob) stopServing() {
	if j.export != nil {
		j.export.cancel()
		<-j.export.done
		j.export = nil
		os.Remove(j.log.Socket)
	}
}

// goOn lets a machine run that was paused when its data could not be reached.
func (j *restoreJob) goOn(ctx context.Context) error {
	dom, err := j.log.lookup(ctx, j.hv)
	if err != nil {
		return err
	}
	s, reason, err := j.hv.DomainState(ctx, dom)
	if err != nil {
		return mapped(err)
	}
	switch {
	case s == rpc.StatePaused && reason == rpc.PausedIOError:
		return mapped(j.hv.Resume(ctx, dom))
	case !active(s):
		return j.r.startRestored(ctx, j.hv, j.log)
	}
	return nil
}
