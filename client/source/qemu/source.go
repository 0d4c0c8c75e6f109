package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cairn/client/source"
	"cairn/client/source/guest"
	"cairn/client/source/live"
)

// Options says where machines are and how to treat them.
type Options struct {
	// Dir is the directory of descriptors.
	Dir string
	// State is where sessions are kept, in a sub-directory "qemu" of it;
	// "" means live.DefaultState. Its file system holds sockets, so the path must be
	// short (60 bytes are always fine).
	State string
	// Scratch is a directory for what guests overwrite while their snapshots
	// are read; "" means the session's own.
	Scratch string
	// Reserve is how many bytes of its file system are left alone: with less a
	// snapshot ends. 0 means live.DefaultReserve.
	Reserve int64
	// FreezeLimit is the longest that a guest may be frozen; 0 means
	// guest.DefaultFreezeLimit.
	FreezeLimit time.Duration
	// Guard starts a thaw guard with every freeze. The program must then
	// dispatch guest.GuardCommand, and arguments that begin with GuardKind to
	// OpenGuest.
	Guard bool
	// Log gets what nobody is there to be told; nil discards it.
	Log *slog.Logger
}

// GuardKind is the first of the arguments by which a thaw guard of this package
// reaches its guest.
const GuardKind = "qemu"

// OpenGuest opens the guest that a guard's arguments describe, for
// guest.GuardMain.
func OpenGuest(ctx context.Context, args []string) (guest.Transport, func(), error) {
	if len(args) != 2 || args[0] != GuardKind {
		return nil, nil, fmt.Errorf("arguments %q are not of a %s guest", args, GuardKind)
	}
	s, err := guest.DialSocket(ctx, args[1])
	if err != nil {
		return nil, nil, err
	}
	return s, func() { s.Close() }, nil
}

// Source is the Source of QEMU processes.
type Source struct {
	o     Options
	state string

	mu       sync.Mutex
	monitors map[string]*monitor    // by the path of their socket
	busy     map[string]bool        // machines that a snapshot is open of, by id
	agents   map[string]agentAnswer // what their guests said last, by machine id

	// reached is told how far a snapshot is; tests break off there.
	reached func(phase string)
}

type agentAnswer struct {
	state source.AgentState
	os    string
}

var (
	_ source.Source  = (*Source)(nil)
	_ source.Cleaner = (*Source)(nil)
)

// New makes a Source. Nothing is touched yet.
func New(o Options) (*Source, error) {
	if o.Dir == "" {
		return nil, errors.New("qemu: no directory of machines is given")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	o.Dir = dir
	if o.State == "" {
		o.State = live.DefaultState
	}
	if o.State, err = filepath.Abs(o.State); err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	if o.Scratch != "" {
		if o.Scratch, err = filepath.Abs(o.Scratch); err != nil {
			return nil, fmt.Errorf("qemu: %w", err)
		}
	}
	if o.Reserve <= 0 {
		o.Reserve = live.DefaultReserve
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := descriptors(o.Dir); err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	return &Source{
		o: o, state: filepath.Join(o.State, "qemu"),
		monitors: map[string]*monitor{}, busy: map[string]bool{}, agents: map[string]agentAnswer{},
		reached: func(string) {},
	}, nil
}

// atOnce is how many machines are asked at a time. Asking is mostly waiting.
const atOnce = 16

// Machines implements source.Source.
func (s *Source) Machines(ctx context.Context) ([]source.Machine, error) {
	list, err := descriptors(s.o.Dir)
	if err != nil {
		return nil, err
	}
	machines := make([]source.Machine, len(list))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for n, d := range list {
		g.Go(func() error {
			machines[n] = s.look(gctx, d)
			return context.Cause(gctx)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return machines, nil
}

// look describes one machine.
func (s *Source) look(ctx context.Context, d *descriptor) source.Machine {
	m := source.Machine{ID: d.id, Title: d.Name, HypervisorID: d.UUID, Problem: d.problem}
	if d.problem != "" {
		return m
	}
	i, err := s.inspect(ctx, d)
	switch {
	case errors.Is(err, errGone):
		m.State = source.StateStopped
		m.Problem = fmt.Sprintf("%v; start it, or correct its descriptor", err)
		return m
	case err != nil:
		m.Problem = err.Error()
		return m
	}
	s.describe(&m, i)
	s.askAgent(ctx, &m, d, i)
	return m
}

// inspect connects for as long as it takes to ask.
func (s *Source) inspect(ctx context.Context, d *descriptor) (*inspection, error) {
	c, release, err := s.monitor(d.QMP).connect(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return inspect(ctx, c, d)
}

// describe fills in what QEMU said.
func (s *Source) describe(m *source.Machine, i *inspection) {
	m.HypervisorID, m.State = i.uuid, states[i.status]
	for _, d := range i.disks {
		m.Disks = append(m.Disks, d.Disk)
		if d.Problem != "" && m.Problem == "" {
			m.Problem = fmt.Sprintf("disk %s: %s", d.Target, d.Problem)
		}
	}
	if len(i.disks) == 0 {
		m.Problem = "it has no disk that can be written to"
	}
}

// askAgent fills in what the guest says, or said last while a snapshot uses its
// agent.
func (s *Source) askAgent(ctx context.Context, m *source.Machine, d *descriptor, i *inspection) {
	if d.Agent == "" {
		m.Agent = source.AgentNotConfigured
		return
	}
	if m.State != source.StateRunning {
		return
	}
	s.mu.Lock()
	busy, last := s.busy[d.id], s.agents[d.id]
	s.mu.Unlock()
	if !busy {
		last = agentAnswer{state: source.AgentUnreachable}
		if i.agentUp {
			last = ping(ctx, d.Agent)
		}
		s.mu.Lock()
		s.agents[d.id] = last
		s.mu.Unlock()
	}
	m.Agent, m.GuestOS = last.state, last.os
}

func ping(ctx context.Context, path string) agentAnswer {
	t, err := guest.DialSocket(ctx, path)
	if err != nil {
		return agentAnswer{state: source.AgentUnreachable}
	}
	defer t.Close()
	c := guest.NewClient(t)
	if c.Ping(ctx) != nil {
		return agentAnswer{state: source.AgentUnreachable}
	}
	a := agentAnswer{state: source.AgentConnected}
	if os, err := c.OSInfo(ctx); err == nil {
		a.os = os.GuestOS()
	}
	return a
}
