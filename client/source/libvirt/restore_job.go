package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
)

// restoreJob is a source.Restore.
type restoreJob struct {
	r    *restorer
	ctx  context.Context
	hv   hypervisor
	spec source.RestoreSpec
	// dom becomes the definition of the restored machine.
	dom      *domxml.Domain
	places   map[string]*place // by target
	states   []*stateFile
	nvram    string // where the restored UEFI variables will be, or ""
	redefine bool
	looked   map[string]bool
	warnings []source.Warning
	log      *journal

	resumed bool // an instant restore that an earlier process began
	export  *served

	mu      sync.Mutex
	writers []source.DiskWriter
	over    bool
}

var _ source.Restore = (*restoreJob)(nil)

// Machine implements source.Restore.
func (j *restoreJob) Machine() string { return j.r.idOf(j.log.Domain) }

// Paths implements source.Restore.
func (j *restoreJob) Paths() map[string]string {
	paths := map[string]string{}
	for t, p := range j.places {
		paths[t] = p.path
	}
	return paths
}

// Warnings implements source.Restore.
func (j *restoreJob) Warnings() []source.Warning {
	return append([]source.Warning(nil), j.warnings...)
}

// restoreWriter tells when it was committed.
type restoreWriter struct {
	source.DiskWriter
	j *restoreJob
	p *place
}

func (w restoreWriter) Commit(ctx context.Context) error {
	if err := w.DiskWriter.Commit(ctx); err != nil {
		return err
	}
	w.j.mu.Lock()
	defer w.j.mu.Unlock()
	w.p.done = true
	return nil
}

// Disk implements source.Restore.
func (j *restoreJob) Disk(ctx context.Context, target string) (source.DiskWriter, error) {
	if j.resumed {
		return nil, fmt.Errorf("%w: the machine %q runs already, and waits for the instant restore of this point that made it: retry that job to go on with it", source.ErrTargetExists, j.log.Domain)
	}
	p := j.places[target]
	if p == nil {
		return nil, fmt.Errorf("restore %s: the restore has no disk %s", j.spec.ID, target)
	}
	var w source.DiskWriter
	var err error
	switch {
	case p.block:
		// The machine was off when this was prepared; that may be long ago.
		if j.hv, err = j.r.connect(ctx); err != nil {
			return nil, mapped(err)
		}
		if err := j.stillOff(ctx); err != nil {
			return nil, err
		}
		// From here on the old disk is gone. Should this process die, the machine
		// must not be started by itself on a mixture of two.
		if err := j.r.forget(j.log.UUID); err != nil {
			return nil, err
		}
		w, err = source.OpenVolume(ctx, p.path, p.Size)
	case p.format == "raw":
		w, err = source.CreateRaw(ctx, p.staged, p.Size, p.Data)
	default:
		w, err = source.CreateQCOW2(ctx, p.staged, p.Size, p.Data)
	}
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.writers = append(j.writers, w)
	return restoreWriter{w, j, p}, nil
}

// stillOff refuses to go on when a machine that is restored in place was
// started, or another one came to have its place.
func (j *restoreJob) stillOff(ctx context.Context) error {
	dom, err := j.log.lookup(ctx, j.hv)
	switch {
	case errors.Is(err, source.ErrMachineNotFound):
		if j.log.Created {
			return nil
		}
		return err
	case err != nil:
		return err
	case j.log.Created:
		return fmt.Errorf("%w: %s was defined while it was being restored", source.ErrTargetExists, dom.Name)
	}
	return j.mustBeOff(dom)
}

// Commit implements source.Restore.
func (j *restoreJob) Commit(ctx context.Context, start bool) error {
	if err := j.commit(ctx, start); err != nil {
		return fmt.Errorf("restore %s: %w", j.log.Domain, err)
	}
	return nil
}

