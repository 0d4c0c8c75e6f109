package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

// Causes for which a job's context is cancelled.
var (
	errCancelled = errors.New("the job was cancelled")
	errLeaseLost = errors.New("the server gave the job to another agent or ended it")
)

// reportEvery is how often progress is told while it moves.
const reportEvery = 400 * time.Millisecond

// An agent that is stopped tries for finalReportFor to tell how a job ended while
// the server is gone, any other for as long as it waits for the server anyway.
// After that the server finds out by the job's lease.
const finalReportFor = time.Minute

// job is one assignment under way, and what is told about it.
type job struct {
	a      *agent
	name   string
	token  string
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	report  *cairnv1.ReportJobRequest
	expires time.Time // of the lease
}

// start runs an assignment, unless it runs already: a server that restarted
// may assign again what this agent never lost.
func (a *agent) start(as *cairnv1.JobAssignment) {
	name := as.GetJob().GetName()
	a.mu.Lock()
	defer a.mu.Unlock()
	if j := a.jobs[name]; j != nil {
		return
	}
	// A job outlives the session in which it was claimed, not the agent: stop
	// of the agent reaches it through stopAll.
	ctx, cancel := context.WithCancelCause(context.Background())
	j := &job{a: a, name: name, token: as.GetLeaseToken(), cancel: cancel, expires: as.GetLeaseExpireTime().AsTime(),
		report: &cairnv1.ReportJobRequest{Job: name, LeaseToken: as.GetLeaseToken(), State: cairnv1.JobState_JOB_STATE_IN_PROGRESS, Stats: &cairnv1.JobStats{}}}
	a.jobs[name] = j
	a.running.Go(func() {
		defer cancel(nil)
		j.run(ctx, as)
		a.mu.Lock()
		delete(a.jobs, name)
		a.mu.Unlock()
	})
}

func (a *agent) cancelJob(name string) {
	a.mu.Lock()
	j := a.jobs[name]
	a.mu.Unlock()
	if j != nil {
		j.cancel(errCancelled)
	}
}

// stopAll ends what runs because the agent ends.
func (a *agent) stopAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.jobs {
		j.cancel(errStopped)
	}
}

// run does the work and tells the server how it went.
func (j *job) run(ctx context.Context, as *cairnv1.JobAssignment) {
	log := j.a.Log.With("job", j.name)
	hbCtx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { j.heartbeat(hbCtx) })

	var err error
	switch w := as.GetWork().(type) {
	case *cairnv1.JobAssignment_Backup:
		log.Info("backup begins", "machine", w.Backup.GetMachine())
		err = j.backup(ctx, w.Backup)
	case *cairnv1.JobAssignment_Restore:
		log.Info("restore begins", "point", w.Restore.GetRecoveryPoint())
		err = j.restore(ctx, w.Restore)
	default:
		err = fmt.Errorf("this agent does not know how to run %s: upgrade it", as.GetJob().GetOperation())
	}
	stop()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	if errors.Is(err, errLeaseLost) {
		log.Warn("job was taken away", "err", err)
		return
	}
	j.finish(err)
	log.Info("job ended", "state", j.report.GetState(), "err", err)
}

// update changes what is told about the job.
func (j *job) update(f func(r *cairnv1.ReportJobRequest)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(j.report)
}

// heartbeat tells the server what changed, and renews the lease when nothing
// does.
func (j *job) heartbeat(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var last *cairnv1.ReportJobRequest
	var sent time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		j.mu.Lock()
		r := proto.Clone(j.report).(*cairnv1.ReportJobRequest)
		renew := sent.Add(max(reportEvery, j.expires.Sub(sent)/3))
		j.mu.Unlock()
		if proto.Equal(r, last) && time.Now().Before(renew) {
			continue
		}
		rpcCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		resp, err := j.a.c.Hosts.ReportJob(rpcCtx, r)
		cancel()
		if err == nil {
			last, sent = r, time.Now()
		}
		j.reported(resp, err)
	}
}

// reported draws the conclusions from the answer to a report.
func (j *job) reported(resp *cairnv1.ReportJobResponse, err error) {
	switch client.Reason(err) {
	case cairnv1.ErrorReason_ERROR_REASON_JOB_LEASE_LOST, cairnv1.ErrorReason_ERROR_REASON_JOB_NOT_FOUND:
		j.cancel(errLeaseLost)
		return
	}
	if resp.GetCancelRequested() {
		j.cancel(errCancelled)
	}
	if t := resp.GetLeaseExpireTime(); t != nil {
		j.mu.Lock()
		j.expires = t.AsTime()
		j.mu.Unlock()
	}
}

// finish tells how the job ended, and tries for a while if the server is gone.
func (j *job) finish(err error) {
	j.update(func(r *cairnv1.ReportJobRequest) {
		switch {
		case err == nil && len(r.Warnings) > 0:
			r.State = cairnv1.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS
		case err == nil:
			r.State = cairnv1.JobState_JOB_STATE_COMPLETED
		case errors.Is(err, errCancelled):
			r.State = cairnv1.JobState_JOB_STATE_CANCELLED
		default:
			r.State = cairnv1.JobState_JOB_STATE_FAILED
			r.Error = problem(err)
			r.Error.Message = clip(r.Error.Message)
		}
		now := timestamppb.Now()
		for _, t := range r.Tasks {
			switch {
			case t.EndTime != nil:
			case t.StartTime == nil && err != nil:
				t.State = cairnv1.JobState_JOB_STATE_SKIPPED
			default:
				t.EndTime, t.State = now, r.State
			}
		}
	})
	limit := patience
	if errors.Is(err, errStopped) {
		limit = finalReportFor
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, err := j.a.c.Hosts.ReportJob(ctx, j.report)
		if err == nil || !client.Transient(err) || ctx.Err() != nil {
			if err != nil {
				j.a.Log.Error("could not report the end of a job", "job", j.name, "err", client.Message(err))
			}
			return
		}
		pause(ctx, wait)
	}
}
