package rpc

import (
	"context"
	"fmt"
)

// EventKind is what an Event tells of.
type EventKind int

const (
	// EventLost: events were dropped here because the subscriber was slow.
	// What it knows of domains is to be asked for anew.
	EventLost EventKind = iota
	// EventLifecycle: a domain came, went or changed its state. What is one of
	// the Lifecycle constants; Detail is why, by What.
	EventLifecycle
	// EventAgent: What is AgentConnected or AgentDisconnected.
	EventAgent
	// EventDeviceAdded and EventDeviceRemoved: Device is the device's alias in
	// the domain's XML.
	EventDeviceAdded
	EventDeviceRemoved
	// EventBlockJob: a block job of the disk with target Device ended or is
	// ready. What is the BlockJobType, Detail one of the BlockJob constants
	// below.
	EventBlockJob
	// EventJobCompleted: a domain's job ended; Params are as in JobStats.
	EventJobCompleted
)

// What happened, of EventLifecycle: virDomainEventType.
const (
	LifecycleDefined     = 0 // Detail: 0 added, 1 changed, 2 renamed, 3 from a snapshot
	LifecycleUndefined   = 1
	LifecycleStarted     = 2
	LifecycleSuspended   = 3
	LifecycleResumed     = 4
	LifecycleStopped     = 5 // Detail: 0 shut down, 1 destroyed, 2 crashed, 3 migrated, 4 saved, 5 failed
	LifecycleShutdown    = 6 // the guest has ended; LifecycleStopped follows
	LifecyclePMSuspended = 7
	LifecycleCrashed     = 8
)

// What happened, of EventAgent.
const (
	AgentConnected    = 1
	AgentDisconnected = 2
)

// How it ended, of EventBlockJob.
const (
	BlockJobCompleted = 0
	BlockJobFailed    = 1
	BlockJobCanceled  = 2
	BlockJobReady     = 3 // for BlockJobPivot
)

// Event is something that happened to a domain.
type Event struct {
	Kind         EventKind
	Domain       Domain
	What, Detail int
	Device       string
	Params       Params
}

// eventIDs are the kinds of event that the daemon is asked for:
// virDomainEventID.
var eventIDs = []uint32{
	0,  // lifecycle
	15, // device removed
	16, // block job, second version: disks by target
	18, // agent
	19, // device added
	21, // job completed
}

// eventBuffer is how many events wait for a slow subscriber.
const eventBuffer = 256

// subscription is one subscriber. The queue has one place more than
// eventBuffer, which only an EventLost takes: so if the queue is full, its end
// says already that something is missing.
type subscription struct {
	queue chan Event
	stop  func() bool
}

// Subscribe returns the events of all domains from now on, in their order,
// until ctx is done or the connection is gone; then the channel is closed.
//
// The daemon is never held up by a slow subscriber: when 256 events wait, an
// EventLost follows them and the rest is dropped until there is room again.
func (c *Conn) Subscribe(ctx context.Context) (<-chan Event, error) {
	s := &subscription{queue: make(chan Event, eventBuffer+1)}
	c.mu.Lock()
	if c.failed {
		c.mu.Unlock()
		return nil, fmt.Errorf("libvirt: subscribe to events: %w", c.err)
	}
	c.subs[s] = struct{}{}
	end := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.endSubscription(s)
	}
	s.stop = context.AfterFunc(ctx, end)
	c.mu.Unlock()

	if err := c.register(ctx); err != nil {
		end()
		return nil, err
	}
	return s.queue, nil
}

// endSubscription closes the queue of s, once; c.mu is held.
func (c *Conn) endSubscription(s *subscription) {
	if _, ok := c.subs[s]; ok {
		s.stop()
		delete(c.subs, s)
		close(s.queue)
	}
}

// register has the daemon send events, if it does not yet. They go on until
// the connection ends; without a subscriber they are dropped.
func (c *Conn) register(ctx context.Context) error {
	select {
	case c.events.asking <- struct{}{}:
		defer func() { <-c.events.asking }()
	case <-ctx.Done():
		return fmt.Errorf("libvirt: subscribe to events: %w", context.Cause(ctx))
	}
	if c.events.asked {
		return nil
	}
	for _, id := range eventIDs {
		// Of every domain: the optional domain is missing.
		if err := c.call(ctx, procRegisterEvent, "", args().u32(id).u32(0), func(d *decoder) { d.i32() }); err != nil {
			return err
		}
	}
	c.events.asked = true
	return nil
}

// event hands an event to the subscribers.
func (c *Conn) event(procedure uint32, payload []byte) error {
	e, known, err := decodeEvent(procedure, payload)
	if err != nil || !known {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		// Only this goroutine sends, so that what has room keeps it.
		switch n := len(s.queue); {
		case n < eventBuffer:
			s.queue <- e
		case n == eventBuffer:
			s.queue <- Event{Kind: EventLost}
		}
	}
	return nil
}

func decodeEvent(procedure uint32, payload []byte) (e Event, known bool, err error) {
	d := &decoder{b: payload}
	d.i32() // which registration it is for
	e.Domain = d.domain()
	switch procedure {
	case msgLifecycle:
		e.Kind, e.What, e.Detail = EventLifecycle, d.i32(), d.i32()
	case msgAgent:
		e.Kind, e.What, e.Detail = EventAgent, d.i32(), d.i32()
	case msgDeviceAdded:
		e.Kind, e.Device = EventDeviceAdded, d.str()
	case msgDeviceRemoved:
		e.Kind, e.Device = EventDeviceRemoved, d.str()
	case msgBlockJob:
		e.Kind, e.Device, e.What, e.Detail = EventBlockJob, d.str(), d.i32(), d.i32()
	case msgJobCompleted:
		e.Kind, e.Params = EventJobCompleted, d.params(maxJobParams)
	default:
		return Event{}, false, nil
	}
	if err := d.end(); err != nil {
		return Event{}, true, fmt.Errorf("event %d: %w", procedure, err)
	}
	return e, true, nil
}
