package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"cairn/blockstore/block"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// Options says what an agent serves.
type Options struct {
	// Server is the address, as client.Dial takes it.
	Server string
	// Subscription that the host belongs to; "" means "default".
	Subscription string
	// Host is the id under which the host is registered.
	Host string
	// Region the host is in; "" means the server's.
	Region string
	// Source is where machines come from, and SourceKind what the server is
	// told about it: "images", or "libvirt,images" when it is several at once.
	Source     source.Source
	SourceKind string
	// MaxConcurrent is how many jobs run at the same time; 0 means 1.
	MaxConcurrent int
	// Compression of blocks; 0 means block.Fastest.
	Compression block.Compression
	// Ready, if set, is called once, when the host and its machines are known
	// to the server.
	Ready func()
	Log   *slog.Logger
}

// errStopped is the cause of cancellation of everything when the agent stops.
var errStopped = errors.New("agent is stopping")

// Run serves until ctx is done and returns nil then. It reconnects for as long
// as it takes; only what no waiting can mend is an error.
func Run(ctx context.Context, o Options) error {
	if o.Subscription == "" {
		o.Subscription = "default"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Compression == 0 {
		o.Compression = block.Fastest
	}
	c, err := client.Dial(o.Server)
	if err != nil {
		return err
	}
	defer c.Close()
	a := &agent{
		Options: o, c: c,
		parent:   "subscriptions/" + o.Subscription,
		host:     "subscriptions/" + o.Subscription + "/hosts/" + o.Host,
		instance: uuid.NewString(),
		jobs:     map[string]*job{},
		dirty:    make(chan struct{}, 1),
	}
	ctx, stop := context.WithCancelCause(ctx)
	context.AfterFunc(ctx, func() { stop(errStopped) })
	var wg sync.WaitGroup
	wg.Go(func() { a.watch(ctx) })
	// Guests that a crash left frozen are thawed before anything else, server or
	// not.
	a.cleanUp(ctx, errNotConnected)
	err = a.serve(ctx)
	stop(errStopped)
	a.stopAll()
	wg.Wait()
	a.running.Wait()
	return err
}

type agent struct {
	Options
	c        *client.Client
	parent   string // the subscription
	host     string // resource name
	instance string // of this process
	ready    sync.Once
	clean    bool // CleanUp has nothing left to do; used by one goroutine at a time

	// dirty has an element when the machines are to be reported anew.
	dirty chan struct{}

	mu      sync.Mutex
	jobs    map[string]*job // by resource name
	running sync.WaitGroup
}

// watch notes when the source says that machines have changed.
func (a *agent) watch(ctx context.Context) {
	for {
		err := a.Source.Watch(ctx, a.markDirty)
		if ctx.Err() != nil {
			return
		}
		a.Log.Error("watch for machines; trying again", "err", err)
		pause(ctx, time.Second)
		a.markDirty() // something may have been missed
	}
}

func (a *agent) markDirty() {
	select {
	case a.dirty <- struct{}{}:
	default:
	}
}

// serve keeps a session with the server, and waits longer and longer, up to
// some seconds, between attempts to get one.
func (a *agent) serve(ctx context.Context) error {
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	wait := shortest
	told := false
	for ctx.Err() == nil {
		start := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if fatal(err) {
			return fmt.Errorf("host %s: %w", a.Host, err)
		}
		if time.Since(start) > longest {
			wait, told = shortest, false
		}
		if !told {
			a.Log.Warn("no connection to the server; trying again", "server", a.Server, "err", client.Message(err))
			told = true
		}
		pause(ctx, wait+rand.N(wait))
		wait = min(2*wait, longest)
	}
	return nil
}

// fatal says that no waiting will help: the server refused what this agent is.
func fatal(err error) bool {
	switch client.Reason(err) {
	case cairnv1.ErrorReason_ERROR_REASON_INVALID_FIELD,
		cairnv1.ErrorReason_ERROR_REASON_INVALID_NAME,
		cairnv1.ErrorReason_ERROR_REASON_UNKNOWN_REGION,
		cairnv1.ErrorReason_ERROR_REASON_REGION_MISMATCH,
		cairnv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
		cairnv1.ErrorReason_ERROR_REASON_JOB_LEASE_LOST: // another agent serves this host
		return true
	}
	return false
}

// session registers the host, reports its machines, and takes jobs until the
// connection breaks. Jobs go on without one.
func (a *agent) session(ctx context.Context) error {
	_, err := a.c.Hosts.RegisterHost(ctx, &cairnv1.RegisterHostRequest{
		Parent: a.parent, HostId: a.Host,
		Host: &cairnv1.Host{Region: a.Region, Sources: strings.Split(a.SourceKind, ","), AgentVersion: Version},
	})
	if err != nil {
		return err
	}
	if err := a.reportMachines(ctx); err != nil {
		return err
	}
	a.cleanUp(ctx, nil)
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	stream, err := a.c.Hosts.ClaimJobs(ctx, &cairnv1.ClaimJobsRequest{Host: a.host, MaxConcurrent: int32(a.MaxConcurrent), InstanceId: a.instance})
	if err != nil {
		return err
	}
	wg.Go(func() {
		again := time.NewTicker(cleanUpEvery)
		defer again.Stop()
		for {
			select {
			case <-a.dirty:
				if err := a.reportMachines(ctx); err != nil {
					cancel(err) // a new session reports them
					return
				}
			case <-again.C:
			case <-ctx.Done():
				return
			}
			a.cleanUp(ctx, nil)
		}
	})
	a.ready.Do(func() {
		if a.Ready != nil {
			a.Ready()
		}
	})
	for {
		ev, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
				return cause
			}
			return err
		}
		switch ev := ev.GetEvent().(type) {
		case *cairnv1.ClaimJobsResponse_Assignment:
			a.start(ev.Assignment)
		case *cairnv1.ClaimJobsResponse_Cancellation:
			a.cancelJob(ev.Cancellation.GetJob())
		}
	}
}

