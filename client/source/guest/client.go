package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// timeouts are how long one command may take.
type timeouts struct {
	command time.Duration // that the agent answers at once
	slow    time.Duration // that runs a program in the guest
	thawTry time.Duration // one attempt at a thaw
	thaw    time.Duration // all attempts at it
	poll    time.Duration // between looks at a program in the guest
}

var defaultTimeouts = timeouts{
	command: 5 * time.Second,
	slow:    45 * time.Second,
	thawTry: 5 * time.Second,
	thaw:    15 * time.Second,
	poll:    50 * time.Millisecond,
}

// Client asks one guest's agent. Its methods may be called from several
// goroutines; they take turns. Each command is bounded by a few seconds, also
// when its ctx is not.
//
// All return ErrUnavailable when the agent does not answer, *CommandError when it
// refuses, ErrFrozen between Freeze and the end of Thaw.
type Client struct {
	transport Transport
	turn      chan struct{} // holds a token while a command is in flight
	frozen    atomic.Bool   // from the freeze until the thaw has been answered
	limits    timeouts
}

// NewClient returns a client over t, which remains the caller's to close, after
// the last Frozen was thawed.
func NewClient(t Transport) *Client {
	return &Client{transport: t, turn: make(chan struct{}, 1), limits: defaultTimeouts}
}

// ask sends one command and decodes what it returns into out, unless out is nil.
func (c *Client) ask(ctx context.Context, command string, arguments, out any) error {
	return c.send(ctx, c.limits.command, !theFreeze, command, arguments, out)
}

// theFreeze marks the commands of those who hold the freeze.
const theFreeze = true

// send is ask with a limit of its own.
func (c *Client) send(ctx context.Context, limit time.Duration, freeze bool, command string, arguments, out any) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	timed, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	select {
	case c.turn <- struct{}{}:
	case <-timed.Done():
		return fmt.Errorf("%s: %w: %w", command, ErrUnavailable, context.Cause(timed))
	}
	if c.frozen.Load() && !freeze {
		<-c.turn
		return fmt.Errorf("%s: %w", command, ErrFrozen)
	}
	reply, err := c.transport.Execute(timed, string(request))
	<-c.turn
	if err == nil {
		err = decode(reply, out)
	}
	var refused *CommandError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused), errors.Is(err, ErrUnavailable):
	case errors.Is(ctx.Err(), context.Canceled):
		err = context.Cause(ctx)
	case timed.Err() != nil:
		err = fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(timed))
	}
	return fmt.Errorf("%s: %w", command, err)
}

func decode(reply []byte, out any) error {
	var r struct {
		Return json.RawMessage
		Error  *CommandError
	}
	err := json.Unmarshal(reply, &r)
	switch {
	case err != nil:
	case r.Error != nil:
		return r.Error
	case r.Return == nil:
		err = fmt.Errorf("reply %.80q holds neither return nor error", reply)
	case out != nil:
		err = json.Unmarshal(r.Return, out)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Ping asks for a sign of life.
func (c *Client) Ping(ctx context.Context) error { return c.ask(ctx, "guest-ping", nil, nil) }

// Info describes the agent.
type Info struct {
	Version  string    `json:"version"`
	Commands []Command `json:"supported_commands"`
}

// Command is one command that the agent knows.
type Command struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"` // false when the guest's administrator forbids it
}

// Enabled tells whether the agent carries out all the commands.
func (i *Info) Enabled(names ...string) bool {
	if i == nil {
		return false
	}
	on := map[string]bool{}
	for _, c := range i.Commands {
		on[c.Name] = c.Enabled
	}
	for _, n := range names {
		if !on[n] {
			return false
		}
	}
	return true
}

// Info asks for the agent's version and commands.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	var i Info
	if err := c.ask(ctx, "guest-info", nil, &i); err != nil {
		return nil, err
	}
	return &i, nil
}

// FileSystem is one mounted file system of the guest.
type FileSystem struct {
	Name       string   `json:"name"`       // "vda1", "dm-0", on Windows "\\?\Volume{…}\"
	Mountpoint string   `json:"mountpoint"` // "/", on Windows "C:\"
	Type       string   `json:"type"`       // "ext4", "NTFS"
	Used       int64    `json:"used-bytes"` // 0 when the agent does not tell
	Total      int64    `json:"total-bytes"`
	Disks      []FSDisk `json:"disk"` // what it lies on; empty when not known
}

// FSDisk is a disk of the guest below a file system, by its address in the
// machine.
type FSDisk struct {
	BusType string `json:"bus-type"` // "virtio", "scsi", "sata", …
	Bus     int    `json:"bus"`
	Target  int    `json:"target"`
	Unit    int    `json:"unit"`
	Serial  string `json:"serial"` // "" when it has none
	Dev     string `json:"dev"`    // "/dev/vda1"; "" when not told
	PCI     struct {
		Domain   int `json:"domain"` // -1 when not known
		Bus      int `json:"bus"`
		Slot     int `json:"slot"`
		Function int `json:"function"`
	} `json:"pci-controller"`
}

// FSInfo lists the guest's mounted file systems.
func (c *Client) FSInfo(ctx context.Context) ([]FileSystem, error) {
	var l []FileSystem
	return l, c.ask(ctx, "guest-get-fsinfo", nil, &l)
}
