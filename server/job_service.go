package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

type jobService struct {
	pb.UnimplementedJobServiceServer
	*Server
}

// GetJob reads one job.
func (s *jobService) GetJob(_ context.Context, r *pb.GetJobRequest) (*pb.GetJobResponse, error) {
	var f fields
	n := f.job("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	j, err := s.job(n)
	if err != nil {
		return nil, err
	}
	return &pb.GetJobResponse{Job: j}, nil
}

// job reads a job. Errors: VAULT_NOT_FOUND, JOB_NOT_FOUND.
func (s *Server) job(n JobName) (*pb.Job, error) {
	if _, err := s.vaults.find(n.VaultName); err != nil {
		return nil, err
	}
	j, err := s.jobs.Get(n.String())
	return j, jobNotFound(n, err)
}

// jobNotFound gives a job that is not there its words.
func jobNotFound(n JobName, err error) error {
	if errors.Is(err, job.ErrNotFound) {
		return errJobNotFound(n)
	}
	return err
}

// maxFilter bounds the values of an enum in a filter: there are fewer.
const maxFilter = 64

// jobFilter checks a filter and makes a function of it. parent is checked to
// exist.
func (s *Server) jobFilter(f *fields, path string, parent VaultName, in *pb.JobFilter) (func(*pb.Job) bool, error) {
	if n := max(len(in.GetStates()), len(in.GetOperations())); n > maxFilter {
		if len(in.States) > maxFilter {
			path += ".states"
		} else {
			path += ".operations"
		}
		f.add(path, "has %d values; at most %d are allowed", n, maxFilter)
		return nil, f.err()
	}
	for i, st := range in.GetStates() {
		enum(f, fmt.Sprintf("%s.states[%d]", path, i), st, pb.JobState_name)
	}
	for i, op := range in.GetOperations() {
		enum(f, fmt.Sprintf("%s.operations[%d]", path, i), op, pb.JobOperation_name)
	}
	if in.GetProtectedItem() != "" {
		f.item(path+".protected_item", in.ProtectedItem)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	prefix := SubscriptionName{parent.Subscription}.String() + "/"
	if parent.Vault != wildcard {
		if _, err := s.vaults.find(parent); err != nil {
			return nil, err
		}
		prefix = parent.String() + "/"
	}
	return func(j *pb.Job) bool {
		return strings.HasPrefix(j.Name, prefix) &&
			(len(in.GetStates()) == 0 || slices.Contains(in.States, j.State)) &&
			(len(in.GetOperations()) == 0 || slices.Contains(in.Operations, j.Operation)) &&
			(in.GetProtectedItem() == "" || in.ProtectedItem == j.ProtectedItem)
	}, nil
}

// ListJobs lists jobs, newest first.
func (s *jobService) ListJobs(ctx context.Context, r *pb.ListJobsRequest) (*pb.ListJobsResponse, error) {
	var f fields
	parent := f.vaultOrSubscription("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	match, err := s.jobFilter(&f, "filter", parent, r.Filter)
	if err != nil {
		return nil, err
	}
	fp, err := fingerprint("jobs "+r.Parent, &pb.ListJobsRequest{Filter: r.Filter})
	if err != nil {
		return nil, err
	}
	after, err := s.pageStart(string(fp), r.PageToken)
	if err != nil {
		return nil, err
	}
	vault := parent.Vault
	if vault == wildcard {
		vault = ""
	}
	resp := new(pb.ListJobsResponse)
	err = s.jobs.List(parent.Subscription, vault, after, func(j *pb.Job) bool {
		if ctx.Err() != nil {
			return false
		}
		if !match(j) {
			return true
		}
		if len(resp.Jobs) == size {
			resp.NextPageToken = s.pageToken(string(fp), resp.Jobs[size-1].Name)
			return false
		}
		resp.Jobs = append(resp.Jobs, j)
		return true
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// CancelJob asks a job to stop.
func (s *jobService) CancelJob(_ context.Context, r *pb.CancelJobRequest) (*pb.CancelJobResponse, error) {
	var f fields
	n := f.job("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	if _, err := s.vaults.find(n.VaultName); err != nil {
		return nil, err
	}
	j, err := s.jobs.Cancel(r.Name)
	if err != nil {
		return nil, jobNotFound(n, err)
	}
	return &pb.CancelJobResponse{Job: j}, nil
}

// RetryJob starts a new job that does what a failed backup or restore was to do.
func (s *jobService) RetryJob(_ context.Context, r *pb.RetryJobRequest) (*pb.RetryJobResponse, error) {
	var f fields
	n := f.job("name", r.Name)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	old, err := s.job(n)
	if err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	return once(s.Server, n.Subscription, r.RequestId, pb.JobService_RetryJob_FullMethodName, r, v, new(pb.RetryJobResponse),
		func(k keep) (*pb.RetryJobResponse, error) {
			if !slices.Contains(old.Actions, pb.JobAction_JOB_ACTION_RETRY) {
				return nil, newError(pb.ErrorReason_ERROR_REASON_JOB_NOT_RETRIABLE,
					"job %q cannot be retried: only backups and restores that failed or were cancelled can, and this is a %s that is %s",
					n, strings.TrimPrefix(old.Operation.String(), "JOB_OPERATION_"), strings.TrimPrefix(old.State.String(), "JOB_STATE_")).
					with("name", n.String()).with("state", old.State.String())
			}
			resp := new(pb.RetryJobResponse)
			also := func(tx *catalog.Tx, j *pb.Job) error {
				resp.Job = j
				return k.inCatalog(tx, resp)
			}
			if resp.Job, err = s.again(v, old, also); err != nil {
				return nil, err
			}
			return resp, nil
		})
}

// again makes a job that does what a backup or restore was to do.
func (s *Server) again(v *Vault, old *pb.Job, also func(*catalog.Tx, *pb.Job) error) (*pb.Job, error) {
	if old.Operation == pb.JobOperation_JOB_OPERATION_RESTORE {
		r, err := s.jobs.Restore(old.Name)
		if err != nil {
			return nil, err
		}
		return s.startRestore(v, new(fields).point("", r.Name), r, old.Name, also)
	}
	ids, _ := splitName(old.ProtectedItem, itemPattern, false)
	spec, err := s.backupSpec(v, ItemName{v.Name, ids[2]})
	if err != nil {
		return nil, err
	}
	spec.RetryOf, spec.Also = old.Name, also
	if old.ScheduleTime != nil { // the policy keeps its point, as it would have
		spec.Scheduled, spec.ScheduleTime, spec.Attempt = true, old.ScheduleTime.AsTime(), old.Attempt+1
	} else if t := old.RetainUntil; t != nil && t.AsTime().After(s.opts.Now()) {
		spec.RetainUntil = t.AsTime()
	} else {
		spec.RetainUntil = s.opts.Now().Add(defaultRetention)
	}
	return s.jobs.Create(spec)
}

// WatchJobs streams the present jobs and then every change.
func (s *jobService) WatchJobs(r *pb.WatchJobsRequest, stream grpc.ServerStreamingServer[pb.WatchJobsResponse]) error {
	var f fields
	parent := f.vaultOrSubscription("parent", r.Parent)
	if r.AfterRevision < 0 {
		f.add("after_revision", "is %d; it must not be negative", r.AfterRevision)
	}
	match, err := s.jobFilter(&f, "filter", parent, r.Filter)
	if err != nil {
		return err
	}
	return s.jobs.Watch(stream.Context(), match, r.AfterRevision, func(e job.Event) error {
		return stream.Send(&pb.WatchJobsResponse{Revision: e.Revision, Job: e.Job, Synced: e.Synced, Deleted: e.Deleted})
	})
}
