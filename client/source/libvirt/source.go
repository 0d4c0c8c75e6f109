package libvirt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/live"
)

// DefaultURI is that of the system's libvirt.
const DefaultURI = "qemu:///system"

// Options says which daemon to ask and how to treat its domains.
type Options struct {
	// URI is qemu:///system or qemu:///session; "" means DefaultURI.
	URI string
	// State is where sessions are kept, in a sub-directory "libvirt" of it; ""
	// means live.DefaultState. It holds sockets, so its path must be short (60 bytes
	// are always fine), and every directory above it must let QEMU's user pass.
	State string
	// Scratch is a directory for what guests overwrite while their snapshots are
	// read; "" means the session's own.
	Scratch string
	// Reserve is how many bytes of its file system are left alone: with less, a
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

// daemon is what is needed of libvirt's daemon; *rpc.Conn is one.
type daemon interface {
	hypervisor
	BlockInfo(ctx context.Context, dom rpc.Domain, disk string) (rpc.BlockInfo, error)
	AgentCommand(ctx context.Context, dom rpc.Domain, command string, limit int) (string, error)
	BackupBegin(ctx context.Context, dom rpc.Domain, backupXML, checkpointXML string, flags rpc.BackupFlags) error
	BackupXMLDesc(ctx context.Context, dom rpc.Domain) (string, error)
	JobStats(ctx context.Context, dom rpc.Domain, completed bool) (rpc.JobStats, error)
	AbortJob(ctx context.Context, dom rpc.Domain) error
	LookupCheckpoint(ctx context.Context, dom rpc.Domain, name string) (rpc.Checkpoint, error)
	CheckpointXMLDesc(ctx context.Context, cp rpc.Checkpoint, flags rpc.CheckpointXMLFlags) (string, error)
	CreateCheckpoint(ctx context.Context, dom rpc.Domain, xml string, flags rpc.CheckpointCreateFlags) (rpc.Checkpoint, error)
	Done() <-chan struct{}
	Close() error
}

var _ daemon = (*rpc.Conn)(nil)

// Source is the Source of a daemon's domains.
type Source struct {
	*restorer
	o     Options
	state string
	owner string // marks this state directory's checkpoints

	// Calls of one connection wait for each other, four being on their way at
	// once. So work, looking around and asking guests do not share one.
	work, look, guests *link

	mu       sync.Mutex
	agents   map[rpc.UUID]*agentFacts
	watchers map[chan struct{}]struct{}
	open     map[string]bool // checkpoints of snapshots that are open

	// reached is told how far a snapshot is; tests break off there.
	reached func(phase string)
}

var (
	_ source.Source   = (*Source)(nil)
	_ source.Cleaner  = (*Source)(nil)
	_ source.Restorer = (*Source)(nil)
)

// New makes a Source. The daemon need not run yet, but its URI must be one that
// is supported. Close ends its connections.
func New(o Options) (*Source, error) {
	uri := o.URI
	if uri == "" {
		uri = DefaultURI
	}
	if err := rpc.CheckURI(uri); err != nil {
		return nil, err
	}
	o.URI = uri
	return newSource(o, func(ctx context.Context) (daemon, error) { return rpc.Dial(ctx, uri) })
}

func newSource(o Options, dial func(context.Context) (daemon, error)) (*Source, error) {
	if o.State == "" {
		o.State = live.DefaultState
	}
	state, err := filepath.Abs(o.State)
	if err != nil {
		return nil, fmt.Errorf("libvirt: %w", err)
	}
	if o.Scratch != "" {
		if o.Scratch, err = filepath.Abs(o.Scratch); err != nil {
			return nil, fmt.Errorf("libvirt: %w", err)
		}
	}
	if o.Reserve <= 0 {
		o.Reserve = live.DefaultReserve
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		o: o, state: filepath.Join(state, "libvirt"),
		work: &link{dial: dial}, look: &link{dial: dial}, guests: &link{dial: dial},
		agents: map[rpc.UUID]*agentFacts{}, watchers: map[chan struct{}]struct{}{}, open: map[string]bool{},
		reached: func(string) {},
	}
	s.restorer = newRestorer(func(ctx context.Context) (hypervisor, error) { return s.work.get(ctx) }, idOf, s.state)
	s.restorer.log = o.Log
	return s, nil
}

// Close ends the connections to the daemon. Snapshots are to be closed before.
func (s *Source) Close() error {
	return errors.Join(s.work.close(), s.look.close(), s.guests.close())
}

// idOf is a machine's ID by its domain's name.
func idOf(name string) string { return source.IDOf(name, "vm") }

// link is a connection to the daemon that is made anew when it breaks.
type link struct {
	dial func(context.Context) (daemon, error)

	mu   sync.Mutex
	conn daemon
}

// dialLimit bounds one attempt to connect.
const dialLimit = 10 * time.Second

// get returns the connection. Its error is a source.ErrHypervisor.
func (l *link) get(ctx context.Context) (daemon, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		select {
		case <-l.conn.Done():
			l.conn.Close()
			l.conn = nil
		default:
			return l.conn, nil
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, fmt.Errorf("no answer within %s", dialLimit))
	defer cancel()
	c, err := l.dial(ctx)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return nil, context.Canceled
		}
		return nil, fmt.Errorf("%w: %w", source.ErrHypervisor, err)
	}
	l.conn = c
	return c, nil
}

func (l *link) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil
	}
	c := l.conn
	l.conn = nil
	return c.Close()
}

// failure gives an error of a call the sentinel that callers of a snapshot know.
func failure(err error) error {
	switch {
	case err == nil, errors.Is(err, source.ErrHypervisor):
		return err
	case errors.Is(err, rpc.ErrDisconnected), errors.Is(err, rpc.ErrAuthFailed), errors.Is(err, rpc.ErrAccessDenied),
		errors.Is(err, rpc.ErrOperationDenied), errors.Is(err, rpc.ErrAuthUnavailable):
		return fmt.Errorf("%w: %w", source.ErrHypervisor, err)
	case errors.Is(err, rpc.ErrNoDomain):
		return fmt.Errorf("%w: %w", source.ErrMachineNotFound, err)
	case strings.Contains(err.Error(), "No space left on device"):
		return fmt.Errorf("%w: %w", source.ErrSnapshotSpace, err)
	case errors.Is(err, rpc.ErrOperationTimeout), errors.Is(err, rpc.ErrOperationInvalid), errors.Is(err, rpc.ErrBlockCopyActive),
		errors.Is(err, rpc.ErrResourceBusy), strings.Contains(err.Error(), "has a blockjob assigned"):
		return fmt.Errorf("%w: %w", source.ErrMachineState, err)
	}
	return err
}

// ownerID returns what marks the checkpoints that are made with this state
// directory.
func (s *Source) ownerID() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != "" {
		return s.owner, nil
	}
	path := filepath.Join(s.state, "owner")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = newOwner(path)
	}
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	s.owner = strings.TrimSpace(string(b))
	return s.owner, nil
}

// newOwner writes the file of an owner. Of two that do so at once, one wins.
func newOwner(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".owner-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err = fmt.Fprintf(f, "%s\n", strings.ToLower(rand.Text())); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}
