package job

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// Errors that callers tell apart, with errors.Is.
var (
	// ErrNotFound: no job of that name.
	ErrNotFound = errors.New("job does not exist")
	// ErrLeaseLost: the lease token is not the one that holds the job, or the job
	// has ended.
	ErrLeaseLost = errors.New("this lease does not hold the job any more")
	// ErrReplaced: another agent claims the jobs of the host now.
	ErrReplaced = errors.New("another agent took over the jobs of this host")
	// ErrCancelled is the cause of a Run's context when its job was cancelled.
	ErrCancelled = errors.New("the job was cancelled")
	// ErrStopping: the server stops.
	ErrStopping = errors.New("the server is stopping")
	// ErrRevision: a watch cannot go on from that revision.
	ErrRevision = errors.New("changes since that revision are not known any more")
	// ErrNoPoint: a backup was reported to be complete and has made no point.
	ErrNoPoint = errors.New("the job has made no recovery point")
)

// BusyError: a backup of the item, or a restore in place, is under way.
type BusyError struct {
	Item, Job string
	Operation pb.JobOperation // BACKUP or RESTORE
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s of %s is under way: %s", e.What(), e.Item, e.Job)
}

// What names the operation in a sentence.
func (e *BusyError) What() string {
	if e.Operation == pb.JobOperation_JOB_OPERATION_RESTORE {
		return "a restore in place"
	}
	return "a backup"
}

// StateError: the job is in a state that does not allow what was asked.
type StateError struct {
	Job   string
	State pb.JobState
}

func (e *StateError) Error() string {
	return fmt.Sprintf("job %s is %s", e.Job, strings.TrimPrefix(e.State.String(), "JOB_STATE_"))
}

// Hooks are what the Manager asks of the rest of the server. Unless it says
// otherwise they are called without locks, never concurrently for the same job.
type Hooks struct {
	// Work describes a queued job to the agent that is about to get it: an
	// assignment of which only the work is set. restore is what a RESTORE is to
	// do, nil for other jobs; it must not be changed. An error fails the job.
	Work func(j *pb.Job, restore *pb.RestoreRequest) (*pb.JobAssignment, error)
	// Made finds the recovery point that a job has made.
	Made func(*pb.Job) (point string, ok bool)
	// Ending is called with the final state of a job before it is stored. It can
	// be called again for the same job if the server stops in between.
	Ending func(*pb.Job)
	// Settle is called with the final state of a job in the transaction that stores
	// it, and may write what becomes durable with it, and set NextAttemptTime; nil
	// does nothing. It can be called again, if the transaction failed. It must not
	// call the Manager, which is locked, nor wait.
	Settle func(*catalog.Tx, *pb.Job) error
	// Halt is called when a running job was asked to stop, and before Made when a
	// job ends. It sees to it that nothing is done for the job any more.
	Halt func(*pb.Job)
	// Moved, if set, is called within the transaction that makes a job move to
	// another state: before is the job as it was, nil for one that is made, or whose
	// end could not be stored at once; now is not to be changed. It may write more
	// in the same step. Seen, if set, is called when a change of a job, also of its
	// progress, is shown to watchers. Both are called with the Manager's lock, and
	// must not wait.
	Moved func(tx *catalog.Tx, before, now *pb.Job) error
	Seen  func(before, now *pb.Job)
	// Problem says why a job failed.
	Problem func(error) *pb.Problem
}

