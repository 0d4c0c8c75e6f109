package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cairn/client/source"
	"cairn/client/source/guest"
	"cairn/client/source/live"
	"cairn/client/source/nbd"
)

// DefinitionKind is the media type of SnapshotInfo.Definition: a JSON object
// with the "descriptor" and what QEMU answered to each of a number of queries.
const DefinitionKind = "application/vnd.cairn.qemu+json"

// snapshot is a Snapshot of a running QEMU.
type snapshot struct {
	s       *Source
	id      string // the machine's
	conn    *shared
	release func()
	session *live.Session
	point   checkpoint
	info    source.SnapshotInfo
	plan    []*disk  // what is backed up
	bitmaps []string // of the earlier checkpoint, per disk of plan; "" is a full one
	disks   []source.SnapshotDisk

	ctx    context.Context // done, with the reason, when the snapshot can't be read any more
	cancel context.CancelCauseFunc
	stop   func()
	minder sync.WaitGroup

	ending sync.Mutex // held while things are put into QEMU after the take, or removed
	ended  bool
	once   sync.Once
	err    error // of Close
}

var _ source.Snapshot = (*snapshot)(nil)

// Snapshot implements source.Source.
func (s *Source) Snapshot(ctx context.Context, machineID string, o source.SnapshotOptions) (_ source.Snapshot, err error) {
	defer func() {
		if err != nil {
			if errors.Is(err, errGone) {
				err = fmt.Errorf("%w: %w", source.ErrMachineNotFound, err)
			}
			err = fmt.Errorf("machine %s: %w", machineID, err)
		}
	}()
	d, err := s.find(machineID)
	if err != nil {
		return nil, err
	}
	if !s.claim(d.id) {
		return nil, fmt.Errorf("%w: another snapshot of it is open", source.ErrMachineState)
	}
	snap := &snapshot{s: s, id: d.id, point: checkpoint(live.NewCheckpoint()), release: func() {}, stop: func() {}}
	snap.ctx, snap.cancel = context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, snap.Close())
		}
	}()
	c, release, err := s.monitor(d.QMP).connect(ctx)
	if err != nil {
		return nil, err
	}
	snap.conn, snap.release = c, release
	if err := s.sweep(ctx, snap.conn, d); err != nil {
		return nil, err
	}
	i, err := inspect(ctx, snap.conn, d)
	if err != nil {
		return nil, err
	}
	if err := snap.choose(d, i, o); err != nil {
		return nil, err
	}
	if err := snap.begin(d, i, o); err != nil {
		return nil, err
	}
	return snap, nil
}

// find returns the descriptor of a machine.
func (s *Source) find(id string) (*descriptor, error) {
	list, err := descriptors(s.o.Dir)
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(list, func(d *descriptor) bool { return d.id == id })
	if n < 0 {
		return nil, fmt.Errorf("%w: no descriptor in %s has that name", source.ErrMachineNotFound, s.o.Dir)
	}
	if list[n].problem != "" {
		return nil, fmt.Errorf("%w: %s", source.ErrUnusable, list[n].problem)
	}
	return list[n], nil
}

// claim makes a machine ours until it is given back.
func (s *Source) claim(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id] {
		return false
	}
	s.busy[id] = true
	return true
}

func (s *Source) unclaim(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
}

// choose settles what is backed up and how.
func (snap *snapshot) choose(d *descriptor, i *inspection, o source.SnapshotOptions) error {
	m := source.Machine{ID: d.id, Title: d.Name}
	snap.s.describe(&m, i)
	m.Agent = source.AgentNotConfigured
	if d.Agent != "" {
		m.Agent = source.AgentUnknown
	}
	if m.State == source.StateUnknown {
		return fmt.Errorf("%w: QEMU is in state %q, wait until that is over", source.ErrMachineState, i.status)
	}
	if v := snap.conn.Version(); v.Major < 5 || v.Major == 5 && v.Minor < 2 {
		return fmt.Errorf("%w: QEMU %d.%d is too old, 5.2 is needed", source.ErrUnusable, v.Major, v.Minor)
	}
	for _, disk := range i.disks {
		switch {
		case slices.Contains(o.Exclude, disk.Target):
		case disk.Problem != "":
			return fmt.Errorf("disk %s: %w: %s", disk.Target, source.ErrUnusable, disk.Problem)
		default:
			snap.plan = append(snap.plan, disk)
		}
	}
	if len(snap.plan) == 0 {
		return fmt.Errorf("%w: no disk is left to back up: it has %d, and those are excluded", source.ErrUnusable, len(i.disks))
	}
	snap.bitmaps, snap.info.Warnings = tracked(snap.plan, o)
	snap.info.Machine, snap.info.Checkpoint, snap.info.DefinitionKind = m, string(snap.point), DefinitionKind
	definition, err := json.MarshalIndent(struct {
		Descriptor *descriptor `json:"descriptor"`
		Answers    answers     `json:"answers"`
	}{d, i.answers}, "", "\t")
	if err != nil {
		return fmt.Errorf("definition: %w", err)
	}
	snap.info.Definition = definition
	return nil
}

