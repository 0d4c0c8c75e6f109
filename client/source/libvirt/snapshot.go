package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cairn/client/source"
	"cairn/client/source/guest"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/live"
)

// definitionKind is the media type of SnapshotInfo.Definition.
const definitionKind = "application/vnd.libvirt.domain+xml"

// Snapshot implements source.Source.
func (s *Source) Snapshot(ctx context.Context, machineID string, o source.SnapshotOptions) (_ source.Snapshot, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("machine %s: %w", machineID, err)
		}
	}()
	conn, err := s.work.get(ctx)
	if err != nil {
		return nil, err
	}
	d, err := find(ctx, conn, machineID)
	if err != nil {
		return nil, err
	}
	s.fillGuest(d)
	left := 0
	for _, k := range d.disks {
		if slices.Contains(o.Exclude, k.info.Target) {
			continue
		}
		if left++; k.info.Problem != "" {
			return nil, fmt.Errorf("%w: disk %s: %s", source.ErrUnusable, k.info.Target, k.info.Problem)
		}
	}
	if left == 0 {
		return nil, fmt.Errorf("%w: no disk is left to back up: it has %d, and those are excluded", source.ErrUnusable, len(d.disks))
	}
	if !d.active() {
		return s.snapshotOff(ctx, conn, d, o)
	}
	if err := s.mayBegin(ctx, conn, d, o); err != nil {
		return nil, err
	}
	snap := &snapshot{s: s, ctx: ctx, d: d}
	if err := snap.take(ctx, conn, o); err != nil {
		return nil, errors.Join(err, snap.Close())
	}
	return snap, nil
}

// mayBegin makes sure that nothing else works on the domain's disks.
func (s *Source) mayBegin(ctx context.Context, conn daemon, d *domain, o source.SnapshotOptions) error {
	if err := s.cleanUpDecided(ctx, d.UUID.String()); err != nil {
		return err
	}
	job, err := conn.JobStats(ctx, d.Domain, false)
	if err != nil {
		return failure(err)
	}
	if job.Type != rpc.JobNone {
		what := fmt.Sprintf("a job of libvirt (operation %d: migration, save or dump)", job.Params.Int64(rpc.JobOperation))
		if job.Params.Int64(rpc.JobOperation) == rpc.JobOperationBackup {
			what = "another backup"
			if text, err := conn.BackupXMLDesc(ctx, d.Domain); err == nil {
				what += s.whose(text)
			}
		}
		return fmt.Errorf("%w: %s is running: wait for its end, or end it with virsh domjobabort %s", source.ErrMachineState, what, d.Name)
	}
	for _, k := range d.disks {
		if slices.Contains(o.Exclude, k.info.Target) {
			continue
		}
		_, found, err := conn.BlockJob(ctx, d.Domain, k.Target)
		if err != nil {
			return failure(err)
		}
		if found {
			return fmt.Errorf("%w: disk %s has a block job (copy, commit or pull): wait for its end, or end it with virsh blockjob %s %s --abort",
				source.ErrMachineState, k.Target, d.Name, k.Target)
		}
	}
	return nil
}

// snapshot is the snapshot of a running domain.
type snapshot struct {
	s    *Source
	ctx  context.Context
	d    *domain
	info source.SnapshotInfo
	plan plan

	session *live.Session // nil before there is anything to clean up
	socket  string
	scratch string     // directory of the scratch files
	began   chan error // the answer to BackupBegin, when nobody waited for it
	unwatch func()
	disks   []source.SnapshotDisk
	total   int64 // bytes of scratch space that the jobs of all disks count

	mu     sync.Mutex
	lost   error // why the snapshot does not exist any more
	kept   bool
	closed sync.Once
	fate   error // what Close answers
}

var _ source.Snapshot = (*snapshot)(nil)

