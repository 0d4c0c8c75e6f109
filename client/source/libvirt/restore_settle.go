package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

// pullTries is how often a pull that ended without having come any further is
// begun again: the store may not be reached for a while. The waits between them
// grow up to longestWait times lookEvery, so that this is about ten minutes.
const (
	pullTries   = 60
	longestWait = 10
)

// Settle implements source.Restore: it pulls every disk's data into its image,
// one disk after the other. A daemon that is restarted meanwhile does no harm;
// a machine that is switched off meanwhile is settled by qemu-img.
func (j *restoreJob) Settle(ctx context.Context, progress func(done, total int64)) error {
	if err := j.settle(ctx, progress); err != nil {
		return fmt.Errorf("move the data of %s: %w", j.log.Domain, err)
	}
	return nil
}

func (j *restoreJob) settle(ctx context.Context, progress func(done, total int64)) error {
	if j.export == nil {
		return errors.New("no instant restore is under way")
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	var total, before int64
	for _, k := range j.spec.Disks {
		total += k.Size
	}
	for _, k := range j.spec.Disks {
		p := puller{j: j, target: k.Target, report: func(part float64) { progress(before+int64(part*float64(k.Size)), total) }}
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("disk %s: %w", k.Target, err)
		}
		before += k.Size
		progress(before, total)
	}
	hv, err := j.r.connect(ctx)
	if err != nil {
		return mapped(err)
	}
	if err := j.settled(ctx, hv); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return errors.New("it was aborted")
	}
	if err := j.log.write(phaseDone); err != nil {
		return err
	}
	j.over = true
	j.stopServing()
	if err := j.r.finish(ctx, hv, j.log); err != nil {
		j.log.f.Close()
	}
	return nil
}

// puller moves the data of one disk.
type puller struct {
	j      *restoreJob
	target string
	report func(part float64)

	hv     hypervisor
	events <-chan rpc.Event
	tries  int
	best   uint64 // how far a pull has come
}

func (p *puller) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		done, err := p.look(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, rpc.ErrDisconnected) || errors.Is(err, source.ErrHypervisor):
			p.hv, p.events = nil, nil // libvirtd was restarted; the pull goes on in QEMU
		case err != nil || done:
			return err
		}
		p.wait(ctx)
	}
}

// wait waits until there may be something new.
func (p *puller) wait(ctx context.Context) {
	timer := time.NewTimer(p.j.r.lookEvery * time.Duration(max(1, min(p.tries, longestWait))))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case e, ok := <-p.events:
			if !ok {
				p.hv, p.events = nil, nil
				return
			}
			mine := e.Domain.UUID.String() == p.j.log.UUID
			ended := e.Kind == rpc.EventBlockJob && e.Device == p.target && e.Detail == rpc.BlockJobCompleted
			if e.Kind == rpc.EventLost || mine && (ended || e.Kind == rpc.EventLifecycle) {
				return
			}
		}
	}
}

// look does what there is to do now, and tells whether the disk has all its data.
func (p *puller) look(ctx context.Context) (done bool, err error) {
	if p.hv == nil {
		if p.hv, err = p.j.r.connect(ctx); err != nil {
			return false, mapped(err)
		}
		if p.events, err = p.hv.Subscribe(ctx); err != nil {
			return false, mapped(err)
		}
	}
	dom, err := p.j.log.lookup(ctx, p.hv)
	if err != nil {
		return false, err
	}
	reads, err := p.reads(ctx, dom)
	if err != nil || !reads {
		return err == nil, err
	}
	state, reason, err := p.hv.DomainState(ctx, dom)
	if err != nil {
		return false, mapped(err)
	}
	if !active(state) {
		return false, p.rebase(ctx, dom)
	}
	if state == rpc.StatePaused && reason == rpc.PausedIOError {
		if err := p.hv.Resume(ctx, dom); err != nil {
			return false, mapped(err)
		}
	}
	job, found, err := p.hv.BlockJob(ctx, dom, p.target)
	if err != nil {
		return false, mapped(err)
	}
	if found {
		if job.Cur > p.best {
			p.best, p.tries = job.Cur, 0
		}
		if job.End > 0 {
			p.report(float64(job.Cur) / float64(job.End))
		}
		return false, nil
	}
	// It may have ended since the definition was read.
	if reads, err := p.reads(ctx, dom); err != nil || !reads {
		return err == nil, err
	}
	if p.tries++; p.tries > pullTries {
		return false, errors.New("QEMU gives up moving its data: look at the log of the machine, and at what the server says")
	}
	if err := p.hv.BlockPull(ctx, dom, p.target, 0); err != nil {
		return false, fmt.Errorf("pull: %w", mapped(err))
	}
	return false, nil
}

