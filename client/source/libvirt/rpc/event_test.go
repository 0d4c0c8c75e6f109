package rpc

import (
	"context"
	"testing"
	"testing/synctest"
)

// subscribe subscribes and plays the daemon's part in it.
func subscribe(t *testing.T, ctx context.Context, c *Conn, d *daemon) <-chan Event {
	t.Helper()
	type result struct {
		events <-chan Event
		err    error
	}
	got := later(func() result {
		events, err := c.Subscribe(ctx)
		return result{events, err}
	})
	for i, id := range eventIDs {
		h, payload := d.take()
		p := &decoder{b: payload}
		if h.procedure != procRegisterEvent.number || p.u32() != id || p.present() || p.end() != nil {
			t.Fatalf("registers by %+v %x", h, payload)
		}
		d.reply(h, args().i32(i))
	}
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.events
}

func (d *daemon) lifecycle(what int) {
	d.tell(msgLifecycle, args().u32(0).domain(golden).i32(what).i32(9))
}

func TestEvents(t *testing.T) {
	c, d := connect(t)
	events := subscribe(t, t.Context(), c, d)
	// The daemon is asked once.
	more, err := c.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.lifecycle(LifecycleStarted)
	d.tell(msgAgent, args().u32(1).domain(golden).i32(AgentConnected).i32(2))
	d.tell(9999, args().u32(1).domain(golden))
	d.tell(msgDeviceAdded, args().u32(2).domain(golden).str("virtio-disk3"))
	d.tell(msgDeviceRemoved, args().u32(3).domain(golden).str("virtio-disk4"))
	d.tell(msgBlockJob, args().u32(4).domain(golden).str("vda").i32(1).i32(3))
	d.Close()
	want := []Event{
		{Kind: EventLifecycle, Domain: golden, What: LifecycleStarted, Detail: 9},
		{Kind: EventAgent, Domain: golden, What: AgentConnected, Detail: 2},
		{Kind: EventDeviceAdded, Domain: golden, Device: "virtio-disk3"},
		{Kind: EventDeviceRemoved, Domain: golden, Device: "virtio-disk4"},
		{Kind: EventBlockJob, Domain: golden, Device: "vda", What: int(BlockJobPull), Detail: BlockJobReady},
	}
	for _, ch := range []<-chan Event{events, more} {
		n := 0
		for e := range ch { // until the connection is gone
			if w := want[n]; e.Kind != w.Kind || e.Domain != w.Domain || e.What != w.What || e.Detail != w.Detail || e.Device != w.Device {
				t.Errorf("event %d is %+v, want %+v", n, e, w)
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%d events, want %d", n, len(want))
		}
	}
}

// A slow subscriber loses events, is told where, and holds nobody up.
func TestSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := connect(t)
		events := subscribe(t, t.Context(), c, d)
		for i := range eventBuffer + 50 {
			d.lifecycle(i)
		}
		err := ask(t.Context(), c)
		d.reply(d.takeCall(procConnectLibVersion), args().u64(1))
		if e := <-err; e != nil {
			t.Fatal(e)
		}
		for i := range eventBuffer {
			if e := <-events; e.Kind != EventLifecycle || e.What != i {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
		d.lifecycle(-1)
		synctest.Wait()
		if e := <-events; e.Kind != EventLost {
			t.Fatalf("got %+v where events were lost", e)
		}
		if e := <-events; e.What != -1 {
			t.Fatalf("got %+v after events were lost", e)
		}
		if len(events) != 0 {
			t.Error("more events than were sent")
		}
	})
}

func TestUnsubscribe(t *testing.T) {
	c, d := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := subscribe(t, ctx, c, d)
	d.lifecycle(LifecycleStarted)
	<-events
	cancel()
	for range events {
	}
	d.lifecycle(LifecycleStopped) // nobody minds
	again, err := c.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.lifecycle(LifecycleResumed)
	e := <-again
	if e.What == LifecycleStopped { // it was still on its way
		e = <-again
	}
	if e.What != LifecycleResumed {
		t.Errorf("got %+v", e)
	}
}

// A daemon that refuses leaves no subscription behind; the next one asks anew.
func TestSubscribeRefused(t *testing.T) {
	c, d := connect(t)
	err := later(func() error {
		_, err := c.Subscribe(t.Context())
		return err
	})
	d.refuse(d.takeCall(procRegisterEvent), &Error{Code: ErrAccessDenied})
	wantErr(t, <-err, ErrAccessDenied)
	if len(c.subs) != 0 {
		t.Error("a subscription was left behind")
	}
	subscribe(t, t.Context(), c, d)
}