// take does all that makes a snapshot. What it has done when it fails, Close
// undoes.
func (p *snapshot) take(ctx context.Context, conn daemon, o source.SnapshotOptions) error {
	since, missing, err := startingPoint(ctx, conn, p.d.Domain, o.Since, o.Continues)
	if err != nil {
		return failure(err)
	}
	owner, err := p.s.ownerID()
	if err != nil {
		return err
	}
	p.plan = makePlan(p.d.disks, o.Exclude, live.NewCheckpoint(), owner, since, missing)
	definition, err := conn.XMLDesc(ctx, p.d.Domain, rpc.XMLMigratable|rpc.XMLSecure)
	if err != nil {
		return failure(err)
	}
	agent := p.d.def.AgentChannel() && p.d.stands() == ""
	if err := p.newSession(agent); err != nil {
		return err
	}
	if err := p.makeScratch(ctx); err != nil {
		return err
	}
	p.s.reached("session")

	var g guest.Transport
	q := live.QuiesceOptions{Limit: p.s.o.FreezeLimit, Minimum: o.Minimum, Why: p.d.whyNoAgent()}
	if agent {
		g = channel{p.s.guests, p.d.Domain}
		if p.s.o.Guard {
			q.Guard = p.s.guardArgs(p.d.Domain)
		}
	}
	quiet, err := live.Quiesce(ctx, g, q, func(ctx context.Context) error {
		p.s.reached("frozen")
		defer p.s.reached("begun")
		return p.begin(ctx, conn)
	}, func() {}) // what is undone, Close undoes
	if err != nil {
		return err
	}
	p.s.reached("thawed")
	p.info = source.SnapshotInfo{
		Machine: p.d.info, Time: quiet.Time, Consistency: quiet.Consistency, FrozenFor: quiet.FrozenFor,
		Warnings: quiet.Warnings, Checkpoint: p.plan.name, Definition: []byte(definition), DefinitionKind: definitionKind,
	}
	if quiet.GuestOS != "" {
		p.info.Machine.GuestOS, p.info.Machine.Agent = quiet.GuestOS, source.AgentConnected
	}
	files, warnings := p.s.stateFiles(p.d.def, p.d.UUID.String())
	p.info.StateFiles = files
	p.info.Warnings = slices.Concat(p.info.Warnings, p.plan.warnings(), warnings)
	if err := p.openDisks(ctx, conn); err != nil {
		return err
	}
	p.unwatch = live.WatchSpace(ctx, p.scratch, p.s.o.Reserve, p.outOfSpace)
	p.s.reached("open")
	return nil
}

// whyNoAgent is the warning for a guest that is not asked to freeze.
func (d *domain) whyNoAgent() source.Warning {
	if how := d.stands(); how != "" {
		return source.Warning{Kind: source.WarnMachineState, Text: "the VM " + how + ", so its file systems cannot be frozen: the copy is crash consistent"}
	}
	return source.Warning{Kind: source.WarnAgent, Text: "the VM has no channel for a guest agent (org.qemu.guest_agent.0), so its file systems cannot be frozen: the copy is crash consistent"}
}

// beginLimit bounds BackupBegin: libvirt itself waits up to 30 s for a domain.
const beginLimit = 2 * time.Minute

// begin begins the job. For the tracking's sake it never fails: what cannot be
// tracked is read in full.
func (p *snapshot) begin(ctx context.Context, conn daemon) error {
	for {
		err := p.tryBegin(ctx, conn)
		var refused *rpc.Error
		switch {
		case err == nil:
			return nil
		case errors.Is(failure(err), source.ErrHypervisor), errors.Is(failure(err), source.ErrSnapshotSpace),
			errors.Is(failure(err), source.ErrMachineState), errors.Is(err, rpc.ErrNoDomain), !errors.As(err, &refused):
			return failure(err)
		case p.plan.incremental() && (errors.Is(err, rpc.ErrCheckpointInconsistent) || errors.Is(err, rpc.ErrNoCheckpoint)) && p.plan.distrust(refused.Text):
		case p.plan.name != "":
			p.plan.untrack("no checkpoint could be made (" + refused.Text + ")")
		default:
			return failure(err)
		}
	}
}

