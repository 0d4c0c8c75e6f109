package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

// hypervisor is what a restore needs of libvirt; *rpc.Conn is one.
type hypervisor interface {
	ListDomains(ctx context.Context, flags rpc.ListFlags) ([]rpc.Domain, error)
	LookupByName(ctx context.Context, name string) (rpc.Domain, error)
	LookupByUUID(ctx context.Context, uuid rpc.UUID) (rpc.Domain, error)
	DomainState(ctx context.Context, dom rpc.Domain) (rpc.State, int, error)
	XMLDesc(ctx context.Context, dom rpc.Domain, flags rpc.XMLFlags) (string, error)
	DefineXML(ctx context.Context, xml string, flags rpc.DefineFlags) (rpc.Domain, error)
	Undefine(ctx context.Context, dom rpc.Domain, flags rpc.UndefineFlags) error
	Start(ctx context.Context, dom rpc.Domain, flags rpc.StartFlags) (rpc.Domain, error)
	Shutdown(ctx context.Context, dom rpc.Domain, flags rpc.ShutdownFlags) error
	Destroy(ctx context.Context, dom rpc.Domain, flags rpc.DestroyFlags) error
	Resume(ctx context.Context, dom rpc.Domain) error
	HasManagedSave(ctx context.Context, dom rpc.Domain) (bool, error)
	VolumePath(ctx context.Context, pool, volume string) (string, error)
	BlockPull(ctx context.Context, dom rpc.Domain, disk string, bandwidth uint64) error
	BlockJob(ctx context.Context, dom rpc.Domain, disk string) (rpc.BlockJob, bool, error)
	BlockJobAbort(ctx context.Context, dom rpc.Domain, disk string, flags rpc.BlockJobAbortFlags) error
	ListCheckpoints(ctx context.Context, dom rpc.Domain, flags rpc.CheckpointListFlags) ([]rpc.Checkpoint, error)
	DeleteCheckpoint(ctx context.Context, cp rpc.Checkpoint, flags rpc.CheckpointDeleteFlags) error
	Subscribe(ctx context.Context) (<-chan rpc.Event, error)
}

var _ hypervisor = (*rpc.Conn)(nil)

// restoreSockets is the directory of the sockets that instant machines read from.
// A socket of a restore is called restorePrefix and its ID.
const (
	restoreSockets = "/run/cairn"
	restorePrefix  = "restore-"
)

// restorer restores machines through a hypervisor.
type restorer struct {
	// connect returns the connection there is now, or makes one. It is asked
	// again after every rpc.ErrDisconnected.
	connect func(ctx context.Context) (hypervisor, error)
	// idOf is the machine's ID by its domain's name.
	idOf func(name string) string
	// Directories: of disks whose own is not to be had, of UEFI variables, of
	// TPMs, of this package's journals, and of sockets that QEMU connects to.
	images, nvram, swtpm, journals, sockets string
	// stopFor is how long a guest may take to shut down before its power is cut.
	stopFor time.Duration
	// lookEvery is how often the progress of a pull is asked for; its end is told
	// by an event.
	lookEvery time.Duration
	// step is called before each step that a crash may follow. Tests fail there.
	step func(name string) error
	// log gets what nobody is there to be told.
	log *slog.Logger

	// noted are the locked notes of machines that this process has stopped, by
	// UUID; notes guards it, and the files.
	notes sync.Mutex
	noted map[string]*os.File
}

// newRestorer has the directories of libvirt's system instance. state is a
// directory of the caller's own that survives restarts.
func newRestorer(connect func(ctx context.Context) (hypervisor, error), idOf func(string) string, state string) *restorer {
	return &restorer{
		connect: connect, idOf: idOf,
		images:   "/var/lib/libvirt/images",
		nvram:    "/var/lib/libvirt/qemu/nvram",
		swtpm:    "/var/lib/libvirt/swtpm",
		journals: filepath.Join(state, "restores"),
		sockets:  restoreSockets,
		stopFor:  time.Minute, lookEvery: time.Second,
		step: func(string) error { return nil },
		log:  slog.New(slog.DiscardHandler), noted: map[string]*os.File{},
	}
}

