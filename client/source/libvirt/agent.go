package libvirt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"cairn/client/source"
	"cairn/client/source/guest"
	"cairn/client/source/libvirt/rpc"
)

// GuardKind is the first of the arguments by which a thaw guard of this package
// reaches its guest.
const GuardKind = "libvirt"

// guardArgs are the arguments for OpenGuest.
func (s *Source) guardArgs(dom rpc.Domain) []string {
	return []string{GuardKind, s.o.URI, dom.UUID.String()}
}

// OpenGuest opens the guest that a guard's arguments describe, for
// guest.GuardMain.
func OpenGuest(ctx context.Context, args []string) (guest.Transport, func(), error) {
	if len(args) != 3 || args[0] != GuardKind {
		return nil, nil, fmt.Errorf("arguments %q are not of a %s guest", args, GuardKind)
	}
	uuid, err := rpc.ParseUUID(args[2])
	if err != nil {
		return nil, nil, err
	}
	conn, err := rpc.Dial(ctx, args[1])
	if err != nil {
		return nil, nil, err
	}
	dom, err := conn.LookupByUUID(ctx, uuid)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	fixed := &link{conn: conn, dial: func(ctx context.Context) (daemon, error) { return rpc.Dial(ctx, args[1]) }}
	return channel{fixed, dom}, func() { fixed.close() }, nil
}

// channel is the way to a guest's agent through libvirt, which lets one command
// at a time through and synchronises the agent after each that failed.
type channel struct {
	link *link
	dom  rpc.Domain
}

var _ guest.Transport = channel{}

// Execute implements guest.Transport.
func (c channel) Execute(ctx context.Context, command string) ([]byte, error) {
	conn, err := c.link.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", guest.ErrUnavailable, err)
	}
	// libvirt gives up by itself: what is given up here alone would go on
	// holding the agent.
	limit := rpc.AgentDefault
	if t, ok := ctx.Deadline(); ok {
		limit = max(1, int(math.Ceil(time.Until(t).Seconds())))
	}
	reply, err := conn.AgentCommand(ctx, c.dom, command, limit)
	var refused *rpc.Error
	switch {
	case err == nil:
		return []byte(reply), nil
	case errors.Is(err, rpc.ErrInternal) && errors.As(err, &refused):
		// "internal error: unable to execute QEMU agent command 'guest-…': …"
		if _, desc, ok := strings.Cut(refused.Text, "agent command '"); ok {
			if _, desc, ok = strings.Cut(desc, "': "); ok {
				return nil, &guest.CommandError{Desc: desc}
			}
		}
	}
	return nil, fmt.Errorf("%w: %w", guest.ErrUnavailable, err)
}

const (
	// guestLimit is how long a guest may take to answer when machines are listed,
	// and guestWait how long a listing waits for all of them. Later answers are
	// told as a change.
	guestLimit = 2 * time.Second
	guestWait  = 2500 * time.Millisecond
	// guestRetry is how long a guest that has not answered is left alone.
	guestRetry = time.Minute
)

// agentFacts is what a guest said last.
type agentFacts struct {
	run     int // the domain's id: another run, another guest
	state   source.AgentState
	os      string
	asked   time.Time
	pending chan struct{} // closed when the answer is there; nil if nobody asks
}

// askGuests fills in what the domains' guests say.
func (s *Source) askGuests(ctx context.Context, all []*domain) {
	wait := time.NewTimer(guestWait)
	defer wait.Stop()
	answers := make([]<-chan struct{}, len(all))
	for i, d := range all {
		answers[i] = s.askGuest(d)
	}
	late := false
	for i, d := range all {
		if answers[i] != nil && !late {
			select {
			case <-answers[i]:
			case <-wait.C:
				late = true
			case <-ctx.Done():
				late = true
			}
		}
		s.fillGuest(d)
	}
}

// askGuest begins to ask a domain's guest, if there is one to ask and its last
// answer does not do. The channel is closed when it has answered.
func (s *Source) askGuest(d *domain) <-chan struct{} {
	if d.def == nil || !d.active() || d.stands() != "" || !d.def.AgentChannel() || d.extras.silent() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.agents[d.UUID]
	switch {
	case f == nil:
		f = &agentFacts{}
		s.agents[d.UUID] = f
	case f.pending != nil:
		return f.pending
	case f.run == d.ID && (f.state == source.AgentConnected || time.Since(f.asked) < guestRetry):
		return nil
	}
	answered := make(chan struct{})
	f.pending = answered
	go func() {
		state, os := s.survey(d.Domain)
		s.mu.Lock()
		changed := f.run != d.ID || f.state != state || os != "" && f.os != os
		if os == "" && f.run == d.ID {
			os = f.os
		}
		f.run, f.state, f.os, f.asked, f.pending = d.ID, state, os, time.Now(), nil
		s.mu.Unlock()
		close(answered)
		if changed {
			s.wake()
		}
	}()
	return answered
}

// survey asks one guest.
func (s *Source) survey(dom rpc.Domain) (source.AgentState, string) {
	ctx, cancel := context.WithTimeout(context.Background(), guestLimit)
	defer cancel()
	c := guest.NewClient(channel{s.guests, dom})
	if err := c.Ping(ctx); err != nil && !errors.As(err, new(*guest.CommandError)) {
		return source.AgentUnreachable, ""
	}
	os, err := c.OSInfo(ctx)
	if err != nil {
		return source.AgentConnected, ""
	}
	return source.AgentConnected, os.GuestOS()
}

// fillGuest fills in what is known of a domain's guest.
func (s *Source) fillGuest(d *domain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.agents[d.UUID]
	if f != nil {
		d.info.GuestOS = f.os
	}
	switch {
	case d.def == nil:
	case !d.def.AgentChannel():
		d.info.Agent = source.AgentNotConfigured
	case !d.active() || d.stands() != "":
	case d.extras.silent():
		d.info.Agent = source.AgentUnreachable
	case f != nil && f.run == d.ID:
		d.info.Agent = f.state
	}
}

// forgetGuest has a guest asked anew: its agent came or went.
func (s *Source) forgetGuest(id rpc.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.agents[id]; f != nil {
		f.asked = time.Time{}
		if f.state == source.AgentConnected {
			f.state = source.AgentUnknown
		}
	}
}