// tryBegin makes one attempt. When ctx is done it returns at once, and Close
// waits for the daemon's answer.
func (p *snapshot) tryBegin(ctx context.Context, conn daemon) error {
	answer := make(chan error, 1)
	backup, checkpoint := p.plan.backup(p.socket, p.scratch), p.plan.checkpoint()
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beginLimit)
		defer cancel()
		answer <- conn.BackupBegin(ctx, p.d.Domain, backup, checkpoint, rpc.BackupReuseExternal)
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		p.began = answer
		return context.Cause(ctx)
	}
}

// openDisks opens the exports that the daemon tells.
func (p *snapshot) openDisks(ctx context.Context, conn daemon) error {
	text, err := conn.BackupXMLDesc(ctx, p.d.Domain)
	if err != nil {
		return errors.Join(p.alive(ctx), failure(err))
	}
	exports, err := parseBackup(text)
	if err != nil {
		return err
	}
	for _, t := range p.plan.tasks {
		if t.skip {
			continue
		}
		i := slices.IndexFunc(exports.Disks, func(k backupDisk) bool { return k.Name == t.Target && k.Backup == "yes" })
		if i < 0 {
			return fmt.Errorf("libvirt's backup job lacks disk %s", t.Target)
		}
		e := live.Export{Network: "unix", Address: p.socket, Name: exports.Disks[i].ExportName}
		if b := exports.Disks[i].ExportBitmap; t.since != "" && b != "" {
			e.Bitmap = "qemu:dirty-bitmap:" + b
		}
		disk, err := live.OpenDisk(ctx, t.info, e, p.alive)
		if err != nil {
			return err
		}
		p.disks = append(p.disks, disk)
	}
	job, err := conn.JobStats(ctx, p.d.Domain, false)
	if err != nil {
		return failure(err)
	}
	p.total = job.Params.Int64(rpc.JobTempTotal)
	return nil
}

// outOfSpace ends the job before the guest's writes would fail for it.
func (p *snapshot) outOfSpace(free int64) {
	p.lose(fmt.Errorf("%w: %d MiB are left in %s for what the VM overwrites while it is backed up, and %d MiB are kept in reserve: the backup was ended so that the VM is not stopped",
		source.ErrSnapshotSpace, free>>20, p.scratch, p.s.o.Reserve>>20))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), time.Minute)
	defer cancel()
	if conn, err := p.s.work.get(ctx); err == nil {
		err = endJob(ctx, conn, p.d.Domain, p.owns)
		if err != nil {
			p.s.o.Log.Error("backup job cannot be ended, and its scratch space is nearly full", "domain", p.d.Name, "error", err)
		}
	}
}

func (p *snapshot) lose(why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		p.lost = why
	}
	return p.lost
}

// alive returns nil if the snapshot still exists, as far as can be told, and
// otherwise why it does not.
func (p *snapshot) alive(ctx context.Context) error {
	p.mu.Lock()
	lost := p.lost
	p.mu.Unlock()
	if lost != nil {
		return lost
	}
	conn, err := p.s.work.get(ctx)
	if err != nil {
		return nil // without the daemon, QEMU goes on
	}
	text, err := conn.BackupXMLDesc(ctx, p.d.Domain)
	switch {
	case err == nil && p.owns(text):
		return nil
	case err == nil, errors.Is(err, rpc.ErrNoBackup), errors.Is(err, rpc.ErrNoDomain), errors.Is(err, rpc.ErrOperationInvalid):
		return p.lose(fmt.Errorf("%w: %s", source.ErrSnapshotLost, whatHappened(ctx, conn, p.d.Domain)))
	}
	return nil
}

// owns tells whether a backup job is this snapshot's.
func (p *snapshot) owns(text string) bool {
	x, err := parseBackup(text)
	return err == nil && x.Server.Socket == p.socket
}

