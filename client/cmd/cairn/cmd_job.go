package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var jobTable = table[*cairnv1.Job]{
	head: []string{"JOB", "VAULT", "OPERATION", "ITEM", "STATE", "PROGRESS", "STARTED", "TOOK", "NEW DATA", "SCHEDULED FOR", "TRY", "NEXT TRY", "ERROR"},
	row: func(j *cairnv1.Job) []string {
		stats := j.GetStats()
		return []string{
			short(j.GetName()), field(j.GetName(), "vaults"), word(j.GetOperation(), "JOB_OPERATION_"), orDash(short(j.GetProtectedItem())),
			word(j.GetState(), "JOB_STATE_"), progressText(j), when(j.GetStartTime()), took(j.GetStartTime(), j.GetEndTime()),
			size(stats.GetNewBytes()), when(j.GetScheduleTime()), tryText(j), when(j.GetNextAttemptTime()), orDash(j.GetError().GetMessage()),
		}
	},
}

// tryText is which try of its run of the schedule a job is.
func tryText(j *cairnv1.Job) string {
	if j.GetAttempt() == 0 {
		return "-"
	}
	return fmt.Sprint(j.GetAttempt())
}

func progressText(j *cairnv1.Job) string {
	var total, done int64
	for _, t := range j.GetTasks() {
		total += t.GetTotalBytes()
		done += t.GetDoneBytes()
	}
	if total == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", 100*done/total)
}

func (a *app) jobCmd() *cobra.Command {
	return group("job", "Show and steer jobs", a.jobListCmd(), a.jobShowCmd(), a.jobWatchCmd(), a.jobCancelCmd(), a.jobRetryCmd())
}

// jobParent is the vault whose jobs are meant, or the subscription for all.
func (a *app) jobParent(vault string) (string, error) {
	if vault == "" {
		return a.parent(), nil
	}
	return a.vaultName(vault)
}

func (a *app) jobListCmd() *cobra.Command {
	var vault, item string
	var states, operations []string
	var failed bool
	cmd := &cobra.Command{
		Use: "list", Short: "List jobs, newest first", Args: args(cobra.NoArgs),
		Long: `List jobs, newest first. Of a backup that its schedule started, SCHEDULED FOR is the
run that it is for; TRY counts the attempts at that run, and NEXT TRY is when the
server makes the next one by itself. SKIPPED runs did not begin, because the one
before was still under way.`,
	}
	f := cmd.Flags()
	f.StringVar(&vault, "vault", "", "only this vault's")
	f.StringVar(&item, "item", "", "only this item's")
	f.StringSliceVar(&states, "state", nil, "only in these states: queued, in-progress, failed, skipped, …")
	f.StringSliceVar(&operations, "operation", nil, "only these operations: backup, restore, verify, reclaim, …")
	f.BoolVar(&failed, "failed", false, "only those that failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		if failed && f.Changed("state") {
			return usagef("--failed and --state exclude each other")
		}
		parent, err := a.jobParent(vault)
		if err != nil {
			return err
		}
		filter := &cairnv1.JobFilter{}
		if failed {
			filter.States = []cairnv1.JobState{cairnv1.JobState_JOB_STATE_FAILED}
		}
		if f.Changed("state") {
			if filter.States, err = enums[cairnv1.JobState]("--state", states, "JOB_STATE_", cairnv1.JobState_value); err != nil {
				return err
			}
		}
		if f.Changed("operation") {
			if filter.Operations, err = enums[cairnv1.JobOperation]("--operation", operations, "JOB_OPERATION_", cairnv1.JobOperation_value); err != nil {
				return err
			}
		}
		if item != "" {
			if filter.ProtectedItem, err = a.itemName(ctx, c, item); err != nil {
				return err
			}
		}
		list, err := all(func(token string) ([]*cairnv1.Job, string, error) {
			r, err := c.Jobs.ListJobs(ctx, &cairnv1.ListJobsRequest{Parent: parent, Filter: filter, PageSize: pageSize, PageToken: token})
			return r.GetJobs(), r.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printList(a, jobTable, list)
	})
	return cmd
}

// enums finds enum values by their words, each once.
func enums[E ~int32](flag string, words []string, prefix string, values map[string]int32) ([]E, error) {
	if len(words) == 0 {
		words = []string{""} // the flag was given, with nothing
	}
	var out []E
	for _, w := range words {
		n, err := enum(flag, w, prefix, values)
		if err != nil {
			return nil, err
		}
		out = addOnce(out, E(n))
	}
	return out, nil
}

func (a *app) jobShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show JOB", Short: "Show one job with its tasks", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.jobName(ctx, c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.Jobs.GetJob(ctx, &cairnv1.GetJobRequest{Name: name})
			if err != nil {
				return err
			}
			return a.printJob(resp.GetJob())
		}),
	}
}

