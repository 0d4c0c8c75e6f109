// Package job queues, dispatches, follows and shows jobs.
package job

import (
	"context"
	"errors"
	"time"

	pb "cairn/proto/cairn/v1"
)

// Errors that callers tell apart.
var (
	// ErrNotFound: no job of that name.
	ErrNotFound = errors.New("job does not exist")
	// ErrLeaseLost: the lease token is not the one that holds the job now, or
	// the job has ended.
	ErrLeaseLost = errors.New("the job is not held by this lease")
	errTODO      = errors.New("not there yet")
)

// Spec says what job to make.
type Spec struct {
	Vault         string // resource name of the vault
	Operation     pb.JobOperation
	ProtectedItem string // resource names, as in pb.Job
	Machine       string
	RecoveryPoint string
	RetainUntil   time.Time
	Tasks         []string // titles
	RetryOf       string
	Scheduled     bool
}

// Manager owns all jobs.
type Manager struct{}

// Run is a job that runs within the server.
type Run struct{}

// Begin makes a job that is IN_PROGRESS and that the caller carries through: it
// must call Finish. Only one BACKUP per item runs at a time: else the error is
// a *BusyError.
func (m *Manager) Begin(ctx context.Context, spec Spec) (*Run, error) { return nil, errTODO }

// Start makes a job that f carries through in a goroutine of its own. What f
// returns ends the job: nil is COMPLETED (WITH_WARNINGS, if it has any), an
// error is FAILED, and CANCELLED if the job's context was cancelled.
func (m *Manager) Start(ctx context.Context, spec Spec, f func(*Run) error) (*pb.Job, error) {
	return nil, errTODO
}

// Check tells whether token holds the job now, and gives the job. Errors:
// ErrNotFound, ErrLeaseLost.
func (m *Manager) Check(name, token string) (*pb.Job, error) { return nil, errTODO }

// SetPoint notes in a job the point that it has made. It is called after the
// point was committed.
func (m *Manager) SetPoint(name, point string) {}

// Name is the job's resource name.
func (r *Run) Name() string { return "" }

// Context is cancelled when somebody cancels the job or the server stops.
func (r *Run) Context() context.Context { return context.Background() }

// Update changes the job as f says: tasks, stats, warnings, recovery point.
// Watchers see it at once; it is durable with the next change of state.
func (r *Run) Update(f func(*pb.Job)) {}

// Finish ends the job, as Start describes. A second call does nothing.
func (r *Run) Finish(err error) {}

// BusyError: a backup of the item is under way.
type BusyError struct {
	Item, Job string
}

func (e *BusyError) Error() string {
	return "a backup of " + e.Item + " is under way: " + e.Job
}
