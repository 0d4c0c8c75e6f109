package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"cairn/client/source"
	"cairn/client/source/qmp"
)

const (
	// greetLimit is how long a monitor may take to greet: others may be using it
	// for a moment.
	greetLimit = 5 * time.Second
	// commandLimit is how long QEMU may take for one command, in which it may
	// have to wait for I/O in flight.
	commandLimit = 30 * time.Second
)

// errGone: there is no QEMU at the socket.
var errGone = errors.New("QEMU does not run")

// monitor is the one connection to a machine's monitor that all of this process
// share.
type monitor struct {
	path string
	turn chan struct{} // holds a token while somebody touches current
	// current is the connection that newcomers share, or nil.
	current *shared
}

type shared struct {
	*qmp.Client
	users int
}

// monitor returns the one for a path.
func (s *Source) monitor(path string) *monitor {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.monitors[path]
	if m == nil {
		m = &monitor{path: path, turn: make(chan struct{}, 1)}
		s.monitors[path] = m
	}
	return m
}

// connect returns a connection, which is to be released.
//
// Errors: errGone, source.ErrHypervisor, ctx's.
func (m *monitor) connect(ctx context.Context) (_ *shared, release func(), err error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	defer func() { <-m.turn }()
	if m.current != nil {
		select {
		case <-m.current.Done(): // its users will notice
			m.current = nil
		default:
		}
	}
	if m.current == nil {
		timed, cancel := context.WithTimeoutCause(ctx, greetLimit, fmt.Errorf("no greeting within %s", greetLimit))
		defer cancel()
		c, err := qmp.Dial(timed, m.path)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, qmp.ErrClosed):
			return nil, nil, fmt.Errorf("%w: nobody listens at its monitor %s", errGone, m.path)
		default:
			return nil, nil, fmt.Errorf("%w: %w", source.ErrHypervisor, err)
		}
		m.current = &shared{Client: c}
	}
	c := m.current
	c.users++
	return c, func() {
		m.turn <- struct{}{}
		defer func() { <-m.turn }()
		if c.users--; c.users == 0 {
			c.Close()
			if m.current == c {
				m.current = nil
			}
		}
	}, nil
}

// ask sends one command, bounded.
//
// Errors: *qmp.Error, errGone, source.ErrHypervisor, ctx's.
func (c *shared) ask(ctx context.Context, command string, arguments, out any) error {
	timed, cancel := context.WithTimeoutCause(ctx, commandLimit, fmt.Errorf("%w: no answer within %s", source.ErrHypervisor, commandLimit))
	defer cancel()
	err := c.Execute(timed, command, arguments, out)
	switch {
	case errors.Is(err, qmp.ErrClosed):
		return fmt.Errorf("%w: %w", errGone, err)
	case errors.Is(err, qmp.ErrProtocol):
		return fmt.Errorf("%w: %w", source.ErrHypervisor, err)
	}
	return err
}

// args are a command's arguments.
type args = map[string]any
