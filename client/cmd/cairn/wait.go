package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

// started prints a job that was just started, and with wait goes along to its
// end.
func (a *app) started(ctx context.Context, c *client.Client, j *cairnv1.Job, wait bool) error {
	if !wait {
		if ended(j) { // what the server does at once
			if err := a.printJob(j); err != nil {
				return err
			}
			return jobError(j)
		}
		return printOne(a, jobTable, j)
	}
	j, err := waitJob(ctx, c, j.GetName(), os.Stderr)
	if err != nil {
		return err
	}
	if err := a.printJob(j); err != nil {
		return err
	}
	return jobError(j)
}

// waitJob waits until a job has ended and shows on w how it goes.
func waitJob(ctx context.Context, c *client.Client, name string, w *os.File) (*cairnv1.Job, error) {
	resp, err := c.Jobs.GetJob(ctx, &cairnv1.GetJobRequest{Name: name})
	if err != nil {
		return nil, err
	}
	last := resp.GetJob()
	if ended(last) {
		return last, nil
	}
	show := newMeter(w)
	defer show.close()
	filter := &cairnv1.JobFilter{ProtectedItem: last.GetProtectedItem()}
	err = watchJobs(ctx, c, name[:len(name)-len("/jobs/")-len(short(name))], filter, func(r *cairnv1.WatchJobsResponse) (bool, error) {
		if r.GetJob().GetName() != name {
			return false, nil
		}
		last = r.GetJob()
		for _, t := range last.GetTasks() {
			if t.GetState() == cairnv1.JobState_JOB_STATE_IN_PROGRESS {
				show.set(t.GetTitle(), t.GetDoneBytes(), t.GetTotalBytes())
			}
		}
		return ended(last), nil
	})
	return last, err
}

func ended(j *cairnv1.Job) bool {
	switch j.GetState() {
	case cairnv1.JobState_JOB_STATE_QUEUED, cairnv1.JobState_JOB_STATE_IN_PROGRESS, cairnv1.JobState_JOB_STATE_CANCELLING:
		return false
	}
	return true
}

// meter shows progress: a bar on a terminal, elsewhere a line now and then.
type meter struct {
	w     io.Writer
	tty   bool
	bar   *progressbar.ProgressBar
	title string
	last  time.Time // of the last line
}

func newMeter(w *os.File) *meter {
	return &meter{w: w, tty: term.IsTerminal(int(w.Fd()))}
}

func (m *meter) set(title string, done, total int64) {
	if !m.tty {
		if title != m.title || time.Since(m.last) > 5*time.Second {
			m.last = time.Now()
			if total > 0 {
				fmt.Fprintf(m.w, "%s: %s of %s\n", title, size(done), size(total))
			} else {
				fmt.Fprintf(m.w, "%s\n", title)
			}
		}
		m.title = title
		return
	}
	if total <= 0 {
		return
	}
	if m.bar == nil || m.title != title {
		m.close()
		m.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(m.w), progressbar.OptionSetDescription(title),
			progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
		m.title = title
	}
	m.bar.ChangeMax64(total)
	_ = m.bar.Set64(min(done, total)) // a bar that cannot be drawn is no reason to stop
}

func (m *meter) close() {
	if m.bar != nil {
		_ = m.bar.Clear()
		m.bar = nil
	}
}

// sleep waits before attempt n to connect again.
func sleep(ctx context.Context, n int) error {
	t := time.NewTimer(min(100*time.Millisecond<<min(n, 6), 3*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