// mapped gives errors of libvirt the sentinel that callers know.
func mapped(err error) error {
	var e *rpc.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpc.ErrNoDomain):
		return fmt.Errorf("%w: %w", source.ErrMachineNotFound, err)
	case errors.Is(err, rpc.ErrDisconnected), !errors.As(err, &e) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", source.ErrHypervisor, err)
	}
	return err
}

// machine finds a domain by its machine's ID.
func (r *restorer) machine(ctx context.Context, hv hypervisor, id string) (rpc.Domain, error) {
	doms, err := hv.ListDomains(ctx, 0)
	if err != nil {
		return rpc.Domain{}, mapped(err)
	}
	for _, d := range doms {
		if r.idOf(d.Name) == id {
			return d, nil
		}
	}
	return rpc.Domain{}, fmt.Errorf("%s: %w", id, source.ErrMachineNotFound)
}

// active tells whether a state is one of a machine that has a QEMU.
func active(s rpc.State) bool { return s != rpc.StateShutoff && s != rpc.StateNone }

// isActive asks for a domain's state.
func isActive(ctx context.Context, hv hypervisor, dom rpc.Domain) (bool, error) {
	s, _, err := hv.DomainState(ctx, dom)
	if err != nil {
		return false, mapped(err)
	}
	return active(s), nil
}