// printJob prints all there is to say about a job.
func (a *app) printJob(j *cairnv1.Job) error {
	if err := printOne(a, jobTable, j); err != nil || a.output != "table" {
		return err
	}
	origin := "a call"
	if j.GetScheduled() {
		origin = "its schedule"
	}
	fmt.Printf("made: %s by %s", when(j.GetCreateTime()), origin)
	if r := j.GetRetryOf(); r != "" {
		fmt.Printf(", a retry of %s", short(r))
	}
	fmt.Println()
	if t := j.GetRetainUntil(); t != nil {
		fmt.Printf("point kept until: %s\n", when(t))
	}
	for _, t := range j.GetTasks() {
		fmt.Printf("  %-24s %-12s %s of %s  %s  %s\n", t.GetTitle(), word(t.GetState(), "JOB_STATE_"), size(t.GetDoneBytes()), size(t.GetTotalBytes()),
			took(t.GetStartTime(), t.GetEndTime()), t.GetDetail())
	}
	if s := j.GetStats(); s != nil {
		if s.GetReadBytes() > 0 || s.GetSentBytes() > 0 {
			fmt.Printf("read: %s, sent: %s\n", size(s.GetReadBytes()), size(s.GetSentBytes()))
		}
		if d := s.GetFrozen().AsDuration(); d > 0 {
			fmt.Printf("frozen: %d ms\n", d.Milliseconds())
		}
		if s.GetTrackedBytes() > 0 || s.GetSampledBytes() > 0 {
			fmt.Printf("changed since the last point: %s; read again to prove it: %s\n", size(s.GetTrackedBytes()), size(s.GetSampledBytes()))
		}
		if s.GetBadBlocks() > 0 {
			fmt.Printf("damaged blocks: %d\n", s.GetBadBlocks())
		}
	}
	if j.GetOutcome() != "" {
		fmt.Printf("outcome: %s\n", j.GetOutcome())
	}
	printWarnings(j.GetWarnings())
	if e := j.GetError(); e != nil {
		fmt.Printf("error: %s (%s)\n", e.GetMessage(), word(e.GetReason(), "ERROR_REASON_"))
		if e.GetRemedy() != "" {
			fmt.Printf("what to do: %s\n", e.GetRemedy())
		}
	}
	if t := j.GetNextAttemptTime(); t != nil {
		fmt.Printf("tried again at: %s\n", when(t))
	}
	if p := j.GetRecoveryPoint(); p != "" {
		fmt.Printf("recovery point: %s@%s\n", field(p, "protectedItems"), short(p))
	}
	for _, act := range j.GetActions() {
		verb := strings.ToLower(word(act, "JOB_ACTION_"))
		fmt.Printf("to %s it: cairn job %s %s\n", verb, verb, short(j.GetName()))
	}
	return nil
}

func (a *app) jobCancelCmd() *cobra.Command {
	return &cobra.Command{
		Use: "cancel JOB", Short: "Ask a job to stop", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.jobName(ctx, c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.Jobs.CancelJob(ctx, &cairnv1.CancelJobRequest{Name: name})
			if err != nil {
				return err
			}
			return printOne(a, jobTable, resp.GetJob())
		}),
	}
}

func (a *app) jobRetryCmd() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{Use: "retry JOB", Short: "Do again what a failed job was to do", Args: args(cobra.ExactArgs(1))}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.jobName(ctx, c, args[0])
		if err != nil {
			return err
		}
		resp, err := c.Jobs.RetryJob(ctx, &cairnv1.RetryJobRequest{Name: name, RequestId: requestID()})
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), wait)
	})
	return cmd
}

func (a *app) jobWatchCmd() *cobra.Command {
	var vault string
	cmd := &cobra.Command{
		Use: "watch [JOB]", Short: "Show jobs as they change, or one job until its end", Args: args(cobra.MaximumNArgs(1)),
	}
	cmd.Flags().StringVar(&vault, "vault", "", "only this vault's jobs")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) == 1 {
			name, err := a.jobName(ctx, c, args[0])
			if err != nil {
				return err
			}
			j, err := waitJob(ctx, c, name, os.Stderr)
			if err != nil {
				return err
			}
			if err := a.printJob(j); err != nil {
				return err
			}
			return jobError(j)
		}
		parent, err := a.jobParent(vault)
		if err != nil {
			return err
		}
		return watchJobs(ctx, c, parent, nil, func(r *cairnv1.WatchJobsResponse) (bool, error) {
			j := r.GetJob()
			if j == nil || r.GetDeleted() {
				return false, nil
			}
			if a.output != "table" {
				line, err := toJSON(j)
				if err != nil {
					return true, err
				}
				return false, printJSON(os.Stdout, a.output, line)
			}
			fmt.Printf("%s  %-14s %-10s %-26s %s\n", short(j.GetName()), word(j.GetOperation(), "JOB_OPERATION_"), short(j.GetProtectedItem()),
				word(j.GetState(), "JOB_STATE_"), progressText(j))
			return false, nil
		})
	})
	return cmd
}

// watchJobs calls f with every change until f is done, and goes on where it
// was when the connection breaks.
func watchJobs(ctx context.Context, c *client.Client, parent string, filter *cairnv1.JobFilter, f func(*cairnv1.WatchJobsResponse) (done bool, err error)) error {
	var revision int64
	for broken := 0; ; broken++ {
		stream, err := c.Jobs.WatchJobs(ctx, &cairnv1.WatchJobsRequest{Parent: parent, Filter: filter, AfterRevision: revision})
		for err == nil {
			var r *cairnv1.WatchJobsResponse
			if r, err = stream.Recv(); err != nil {
				break
			}
			broken = 0
			revision = max(revision, r.GetRevision())
			if done, ferr := f(r); done || ferr != nil {
				return ferr
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_REVISION_UNAVAILABLE:
			revision = 0 // the server does not remember that far back: begin with what is there
		case errors.Is(err, io.EOF), client.Transient(err) && broken < 20:
			if err := sleep(ctx, broken); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// jobError is the error that a job ended with, or nil.
func jobError(j *cairnv1.Job) error {
	switch j.GetState() {
	case cairnv1.JobState_JOB_STATE_FAILED, cairnv1.JobState_JOB_STATE_CANCELLED, cairnv1.JobState_JOB_STATE_SKIPPED:
		err := fmt.Errorf("job %s: %s", path.Base(j.GetName()), word(j.GetState(), "JOB_STATE_"))
		if e := j.GetError(); e != nil {
			err = fmt.Errorf("%w: %s", err, e.GetMessage())
			if e.GetRemedy() != "" {
				err = hintf(err, "%s", e.GetRemedy())
			}
		}
		return err
	}
	return nil
}
