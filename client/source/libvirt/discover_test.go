package libvirt

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn/client/source"
	"cairn/client/source/guest"
	"cairn/client/source/libvirt/rpc"
)

func fakeSource(t *testing.T, daemons ...*fakeDaemon) *Source {
	t.Helper()
	s, err := newSource(Options{State: t.TempDir()}, func(context.Context) (daemon, error) {
		for _, d := range daemons {
			select {
			case <-d.gone:
			default:
				return d, nil
			}
		}
		return nil, errors.New("refused")
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// goodAgent answers as Debian's does.
func goodAgent(_ context.Context, _ rpc.Domain, command string) (string, error) {
	if strings.Contains(command, "osinfo") {
		return `{"return":{"id":"debian","pretty-name":"Debian GNU/Linux 12","kernel-version":"#1 SMP"}}`, nil
	}
	return `{"return":{}}`, nil
}

// Guests that hang hold up a listing for a moment, once, and what they say in
// the end is told as a change.
func TestMachinesOfHungGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeDaemon()
		for i := range 100 {
			f.doms = append(f.doms, fakeDom(i))
		}
		f.agent = func(ctx context.Context, dom rpc.Domain, command string) (string, error) {
			if dom.ID%5 == 0 {
				<-ctx.Done()
				return "", context.Cause(ctx)
			}
			return goodAgent(ctx, dom, command)
		}
		s := fakeSource(t, f)
		begun := time.Now()
		all, err := s.Machines(t.Context())
		if err != nil || len(all) != 100 {
			t.Fatal(len(all), err)
		}
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("took %v", d)
		}
		begun = time.Now()
		if all, err = s.Machines(t.Context()); err != nil || time.Since(begun) > 0 {
			t.Errorf("the second time took %v, %v", time.Since(begun), err)
		}
		good, bad := 0, 0
		for _, m := range all {
			switch {
			case m.Agent == source.AgentConnected && m.GuestOS == "Debian GNU/Linux 12":
				good++
			case m.Agent == source.AgentUnreachable:
				bad++
			}
		}
		if good != 80 || bad != 20 {
			t.Errorf("%d answer, %d do not", good, bad)
		}
	})
}

func TestInspect(t *testing.T) {
	dom := fakeDom(1)
	disks := func(xml string) string { return fakeXML(dom, "disconnected", xml) }
	for _, c := range []struct {
		name, xml string
		state     [2]int
		want      source.State
		agent     source.AgentState
		problem   string
		count     int
	}{
		{"running", disks(fakeDisks), [2]int{1, 1}, source.StateRunning, source.AgentUnreachable, "", 2},
		{"off", disks(fakeDisks), [2]int{5, 1}, source.StateStopped, source.AgentUnknown, "", 2},
		{"paused", disks(fakeDisks), [2]int{3, rpc.PausedUser}, source.StatePaused, source.AgentUnknown, "", 2},
		{"I/O error", disks(fakeDisks), [2]int{3, rpc.PausedIOError}, source.StateCrashed, source.AgentUnknown, "", 2},
		{"no disk", disks(""), [2]int{1, 1}, source.StateRunning, source.AgentUnreachable, "has no disk", 0},
		{"network, running", disks(`<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>`), [2]int{1, 1}, source.StateRunning, source.AgentUnreachable, "", 1},
		{"network, off", disks(`<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>`), [2]int{5, 1}, source.StateStopped, source.AgentUnknown, "start the VM", 1},
		{"vhost-user", disks(`<disk type='vhostuser'><source type='unix' path='/x'/><target dev='vda'/></disk>`), [2]int{1, 1}, source.StateRunning, source.AgentUnreachable, "exclude the disk", 1},
		{"directory", disks(`<disk type='dir'><source dir='/x'/><target dev='vda'/></disk>` + fakeDisks[strings.Index(fakeDisks, "\n"):]), [2]int{1, 1}, source.StateRunning, source.AgentUnreachable, "directory", 2},
		{"nonsense", "<nothing/>", [2]int{1, 1}, source.StateRunning, source.AgentUnknown, "malformed", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeDaemon(dom)
			f.xmls[dom.Name], f.states[dom.Name] = c.xml, c.state
			all, err := fakeSource(t, f).Machines(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			m := all[0]
			if m.State != c.want || m.Agent != c.agent || len(m.Disks) != c.count ||
				(c.problem == "") != (m.Problem == "") || !strings.Contains(m.Problem, c.problem) {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestTwoDomainsOfOneID(t *testing.T) {
	a, b := fakeDom(1), fakeDom(2)
	a.Name, b.Name = "Web 1", "web-1"
	f := newFakeDaemon(a, b)
	f.agent = goodAgent
	s := fakeSource(t, f)
	all, err := s.Machines(t.Context())
	if err != nil || len(all) != 1 || !strings.Contains(all[0].Problem, "rename one") {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := s.Snapshot(t.Context(), "web-1", source.SnapshotOptions{}); !errors.Is(err, source.ErrUnusable) {
		t.Errorf("error %v", err)
	}
	if _, err := s.Snapshot(t.Context(), "web-2", source.SnapshotOptions{}); !errors.Is(err, source.ErrMachineNotFound) {
		t.Errorf("error %v", err)
	}
}

// A restart of the daemon is two changes, and events in quick succession are one.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newFakeDaemon(), newFakeDaemon()
		s := fakeSource(t, first, second)
		ctx, cancel := context.WithCancel(t.Context())
		changes := make(chan time.Time, 10)
		ended := make(chan error)
		go func() { ended <- s.Watch(ctx, func() { changes <- time.Now() }) }()
		expect := func(n int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if len(changes) != n {
				t.Errorf("%d changes, want %d", len(changes), n)
			}
			for len(changes) > 0 {
				<-changes
			}
		}
		expect(1)
		for range 5 {
			first.events <- rpc.Event{Kind: rpc.EventLifecycle, Domain: fakeDom(1)}
		}
		expect(1)
		first.events <- rpc.Event{Kind: rpc.EventJobCompleted, Domain: fakeDom(1)}
		expect(0)
		close(first.gone)
		close(first.events)
		expect(2)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestChannel(t *testing.T) {
	f := newFakeDaemon()
	s := fakeSource(t, f)
	for _, c := range []struct {
		err     error
		refused string
	}{
		{&rpc.Error{Code: rpc.ErrAgentUnresponsive, Text: "Guest agent is not responding: QEMU guest agent is not connected"}, ""},
		{&rpc.Error{Code: rpc.ErrInternal, Text: "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': failed to freeze /: Invalid argument"}, "failed to freeze /: Invalid argument"},
		{&rpc.Error{Code: rpc.ErrInternal, Text: "internal error: something else"}, ""},
		{rpc.ErrDisconnected, ""},
	} {
		f.agent = func(context.Context, rpc.Domain, string) (string, error) { return "", c.err }
		_, err := channel{s.guests, fakeDom(1)}.Execute(t.Context(), "{}")
		var refused *guest.CommandError
		if errors.As(err, &refused) != (c.refused != "") || refused != nil && refused.Desc != c.refused || refused == nil && !errors.Is(err, guest.ErrUnavailable) {
			t.Errorf("%v becomes %v", c.err, err)
		}
	}
	if _, _, err := OpenGuest(t.Context(), []string{"qemu", "x"}); err == nil {
		t.Error("another kind's arguments are taken")
	}
}