// reportMachines tells the server what there is. Discovery that fails as a
// whole is logged: the machines known so far stay known.
func (a *agent) reportMachines(ctx context.Context) error {
	ms, err := a.Source.Machines(ctx)
	if err != nil {
		a.Log.Error("discover machines", "err", err)
		return nil
	}
	req := &cairnv1.ReportMachinesRequest{Parent: a.host}
	for _, m := range ms {
		req.Machines = append(req.Machines, a.machine(m))
	}
	_, err = a.c.Hosts.ReportMachines(ctx, req)
	return err
}

func (a *agent) machine(m source.Machine) *cairnv1.Machine {
	out := &cairnv1.Machine{
		Name: a.host + "/machines/" + m.ID, Title: m.Title, HypervisorId: m.HypervisorID, GuestOs: m.GuestOS,
		State: cairnv1.MachineState_MACHINE_STATE_IMAGE,
	}
	switch m.State {
	case source.StateRunning:
		out.State = cairnv1.MachineState_MACHINE_STATE_RUNNING
	case source.StatePaused:
		out.State = cairnv1.MachineState_MACHINE_STATE_PAUSED
	case source.StateStopped:
		out.State = cairnv1.MachineState_MACHINE_STATE_OFF
	case source.StateCrashed:
		out.State = cairnv1.MachineState_MACHINE_STATE_CRASHED
	}
	switch m.Agent {
	case source.AgentNotConfigured:
		out.GuestAgent = cairnv1.GuestAgentState_GUEST_AGENT_STATE_NOT_CONFIGURED
	case source.AgentConnected:
		out.GuestAgent = cairnv1.GuestAgentState_GUEST_AGENT_STATE_CONNECTED
	case source.AgentUnreachable:
		out.GuestAgent = cairnv1.GuestAgentState_GUEST_AGENT_STATE_UNREACHABLE
	}
	for _, d := range m.Disks {
		out.Disks = append(out.Disks, &cairnv1.MachineDisk{Target: d.Target, Path: d.Path, Format: d.Format, Size: d.Size, Allocated: d.Allocated})
	}
	if m.Problem != "" {
		out.Problem = &cairnv1.Problem{Reason: cairnv1.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, Message: m.Problem}
		switch {
		case m.State == source.StateCrashed, m.State == source.StatePaused:
			out.Problem.Reason = cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE
		case m.HypervisorID != "": // what it cannot do is not the fault of an image
			out.Problem.Reason = cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED
		}
	}
	return out
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
