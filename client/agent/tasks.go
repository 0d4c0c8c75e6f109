package agent

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// Titles of tasks, in the words that users know.
const (
	taskSnapshot = "Take Snapshot"
	taskTransfer = "Transfer data to vault"
	taskStop     = "Stop machine"
	taskSafety   = "Take safety point"
	taskRestore  = "Restore data"
	taskStart    = "Start machine"
)

// progress counts what a task has done, for whoever reports it.
type progress struct {
	total, done, read atomic.Int64 // bytes
	detail            atomic.Value // string: what is being worked on
}

// plan says which tasks the job has.
func (j *job) plan(titles ...string) {
	j.update(func(r *cairnv1.ReportJobRequest) {
		r.Tasks = nil
		for _, t := range titles {
			r.Tasks = append(r.Tasks, &cairnv1.JobTask{Title: t, State: cairnv1.JobState_JOB_STATE_QUEUED})
		}
	})
}

// task changes the task of that title.
func (j *job) task(title string, f func(*cairnv1.JobTask)) {
	j.update(func(r *cairnv1.ReportJobRequest) {
		for _, t := range r.Tasks {
			if t.Title == title {
				f(t)
			}
		}
	})
}

// begin starts a task, for the first time or again.
func (j *job) begin(title string) {
	j.task(title, func(t *cairnv1.JobTask) {
		t.State, t.EndTime = cairnv1.JobState_JOB_STATE_IN_PROGRESS, nil
		if t.StartTime == nil {
			t.StartTime = timestamppb.Now()
		}
	})
}

func (j *job) done(title string) {
	j.task(title, func(t *cairnv1.JobTask) {
		t.State, t.EndTime = cairnv1.JobState_JOB_STATE_COMPLETED, timestamppb.Now()
		t.DoneBytes, t.Detail = t.TotalBytes, ""
	})
}

// showProgress copies what pr counts to a task, and to the bytes read if those
// are the job's, until stop is called.
func (j *job) showProgress(ctx context.Context, title string, pr *progress, read bool) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	show := func() {
		j.task(title, func(t *cairnv1.JobTask) {
			t.TotalBytes = pr.total.Load()
			t.DoneBytes = min(pr.done.Load(), t.TotalBytes)
			t.Detail, _ = pr.detail.Load().(string)
		})
		if read {
			j.update(func(r *cairnv1.ReportJobRequest) { r.Stats.ReadBytes = pr.read.Load() })
		}
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(reportEvery / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show()
			case <-ctx.Done():
				show()
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// What a server takes: it refuses reports and points with more.
const (
	maxText     = 2000 // bytes of a warning, a problem or an outcome
	maxWarnings = 100
)

// clip makes a text one that the server takes.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// warn adds a warning, once, if there is room for it.
func (j *job) warn(reason cairnv1.ErrorReason, err error, metadata ...string) {
	text := clip(err.Error())
	w := &cairnv1.Warning{Reason: reason, Message: text, Remedy: warningRemedy(reason)}
	for i := 0; i+1 < len(metadata); i += 2 {
		if w.Metadata == nil {
			w.Metadata = map[string]string{}
		}
		w.Metadata[metadata[i]] = metadata[i+1]
	}
	j.update(func(r *cairnv1.ReportJobRequest) {
		for _, w := range r.Warnings {
			if w.Reason == reason && w.Message == text {
				return // a transfer that began again says it again
			}
		}
		if len(r.Warnings) < maxWarnings {
			r.Warnings = append(r.Warnings, w)
		}
	})
}

// warnings adds those of a source.
func (j *job) warnings(list []source.Warning) {
	for _, w := range list {
		j.warn(warningReason(w.Kind), errors.New(w.Text))
	}
}

// patience is how long a job waits for a server that is gone.
const patience = 5 * time.Minute

// patiently calls f until the server is there to answer it.
func patiently(ctx context.Context, f func() error) error {
	giveUp := time.Now().Add(patience)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := f()
		if err == nil || !client.Transient(err) || time.Now().After(giveUp) {
			return err
		}
		pause(ctx, wait)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// point reads a point's record; nil if there is none of that name (any more).
func (j *job) point(ctx context.Context, name string) (*cairnv1.RecoveryPoint, error) {
	if name == "" {
		return nil, nil
	}
	var resp *cairnv1.GetRecoveryPointResponse
	err := patiently(ctx, func() (err error) {
		resp, err = j.a.c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: name})
		return err
	})
	if client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND {
		return nil, nil
	}
	return resp.GetRecoveryPoint(), err
}