// Options of a Manager. Catalog and Hooks must be given.
type Options struct {
	Catalog *catalog.Catalog
	Hooks   Hooks
	// Now and Rand are the clock and the source of ids and tokens; time.Now and
	// crypto/rand if nil.
	Now  func() time.Time
	Rand io.Reader
	// PerHost and PerVault bound the jobs that agents do at once, of one host and
	// of one vault; the others stay QUEUED. 0 is no bound: then what a host does at
	// once is up to its agent alone.
	PerHost, PerVault int
	// Lease is how long an agent holds a job without a report; 0 is 30 s.
	Lease time.Duration
	// Grace is how long leases last at least after the server's start; 0 is 30 s.
	Grace time.Duration
	// KeepAlive is the time between messages to an idle agent; 0 is 15 s.
	KeepAlive time.Duration
	// Flush is the time between writes of progress; 0 is 500 ms.
	Flush time.Duration
	// History is how many changes are kept for watchers; 0 is 4096.
	History int
	// Keep is how long ended jobs are kept; 0 is 180 days.
	Keep time.Duration
	// Logger gets what operators should read; nil discards it.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Lease, 30*time.Second)
	def(&o.Grace, 30*time.Second)
	def(&o.KeepAlive, 15*time.Second)
	def(&o.Flush, 500*time.Millisecond)
	def(&o.Keep, 180*24*time.Hour)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.History == 0 {
		o.History = 4096
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Manager owns all jobs. It is safe for concurrent use.
type Manager struct {
	o   Options
	cat *catalog.Catalog
	log *slog.Logger

	kick     chan struct{} // wakes loop
	stop     chan struct{} // closed by Stop
	stopOnce sync.Once
	runs     sync.WaitGroup // claims, watches, and what Start began
	done     chan struct{}  // closed when loop has ended

	mu       sync.Mutex
	stopping bool                // nothing is dispatched any more
	stopped  bool                // nothing is begun any more
	active   map[string]*entry   // jobs that have not ended, or whose end is not stored
	busy     map[string]*entry   // item → its BACKUP, or RESTORE in place, that has not ended
	queues   map[string][]*entry // host → queued jobs, oldest first
	sessions map[string]*session // host → its agent
	lastID   time.Time           // of the last job id made
	flushed  time.Time           // when progress was last written
	swept    time.Time           // when old jobs were last removed

	rev     int64         // of the last change
	ceiling int64         // stored; rev must not pass it
	floor   int64         // changes after it are in history
	history []change      // consecutive revisions
	news    chan struct{} // closed at the next change
}

// entry is a job that has not ended.
type entry struct {
	job      *pb.Job            // never changed, only replaced
	restore  *pb.RestoreRequest // what a RESTORE is to do; never changed
	host     string             // whose agent runs it; "" if the server does
	lease    catalog.Lease
	assigned *pb.JobAssignment       // as long as this process remembers it
	session  *session                // to which it was assigned; nil if that is gone
	cancel   context.CancelCauseFunc // of a Run
	dirty    bool                    // progress that is not stored yet
	leaseUp  bool                    // the lease was renewed and that is not stored
	taken    bool                    // off the queue, and about to be assigned
	ending   bool                    // finish is at work
	ended    bool
	why      *pb.Problem   // with what it ends if it is CANCELLED; may be nil
	done     chan struct{} // closed when it has ended
}

// Open loads what has not ended and begins to work. Jobs that the server ran
// itself when it stopped end as INTERRUPTED.
func Open(o Options) (*Manager, error) {
	m := &Manager{
		o: o.withDefaults(), cat: o.Catalog,
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		active: map[string]*entry{}, busy: map[string]*entry{},
		queues: map[string][]*entry{}, sessions: map[string]*session{},
		news: make(chan struct{}),
	}
	m.log = m.o.Logger
	var err error
	if m.rev, err = m.cat.Revision(); err != nil {
		return nil, err
	}
	m.ceiling, m.floor = m.rev, m.rev
	var lost []*entry
	grace := m.o.Now().Add(m.o.Grace)
	err = m.cat.Jobs("", "", "", func(j *pb.Job) bool {
		if Ended(j.State) {
			return true
		}
		restore, missing := (*pb.RestoreRequest)(nil), error(nil)
		if j.Operation == pb.JobOperation_JOB_OPERATION_RESTORE {
			restore, missing = m.cat.Restore(j.Name)
		}
		e := m.adopt(j, restore)
		lease, err := m.cat.Lease(j.Name)
		switch {
		case missing != nil:
			m.log.Error("a job is lost", "job", j.Name, "error", missing)
			lost = append(lost, e)
		case j.State == pb.JobState_JOB_STATE_QUEUED:
			m.queues[e.host] = append([]*entry{e}, m.queues[e.host]...) // newest come first
		case err == nil && e.host != "":
			if e.lease = lease; lease.Expire.Before(grace) {
				e.lease.Expire = grace
			}
		default:
			lost = append(lost, e)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("load jobs: %w", err)
	}
	for _, e := range lost {
		m.finish(e, interrupted("the server stopped in the middle of the job"))
	}
	go m.loop()
	return m, nil
}

// adopt makes the entry of a job that has not ended.
func (m *Manager) adopt(j *pb.Job, restore *pb.RestoreRequest) *entry {
	j.Actions = actions(j)
	e := &entry{job: j, restore: restore, host: restore.GetHost(), done: make(chan struct{})}
	if host, _, ok := strings.Cut(j.Machine, "/machines/"); ok && j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP {
		e.host = host
	}
	m.active[j.Name] = e
	if exclusive(j.Operation, restore) {
		m.busy[j.ProtectedItem] = e
	}
	return e
}

// exclusive says whether a job keeps others of its kind from its item.
func exclusive(op pb.JobOperation, restore *pb.RestoreRequest) bool {
	return op == pb.JobOperation_JOB_OPERATION_BACKUP || restore.GetInPlace() != nil
}

// Drain lets nothing new begin: queued jobs stay queued. It returns when all
// jobs that are under way have ended, or with ctx.
func (m *Manager) Drain(ctx context.Context) {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	for {
		m.mu.Lock()
		var next *entry
		for _, e := range m.active {
			if !e.ended && e.job.State != pb.JobState_JOB_STATE_QUEUED && (e.host == "" || e.session != nil) {
				next = e
			}
		}
		m.mu.Unlock()
		if next == nil {
			return
		}
		select {
		case <-next.done:
		case <-ctx.Done():
			return
		}
	}
}

// Stop ends all claims, watches and runs and writes what is not written. The
// catalog may be closed afterwards. A second call does nothing.
func (m *Manager) Stop() { m.stopOnce.Do(m.doStop) }

func (m *Manager) doStop() {
	m.mu.Lock()
	m.stopping, m.stopped = true, true
	for _, e := range m.active {
		if e.cancel != nil {
			e.cancel(ErrStopping)
		}
	}
	m.mu.Unlock()
	close(m.stop)
	m.runs.Wait()
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.active { // Begin's, whose owner does not Finish any more
		if e.cancel != nil && !e.ended {
			m.log.Warn("job was not finished at stop", "job", e.job.Name)
		}
	}
	m.flush()
	// The exact revision, so that watchers can go on after a clean stop.
	rev := m.rev
	if err := m.cat.Update(context.Background(), func(tx *catalog.Tx) error { return tx.SetRevision(rev) }); err != nil {
		m.log.Error("revision not stored", "error", err)
	}
}

// enter begins something that Stop waits for, to end with runs.Done.
func (m *Manager) enter() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return ErrStopping
	}
	m.runs.Add(1)
	return nil
}
