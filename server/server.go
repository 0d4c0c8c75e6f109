package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore"
	"cairn/server/catalog"
	"cairn/server/job"
	"cairn/server/metrics"
	"cairn/server/notify"
)

// Options of a server. The zero value of each field but Dir is good for use.
type Options struct {
	// Dir is the data directory. It is made if it does not exist.
	Dir string
	// Regions are the regions that exist; the first is the server's own.
	// Empty means "local" alone.
	Regions []string
	// FS holds the data directory; nil is the operating system's.
	FS vfs.FS
	// Resources are the caches of the vaults' stores; nil makes them.
	Resources *blockstore.Resources
	// Now and Rand are the clock and the source of ids and tokens.
	Now  func() time.Time
	Rand io.Reader
	// Mend is the time between attempts to open vaults that are not available; 0
	// is 10 seconds.
	Mend time.Duration
	// Unattended leaves everything that the server does of itself, such as
	// scheduled backups and pruning, to calls of Tend: for tests, whose clock
	// does not run by itself.
	Unattended bool
	// ReclaimEvery is the time between two reclaims of a vault that the server
	// starts by itself; 0 is 24 hours.
	ReclaimEvery time.Duration
	// AuditKeep is how long audit records are kept; 0 is 400 days.
	AuditKeep time.Duration
	// JobsPerVault bounds the jobs of a vault that agents do at once, 0 is 8, and
	// JobsPerHost those of a host, 0 is what its agent takes. Less than 0 is no
	// bound.
	JobsPerVault, JobsPerHost int
	// Backups that are due at the same time start one after the other, SpreadStep
	// apart but all within Spread; 0 is 5 seconds and 5 minutes. Less than 0 starts
	// them at once.
	SpreadStep, Spread time.Duration
	// Jobs has the times of leases and the like; Catalog, Hooks, Now, Rand and
	// Logger are filled in.
	Jobs job.Options
	// Notify has the hooks that are told of jobs; Catalog, Server, Now and Logger
	// are filled in.
	Notify notify.Options
	// Logger gets what operators should read; nil is slog.Default.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if len(o.Regions) == 0 {
		o.Regions = []string{"local"}
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.JobsPerVault == 0 {
		o.JobsPerVault = 8
	}
	if o.SpreadStep == 0 {
		o.SpreadStep = 5 * time.Second
	}
	if o.Spread == 0 {
		o.Spread = 5 * time.Minute
	}
	if o.ReclaimEvery == 0 {
		o.ReclaimEvery = 24 * time.Hour
	}
	if o.Mend == 0 {
		o.Mend = 10 * time.Second
	}
	if o.AuditKeep == 0 {
		o.AuditKeep = 400 * 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Server is an open data directory and everything that works on it.
type Server struct {
	opts     Options
	id       string // the data directory's uuid
	log      *slog.Logger
	tokenKey []byte // keys the page tokens' checksums
	lock     io.Closer
	cat      *catalog.Catalog
	requests *requests
	vaults   *vaults
	data     *dataPlane
	jobs     *job.Manager
	notifier *notify.Notifier
	metrics  *metrics.Metrics
	chores   map[string]*chore
	inOrder  []*chore            // the same
	pruned   map[ItemName]pruned // what choreRetention knows

	reclaiming atomic.Bool // a reclaim runs that the server started by itself

	// ctx ends when the server is closed; tasks work until then.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// Open opens the data directory, or makes a new one, and begins to work. Errors
// to tell apart: ErrNewerData, ErrNotData, catalog.ErrLocked.
func Open(opts Options) (*Server, error) {
	opts = opts.withDefaults()
	for _, r := range opts.Regions {
		if !validID(r) {
			return nil, fmt.Errorf("region %q %s", r, idRule)
		}
	}
	id, lock, err := openDataDir(opts)
	if err != nil {
		return nil, err
	}
	if opts.Resources == nil {
		opts.Resources = blockstore.NewResources(blockstore.ResourceOptions{})
		lock = closers{closerFunc(opts.Resources.Close), lock}
	}
	key := sha256.Sum256([]byte("page tokens of " + id))
	s := &Server{opts: opts, id: id, log: opts.Logger, lock: lock, tokenKey: key[:], chores: map[string]*chore{}}
	s.makeChores()
	s.metrics = metrics.New(s.figures)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.requests = &requests{s: s, running: map[string]chan struct{}{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.tasks.Go(func() { s.vaults.mend(s.ctx, s.opts.Mend) })
	if !opts.Unattended {
		for _, c := range s.inOrder {
			s.tasks.Go(func() { s.tend(c) })
		}
	}
	return s, nil
}

func (s *Server) open() (err error) {
	dir := s.opts.FS.PathJoin(s.opts.Dir, catalogName)
	if err := makeDir(s.opts.FS, dir); err != nil {
		return fmt.Errorf("make directory of the catalog: %w", err)
	}
	s.cat, err = catalog.Open(dir, catalog.Options{FS: s.opts.FS, Logger: s.log})
	if err != nil {
		return err
	}
	if s.vaults, err = openVaults(s); err != nil {
		return err
	}
	s.data = newDataPlane(s)
	n := s.opts.Notify
	n.Catalog, n.Server, n.Now, n.Logger = s.cat, s.id, s.opts.Now, s.log
	if s.notifier, err = notify.Open(n); err != nil {
		return err
	}
	o := s.opts.Jobs
	o.Catalog, o.Hooks, o.Now, o.Rand, o.Logger = s.cat, s.jobHooks(), s.opts.Now, s.opts.Rand, s.log
	o.PerHost, o.PerVault = s.opts.JobsPerHost, s.opts.JobsPerVault
	if s.jobs, err = job.Open(o); err != nil {
		return err
	}
	for _, v := range s.vaults.all() {
		s.tellAll(v)
	}
	return nil
}

// Drain is the gentle part of a stop: nothing new begins, and what is under way
// may go on until ctx ends. Calls are still answered.
func (s *Server) Drain(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.DrainUploads(ctx) })
	wg.Go(func() { s.jobs.Drain(ctx) })
	wg.Wait()
}

// EndStreams ends streams that would never end by themselves: agents' claims and
// watches. They answer INTERRUPTED, which tells clients to come back.
func (s *Server) EndStreams() { s.jobs.Stop() }

// Close ends all work and closes all databases. Serving must have ended, or end
// with this: streams end with INTERRUPTED.
func (s *Server) Close() error {
	s.cancel()
	s.tasks.Wait()
	var errs []error
	if s.data != nil {
		s.DrainUploads(s.ctx) // which has ended: what is open is abandoned
	}
	if s.jobs != nil {
		s.jobs.Stop()
	}
	if s.notifier != nil {
		s.notifier.Close()
	}
	if s.vaults != nil {
		errs = append(errs, s.vaults.close())
	}
	if s.cat != nil {
		errs = append(errs, s.cat.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// sweepVaultRequests is the chore that removes answers to requests which were kept
// for a day. (What is in the catalog is the job manager's to sweep.)
func (s *Server) sweepVaultRequests(ctx context.Context, now time.Time) (time.Time, error) {
	for _, v := range s.vaults.all() {
		release, err := v.use()
		if err != nil {
			continue
		}
		if err := s.sweepRequests(v); err != nil && ctx.Err() == nil {
			s.log.Warn("old answers to requests not removed", "vault", v.Name.String(), "error", err)
		}
		release()
	}
	return now.Add(time.Hour), nil
}

type closerFunc func()

func (f closerFunc) Close() error { f(); return nil }

type closers []io.Closer

func (cs closers) Close() error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