// begin makes the snapshot and opens its disks.
func (snap *snapshot) begin(d *descriptor, i *inspection, o source.SnapshotOptions) error {
	process, err := processOf(snap.conn)
	if err != nil {
		return err
	}
	r := live.Record{
		Machine: d.id, Checkpoint: string(snap.point), HypervisorID: i.uuid, Agent: i.agentUp, Time: time.Now(),
		Extra: map[string]string{extraQMP: d.QMP, extraAgent: d.Agent, extraSince: o.Since, extraProcess: process},
	}
	if snap.s.o.Scratch != "" {
		r.Extra[extraScratch] = snap.s.scratchDir(snap.point)
	}
	if snap.session, err = live.NewSession(snap.s.state, r); err != nil {
		return err
	}
	snap.s.reached("session")
	work := workOf(snap.session)
	if err := work.make(snap.conn); err != nil {
		return err
	}
	if err := snap.prepare(work); err != nil {
		return err
	}
	snap.s.reached("prepared")
	if err := snap.quiesce(d, o); err != nil {
		return err
	}
	snap.s.reached("taken")
	snap.mind(work)
	for n := range snap.plan {
		if err := snap.open(n, work); err != nil {
			return err
		}
	}
	return nil
}

// open exports a disk and connects to it.
func (snap *snapshot) open(n int, w work) error {
	snap.ending.Lock()
	defer snap.ending.Unlock()
	if err := context.Cause(snap.ctx); err != nil {
		return err
	}
	disk := snap.plan[n]
	export := args{"type": "nbd", "id": snap.point.scratch(n), "node-name": snap.point.scratch(n), "name": disk.Target, "writable": false}
	from := live.Export{Network: "unix", Address: w.socket, Name: disk.Target}
	if snap.bitmaps[n] != "" {
		export["bitmaps"] = []string{snap.point.changes()}
		from.Bitmap = nbd.DirtyBitmap + snap.point.changes()
	}
	if err := snap.conn.ask(snap.ctx, "block-export-add", export, nil); err != nil {
		return fmt.Errorf("disk %s: %w", disk.Target, err)
	}
	opened, err := live.OpenDisk(snap.ctx, disk.Disk, from, snap.Check)
	if err != nil {
		return err
	}
	snap.disks = append(snap.disks, opened)
	return nil
}

// quiesce takes the point in time.
func (snap *snapshot) quiesce(d *descriptor, o source.SnapshotOptions) error {
	m := &snap.info.Machine
	q := live.QuiesceOptions{Limit: snap.s.o.FreezeLimit, Minimum: o.Minimum, Off: m.State == source.StateStopped}
	var transport guest.Transport
	switch {
	case q.Off:
	case m.State != source.StateRunning:
		q.Why = source.Warning{Kind: source.WarnMachineState, Text: fmt.Sprintf("the machine is %s, so its guest could not be asked to bring its file systems to rest", m.State)}
	case d.Agent == "":
		q.Why = source.Warning{Kind: source.WarnAgent, Text: `the machine's descriptor names no guest agent: give QEMU a channel org.qemu.guest_agent.0, and the descriptor its socket as "agent"`}
	default:
		t, err := guest.DialSocket(snap.ctx, d.Agent)
		if err != nil {
			q.Why = source.Warning{Kind: source.WarnAgent, Text: fmt.Sprintf("guest agent unavailable: %v", err)}
			m.Agent = source.AgentUnreachable
			break
		}
		defer t.Close()
		transport = t
		if snap.s.o.Guard {
			q.Guard = []string{GuardKind, d.Agent}
		}
	}
	quiet, err := live.Quiesce(snap.ctx, transport, q, snap.take, func() {}) // Close undoes all
	if err != nil {
		return err
	}
	snap.info.Time, snap.info.Consistency, snap.info.FrozenFor = quiet.Time, quiet.Consistency, quiet.FrozenFor
	snap.info.Warnings = append(quiet.Warnings, snap.info.Warnings...)
	m.GuestOS = quiet.GuestOS
	if transport != nil {
		m.Agent = source.AgentConnected
		if slices.ContainsFunc(quiet.Warnings, func(w source.Warning) bool { return w.Kind == source.WarnAgent }) {
			m.Agent = source.AgentUnreachable
		}
		snap.s.mu.Lock()
		snap.s.agents[d.id] = agentAnswer{m.Agent, m.GuestOS}
		snap.s.mu.Unlock()
	}
	return nil
}

func (snap *snapshot) Info() source.SnapshotInfo    { return snap.info }
func (snap *snapshot) Disks() []source.SnapshotDisk { return snap.disks }