// reads tells whether the disk still needs the server.
func (p *puller) reads(ctx context.Context, dom rpc.Domain) (bool, error) {
	xml, err := p.hv.XMLDesc(ctx, dom, 0)
	if err != nil {
		return false, mapped(err)
	}
	now, err := domxml.Parse([]byte(xml))
	if err != nil {
		return false, err
	}
	for _, t := range now.ReadsFrom(p.j.log.Socket) {
		if t == p.target {
			return true, nil
		}
	}
	return false, nil
}

// rebase moves the data of a machine that is off. QEMU's lock on the image keeps
// the machine from starting meanwhile.
func (p *puller) rebase(ctx context.Context, dom rpc.Domain) error {
	cmd := exec.CommandContext(ctx, "qemu-img", "rebase", "-f", "qcow2", "-b", "", p.j.places[p.target].path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		if on, stateErr := isActive(ctx, p.hv, dom); stateErr == nil && on {
			return nil // it was started first
		}
		return fmt.Errorf("%w: %.300s", err, bytes.TrimSpace(out))
	}
	return p.j.detach(ctx, p.hv, dom, p.target)
}

// detach has the definition for the next start say that disks have all their
// data, and handle errors as they did in the point.
func (j *restoreJob) detach(ctx context.Context, hv hypervisor, dom rpc.Domain, targets ...string) error {
	xml, err := hv.XMLDesc(ctx, dom, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		return mapped(err)
	}
	now, err := domxml.Parse([]byte(xml))
	if err != nil {
		return err
	}
	final, err := domxml.Parse([]byte(j.log.Final))
	if err != nil {
		return err
	}
	for _, t := range targets {
		d, ok := now.Disk(t)
		if !ok {
			continue // its owner has taken it out
		}
		if _, err := now.SetDisk(t, domxml.Place{Path: d.Path, Format: "qcow2"}); err != nil {
			return err
		}
		now.CopyErrorPolicy(final, t)
	}
	if _, err := hv.DefineXML(ctx, string(now.Bytes()), 0); err != nil {
		return fmt.Errorf("define the machine: %w", mapped(err))
	}
	return nil
}

// settled makes sure that neither the machine nor its definition need the server.
func (j *restoreJob) settled(ctx context.Context, hv hypervisor) error {
	dom, err := j.log.lookup(ctx, hv)
	if err != nil {
		return err
	}
	var targets []string
	for _, k := range j.spec.Disks {
		targets = append(targets, k.Target)
	}
	if err := j.detach(ctx, hv, dom, targets...); err != nil {
		return err
	}
	for _, flags := range []rpc.XMLFlags{0, rpc.XMLInactive} {
		xml, err := hv.XMLDesc(ctx, dom, flags)
		if err != nil {
			return mapped(err)
		}
		now, err := domxml.Parse([]byte(xml))
		if err != nil {
			return err
		}
		if left := now.ReadsFrom(j.log.Socket); len(left) > 0 {
			return fmt.Errorf("disks %v are still read from the store", left)
		}
	}
	return nil
}

var _ source.Releaser = (*restoreJob)(nil)

// Release stops serving an instant machine and leaves it as it is, for a later
// process to go on (see PrepareRestore): what a process does that ends itself
// in good order, where Abort would remove the machine. Other restores it aborts.
func (j *restoreJob) Release() error {
	j.mu.Lock()
	if j.over || j.log.Phase != phaseInstant {
		j.mu.Unlock()
		return j.Abort()
	}
	defer j.mu.Unlock()
	j.over = true
	j.stopServing()
	return j.log.f.Close()
}