func (j *restoreJob) commit(ctx context.Context, start bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || j.resumed || j.log.Phase != phaseWrite {
		return errors.New("it has been committed or aborted already")
	}
	for _, k := range j.spec.Disks {
		if !j.places[k.Target].done {
			return fmt.Errorf("disk %s has not been written", k.Target)
		}
	}
	hv, err := j.r.connect(ctx)
	if err != nil {
		return mapped(err)
	}
	j.hv = hv
	if err := j.stillOff(ctx); err != nil {
		return err
	}
	if err := j.finalXML(); err != nil {
		return err
	}
	if err := j.prepareMoves(); err != nil {
		return err
	}
	j.log.Start = start
	if err := j.log.write(phasePlace); err != nil {
		return err
	}
	if err := j.putInPlace(ctx); err != nil {
		return j.takeBack(err)
	}
	j.over = true
	// From here on the restore has succeeded, whatever becomes of the rest:
	// cleanUpRestores removes it later.
	if err := j.log.write(phaseDone); err != nil {
		j.log.f.Close()
		j.warn("what was kept of the old state is still there: %v", err)
		return nil
	}
	if err := j.r.finish(ctx, j.hv, j.log); err != nil {
		j.log.f.Close()
		j.warn("what was kept of the old state could not all be removed yet: %v", err)
	}
	return nil
}

// finalXML is set for a new machine only now: until then a plan may change.
func (j *restoreJob) finalXML() error {
	if j.log.New {
		j.log.NewXML = string(j.dom.Bytes())
	}
	return j.r.step("begin")
}

// prepareMoves readies the staged files and lists what is to be renamed.
func (j *restoreJob) prepareMoves() error {
	if err := j.writeStates(); err != nil {
		return err
	}
	j.log.Moves = nil
	for _, k := range j.spec.Disks {
		p := j.places[k.Target]
		if p.block {
			continue
		}
		if p.kept != "" {
			if err := likeness(p.path, p.staged); err != nil {
				return fmt.Errorf("disk %s: %w", k.Target, err)
			}
		}
		if err := j.addMove(move{Staged: p.staged, Final: p.path, Kept: p.kept, Stays: p.stays}); err != nil {
			return err
		}
	}
	for _, s := range j.states {
		if err := j.addMove(move{Staged: s.staged, Final: s.path, Kept: s.kept, Stays: s.stays}); err != nil {
			return err
		}
	}
	return nil
}

func (j *restoreJob) addMove(m move) error {
	if err := m.identify(); err != nil {
		return err
	}
	j.log.Moves = append(j.log.Moves, m)
	return nil
}

// putInPlace renames, defines and starts.
func (j *restoreJob) putInPlace(ctx context.Context) error {
	if err := j.r.place(j.log); err != nil {
		return err
	}
	if j.log.NewXML != "" {
		if err := j.r.step("define"); err != nil {
			return err
		}
		if _, err := j.hv.DefineXML(ctx, j.log.NewXML, 0); err != nil {
			return fmt.Errorf("define the machine: %w", mapped(err))
		}
	}
	if err := j.r.step("placed"); err != nil {
		return err
	}
	j.log.Placed = true
	if err := j.log.write(phasePlaced); err != nil {
		return err
	}
	if j.log.Start {
		return j.r.startRestored(ctx, j.hv, j.log)
	}
	return nil
}

// takeBack undoes a commit that failed. It does not depend on the context that
// the commit had, which may be why it failed.
func (j *restoreJob) takeBack(cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), time.Minute)
	defer cancel()
	j.over = true
	err := j.log.write(phaseBack)
	if err == nil {
		var hv hypervisor
		if hv, err = j.r.connect(ctx); err == nil {
			err = j.r.undo(ctx, hv, j.log)
		}
	}
	if j.log.forward {
		j.warn("the machine runs on the restored disks, although its start was answered with: %v", cause)
		if err != nil {
			j.log.f.Close()
		}
		return nil
	}
	if err != nil {
		j.log.f.Close() // cleanUpRestores goes on
		return fmt.Errorf("%w (and the old state could not be brought back yet: %w)", cause, err)
	}
	return cause
}

// Abort implements source.Restore.
func (j *restoreJob) Abort() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || j.log == nil {
		return nil
	}
	j.over = true
	var errs []error
	for _, w := range j.writers {
		errs = append(errs, w.Abort())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), time.Minute)
	defer cancel()
	hv, err := j.hv, error(nil)
	if j.log.Phase != phaseWrite { // an instant machine is there
		if hv, err = j.r.connect(ctx); err != nil {
			err = mapped(err)
		}
	}
	if err == nil {
		err = j.r.undo(ctx, hv, j.log)
	}
	if err != nil {
		j.log.f.Close()
		errs = append(errs, fmt.Errorf("abandon restore %s: %w", j.spec.ID, err))
	}
	j.stopServing()
	return errors.Join(errs...)
}