// StopMachine asks the guest to shut down and cuts its power if it has not
// within stopFor, or when it cannot hear: paused, or crashed. If this process
// dies before the machine runs again, the next one starts it: see note.
//
// A guest that was asked cannot be asked to stay. So when ctx ends then, this
// waits for it to be off, up to calledOffFor: who starts it again, as after any
// error, must not come before that.
func (r *restorer) StopMachine(ctx context.Context, machineID string) (was bool, err error) {
	hv, err := r.connect(ctx)
	if err != nil {
		return false, mapped(err)
	}
	dom, err := r.machine(ctx, hv, machineID)
	if err != nil {
		return false, fmt.Errorf("stop machine: %w", err)
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	events, err := hv.Subscribe(watching)
	if err != nil {
		return false, fmt.Errorf("stop machine %s: %w", machineID, mapped(err))
	}
	state, _, err := hv.DomainState(ctx, dom)
	if err != nil {
		return false, fmt.Errorf("stop machine %s: %w", machineID, mapped(err))
	}
	if !active(state) {
		return false, nil
	}
	if err := r.note(dom); err != nil {
		return true, fmt.Errorf("stop machine %s: %w", machineID, err)
	}
	defer func() {
		if err == nil {
			return
		}
		if on, stateErr := isActive(context.WithoutCancel(ctx), hv, dom); stateErr == nil && on {
			err = errors.Join(err, r.forget(dom.UUID.String()))
		}
	}()
	if err := r.step("stop"); err != nil {
		return true, err
	}
	if state == rpc.StateRunning || state == rpc.StateBlocked || state == rpc.StateShutdown {
		off, err := r.shutdown(ctx, hv, dom, events)
		if err != nil {
			return true, fmt.Errorf("stop machine %s: %w", machineID, err)
		}
		if off {
			return true, nil
		}
	}
	if err := hv.Destroy(ctx, dom, 0); err != nil {
		if on, stateErr := isActive(ctx, hv, dom); stateErr != nil || on {
			return true, fmt.Errorf("cut the power of machine %s: %w", machineID, mapped(err))
		}
	}
	return true, nil
}

// calledOffFor is how long a guest that was asked to shut down is waited for when
// nobody wants it to any more.
const calledOffFor = 20 * time.Second

// shutdown asks a guest to power off and tells whether it did in time.
func (r *restorer) shutdown(ctx context.Context, hv hypervisor, dom rpc.Domain, events <-chan rpc.Event) (bool, error) {
	limit := time.NewTimer(r.stopFor)
	defer limit.Stop()
	if err := hv.Shutdown(ctx, dom, rpc.ShutdownACPI); err != nil {
		on, stateErr := isActive(ctx, hv, dom)
		return stateErr == nil && !on, stateErr
	}
	calledOff := ctx.Done()
	for {
		select {
		case <-calledOff:
			calledOff = nil
			limit.Reset(min(r.stopFor, calledOffFor))
		case <-limit.C:
			return false, context.Cause(ctx)
		case e, ok := <-events:
			switch {
			case !ok:
				return false, fmt.Errorf("%w while the machine was shutting down", source.ErrHypervisor)
			case e.Kind == rpc.EventLost, e.Kind == rpc.EventLifecycle && e.Domain.UUID == dom.UUID && e.What == rpc.LifecycleStopped:
				if on, err := isActive(context.WithoutCancel(ctx), hv, dom); err != nil || !on {
					return err == nil, errors.Join(err, context.Cause(ctx))
				}
			}
		}
	}
}

// StartMachine starts a machine; one that runs already is fine.
func (r *restorer) StartMachine(ctx context.Context, machineID string) error {
	hv, err := r.connect(ctx)
	if err != nil {
		return mapped(err)
	}
	dom, err := r.machine(ctx, hv, machineID)
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	on, err := isActive(ctx, hv, dom)
	if err != nil {
		return err
	}
	if !on {
		if _, err := hv.Start(ctx, dom, 0); err != nil {
			return fmt.Errorf("start machine %s: %w", machineID, mapped(err))
		}
	}
	if err := r.forget(dom.UUID.String()); err != nil {
		// The next process finds the machine running, or starts it.
		r.log.Warn("the note that a machine is to be started again cannot be removed", "domain", dom.Name, "error", err)
	}
	return nil
}

// PrepareRestore implements source.Restorer.
func (r *restorer) PrepareRestore(ctx context.Context, spec source.RestoreSpec) (_ source.Restore, err error) {
	if source.IDOf(spec.ID, "x") != spec.ID {
		return nil, fmt.Errorf("restore: %q cannot name a restore", spec.ID)
	}
	if !isDefinition(spec) {
		return nil, fmt.Errorf("%w: the point holds no libvirt definition (%s)", source.ErrRestoreUnsupported, kindOr(spec.DefinitionKind))
	}
	dom, err := domxml.Parse(spec.Definition)
	if err != nil {
		return nil, fmt.Errorf("%w: the definition in the point: %w", source.ErrRestoreUnsupported, err)
	}
	for _, k := range spec.Disks {
		if _, ok := dom.Disk(k.Target); !ok {
			return nil, fmt.Errorf("%w: the definition in the point has no disk %s", source.ErrRestoreUnsupported, k.Target)
		}
		if k.Size <= 0 {
			return nil, fmt.Errorf("%w: disk %s has a size of %d bytes", source.ErrRestoreUnsupported, k.Target, k.Size)
		}
	}
	if err := r.makeDirs(); err != nil {
		return nil, fmt.Errorf("prepare restore: %w", err)
	}
	hv, err := r.connect(ctx)
	if err != nil {
		return nil, mapped(err)
	}
	j := &restoreJob{r: r, ctx: ctx, hv: hv, spec: spec, dom: dom, places: map[string]*place{}}
	defer func() {
		if err == nil {
			return
		}
		if j.log != nil && j.log.Phase == phaseInstant { // its machine is not this call's to remove
			j.over = true
			j.log.f.Close()
		}
		err = errors.Join(err, j.Abort())
	}()
	if j.log, err = r.openJournal(ctx, hv, spec.ID); err != nil {
		return nil, err
	}
	if spec.New != nil {
		err = j.planNew()
	} else {
		err = j.planInPlace()
	}
	if err == nil && !j.resumed {
		if err = j.checkSpace(); err == nil {
			err = j.stage()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("prepare restore: %w", err)
	}
	return j, nil
}

func isDefinition(s source.RestoreSpec) bool {
	return len(s.Definition) > 0 && strings.Contains(s.DefinitionKind, "libvirt")
}

func kindOr(kind string) string {
	if kind == "" {
		return "it has none"
	}
	return "it is of kind " + kind
}