// whatHappened tells why a domain's backup job is gone.
func whatHappened(ctx context.Context, conn daemon, dom rpc.Domain) string {
	now, err := conn.LookupByUUID(ctx, dom.UUID)
	if err != nil {
		return "the VM was stopped, and is not defined any more"
	}
	state, reason, err := conn.DomainState(ctx, now)
	switch how := [...]string{1: "shut down", 2: "destroyed", 3: "crashed", 4: "migrated to another host", 5: "saved", 6: "failed"}; {
	case err != nil:
		return "the VM's state is not known: " + err.Error()
	case !active(state) && reason > 0 && reason < len(how):
		return "the VM was stopped (" + how[reason] + ")"
	case !active(state):
		return "the VM was stopped"
	case now.ID != dom.ID:
		return "the VM was stopped and started again"
	}
	if job, err := conn.JobStats(ctx, now, true); err == nil {
		if text := job.Params.Text(rpc.JobErrorMessage); text != "" {
			return "libvirt's backup job failed: " + text
		}
	}
	return "somebody ended libvirt's backup job"
}

// Info implements source.Snapshot.
func (p *snapshot) Info() source.SnapshotInfo { return p.info }

// Disks implements source.Snapshot.
func (p *snapshot) Disks() []source.SnapshotDisk { return p.disks }

// Check implements source.Snapshot: what was read is what it was, unless the
// snapshot ended while it was read.
//
// Between the end of QEMU's jobs and libvirt's notice of it, the exports still
// answer, with what the guest writes. So QEMU itself is asked, too: the scratch
// space of a job that has ended is not counted any more.
func (p *snapshot) Check(ctx context.Context) error {
	if err := p.alive(ctx); err != nil {
		return err
	}
	conn, err := p.s.connection(ctx)
	if err != nil {
		return err
	}
	job, err := conn.JobStats(ctx, p.d.Domain, false)
	if err != nil || job.Type == rpc.JobNone || job.Params.Int64(rpc.JobTempTotal) < p.total {
		if lost := p.alive(ctx); lost != nil {
			return lost
		}
		if err != nil {
			return failure(err)
		}
		return p.lose(fmt.Errorf("%w: somebody is ending libvirt's backup job", source.ErrSnapshotLost))
	}
	return nil
}

// Keep implements source.Snapshot.
func (p *snapshot) Keep(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept {
		return nil
	}
	r := p.session.Record()
	r.Extra[fateKey] = fateKeep
	if err := p.session.Update(r); err != nil {
		return err
	}
	p.kept = true
	p.s.reached("kept")
	return nil
}

// Close implements source.Snapshot.
func (p *snapshot) Close() error {
	p.closed.Do(func() { p.fate = p.close() })
	return p.fate
}

func (p *snapshot) close() error {
	if p.session == nil {
		return nil
	}
	for _, d := range p.disks {
		d.Close()
	}
	if p.unwatch != nil {
		p.unwatch()
	}
	if p.began != nil {
		<-p.began // then there is a job to end, or none will come
	}
	p.s.reached("closing")
	p.mu.Lock()
	kept := p.kept
	p.mu.Unlock()
	if !kept {
		r := p.session.Record()
		r.Extra[fateKey] = fateDrop
		if err := p.session.Update(r); err != nil {
			p.s.o.Log.Error("session record cannot be written", "error", err) // CleanUp would ask
		}
	}
	p.s.mu.Lock()
	delete(p.s.open, p.plan.name)
	delete(p.s.open, p.session.Record().Checkpoint)
	p.s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), closeLimit)
	defer cancel()
	if err := p.s.endSession(ctx, p.session, kept); err != nil {
		p.session.Release() // to CleanUp, or the machine's next snapshot
		return fmt.Errorf("end snapshot of machine %s: %w", p.d.info.ID, err)
	}
	return nil
}
