package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

type hostService struct {
	pb.UnimplementedHostServiceServer
	*Server
}

// RegisterHost makes a host known, or known again.
func (s *hostService) RegisterHost(ctx context.Context, r *pb.RegisterHostRequest) (*pb.RegisterHostResponse, error) {
	var f fields
	parent := f.subscription("parent", r.Parent)
	f.id("host_id", r.HostId)
	in := r.GetHost()
	f.text("host.region", in.GetRegion(), 63)
	f.text("host.agent_version", in.GetAgentVersion(), 100)
	if n := len(in.GetSources()); n > 16 {
		f.add("host.sources", "has %d sources; at most 16 are allowed", n)
	} else {
		for i, src := range in.GetSources() {
			f.text(fmt.Sprintf("host.sources[%d]", i), src, 32)
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	region, err := s.region("host.region", in.GetRegion())
	if err != nil {
		return nil, err
	}
	n := HostName{parent.Subscription, r.HostId}
	var h *pb.Host
	err = s.cat.Update(ctx, func(tx *catalog.Tx) error {
		now := timestamppb.New(s.opts.Now())
		h, err = tx.Host(n.String())
		switch {
		case errors.Is(err, catalog.ErrNotFound):
			uid, err := uuid.NewRandomFromReader(s.opts.Rand)
			if err != nil {
				return fmt.Errorf("make a uid: %w", err)
			}
			h = &pb.Host{Name: n.String(), Uid: uid.String(), CreateTime: now}
		case err != nil:
			return err
		case h.Region != region && len(s.protectedOn(n)) > 0:
			return newError(pb.ErrorReason_ERROR_REASON_REGION_MISMATCH,
				"host %q is in region %q and has protected machines; it cannot move to %q", n, h.Region, region).
				with("host_region", h.Region).with("region", region)
		}
		h.Region, h.Sources, h.AgentVersion, h.LastSeenTime = region, in.GetSources(), in.GetAgentVersion(), now
		return tx.PutHost(h)
	})
	if err != nil {
		return nil, err
	}
	m, err := s.hostMessage(h)
	return &pb.RegisterHostResponse{Host: m}, err
}

// protectedOn gives the protected machines of a host, by name.
func (s *Server) protectedOn(n HostName) (machines []string) {
	prefix := n.String() + "/"
	s.vaults.mu.Lock()
	defer s.vaults.mu.Unlock()
	for m := range s.vaults.machines {
		if strings.HasPrefix(m, prefix) {
			machines = append(machines, m)
		}
	}
	return machines
}

// hostMessage gives a host as clients see it.
func (s *Server) hostMessage(stored *pb.Host) (*pb.Host, error) {
	h := proto.CloneOf(stored)
	h.State = pb.HostState_HOST_STATE_DISCONNECTED
	if s.jobs.Connected(h.Name) {
		h.State = pb.HostState_HOST_STATE_CONNECTED
		h.LastSeenTime = timestamppb.New(s.opts.Now())
	}
	err := s.cat.Machines(h.Name, "", func(*pb.Machine) bool { h.MachineCount++; return true })
	return h, err
}

// host reads a host. Error: HOST_NOT_FOUND.
func (s *Server) host(r catalog.Reader, n HostName) (*pb.Host, error) {
	h, err := r.Host(n.String())
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, errHostNotFound(n)
	}
	return h, err
}

// GetHost reads one host.
func (s *hostService) GetHost(_ context.Context, r *pb.GetHostRequest) (*pb.GetHostResponse, error) {
	var f fields
	n := f.host("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	h, err := s.host(s.cat.Reader, n)
	if err != nil {
		return nil, err
	}
	m, err := s.hostMessage(h)
	return &pb.GetHostResponse{Host: m}, err
}

// ListHosts lists the hosts of a subscription by id.
func (s *hostService) ListHosts(_ context.Context, r *pb.ListHostsRequest) (*pb.ListHostsResponse, error) {
	var f fields
	parent := f.subscription("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	list := "hosts " + r.Parent
	after, err := s.pageStart(list, r.PageToken)
	if err != nil {
		return nil, err
	}
	resp := new(pb.ListHostsResponse)
	if err := s.cat.Hosts(parent.Subscription, after, func(h *pb.Host) bool {
		if len(resp.Hosts) == size {
			resp.NextPageToken = s.pageToken(list, resp.Hosts[size-1].Name)
			return false
		}
		resp.Hosts = append(resp.Hosts, h)
		return true
	}); err != nil {
		return nil, err
	}
	for i, h := range resp.Hosts {
		if resp.Hosts[i], err = s.hostMessage(h); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// DeleteHost forgets a host that protects nothing.
func (s *hostService) DeleteHost(ctx context.Context, r *pb.DeleteHostRequest) (*pb.DeleteHostResponse, error) {
	var f fields
	n := f.host("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	s.vaults.protect.Lock() // so that none of its machines is protected meanwhile
	defer s.vaults.protect.Unlock()
	if job, ok := s.jobs.Waiting(n.String()); ok { // a restore: backups have protected machines
		return nil, newError(pb.ErrorReason_ERROR_REASON_HOST_IN_USE,
			"host %q has a job to do: %s; wait for its end, or cancel it", n, job).with("name", n.String()).with("job", job)
	}
	err := s.cat.Update(ctx, func(tx *catalog.Tx) error {
		if _, err := s.host(tx.Reader, n); err != nil {
			return err
		}
		if machines := s.protectedOn(n); len(machines) > 0 {
			return newError(pb.ErrorReason_ERROR_REASON_HOST_IN_USE,
				"host %q still has %s (%s); stop their protection first", n, plural(uint64(len(machines)), "protected machine"), few(machines)).
				with("name", n.String()).with("machines", strings.Join(machines[:min(10, len(machines))], ","))
		}
		return tx.DeleteHost(n.String())
	})
	if err != nil {
		return nil, err
	}
	return &pb.DeleteHostResponse{}, nil
}

// ClaimJobs streams work to a host's agent.
func (s *hostService) ClaimJobs(r *pb.ClaimJobsRequest, stream grpc.ServerStreamingServer[pb.ClaimJobsResponse]) error {
	var f fields
	n := f.host("host", r.Host)
	f.between("max_concurrent", int64(r.MaxConcurrent), 0, 64)
	f.text("instance_id", r.InstanceId, 64)
	if err := f.err(); err != nil {
		return err
	}
	if _, err := s.host(s.cat.Reader, n); err != nil {
		return err
	}
	err := s.jobs.Claim(stream.Context(), r.Host, r.InstanceId, max(1, int(r.MaxConcurrent)), stream.Send)
	seen := s.cat.Update(s.ctx, func(tx *catalog.Tx) error {
		h, err := tx.Host(r.Host)
		if err != nil {
			return err
		}
		h.LastSeenTime = timestamppb.New(s.opts.Now())
		return tx.PutHost(h)
	})
	if seen != nil && !errors.Is(seen, catalog.ErrNotFound) && s.ctx.Err() == nil {
		s.log.Warn("time when a host was last seen not stored", "host", r.Host, "error", seen)
	}
	return err
}

// ReportJob tells how a claimed job goes, and renews its lease.
func (s *hostService) ReportJob(_ context.Context, r *pb.ReportJobRequest) (*pb.ReportJobResponse, error) {
	var f fields
	n := f.job("job", r.Job)
	if r.LeaseToken == "" {
		f.add("lease_token", "must be given; it comes with the job's assignment")
	}
	f.text("lease_token", r.LeaseToken, maxToken)
	switch r.State {
	case pb.JobState_JOB_STATE_UNSPECIFIED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLED,
		pb.JobState_JOB_STATE_COMPLETED, pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS, pb.JobState_JOB_STATE_SKIPPED:
	case pb.JobState_JOB_STATE_FAILED:
		if r.Error.GetReason() == pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
			f.add("error.reason", "must be given with a job that failed")
		}
	default:
		f.add("state", "%v is no state that an agent reports", r.State)
	}
	f.reportFields(r)
	if r.State == pb.JobState_JOB_STATE_COMPLETED || r.State == pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS {
		for i, t := range r.Tasks[:min(maxReportTasks, len(r.Tasks))] {
			if t.GetState() == pb.JobState_JOB_STATE_FAILED || t.GetState() == pb.JobState_JOB_STATE_CANCELLED {
				f.add(fmt.Sprintf("tasks[%d].state", i), "is %v, which does not go with the state %v of the job", t.State, r.State)
			}
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	fillRemedies(r.Error, r.Warnings)
	cancel, expire, err := s.jobs.Report(r)
	if err != nil {
		return nil, jobNotFound(n, err)
	}
	return &pb.ReportJobResponse{CancelRequested: cancel, LeaseExpireTime: timestamppb.New(expire)}, nil
}

// maxReportTasks bounds the tasks of one job.
const maxReportTasks = 16

// reportFields checks what a report says of a job.
func (f *fields) reportFields(r *pb.ReportJobRequest) {
	if n := len(r.Tasks); n > maxReportTasks {
		f.add("tasks", "has %d tasks; at most %d are allowed", n, maxReportTasks)
		return
	}
	for i, t := range r.Tasks {
		path := fmt.Sprintf("tasks[%d]", i)
		f.text(path+".title", t.GetTitle(), 100)
		f.text(path+".detail", t.GetDetail(), 1000)
		enum(f, path+".state", t.GetState(), pb.JobState_name)
		f.time(path+".start_time", t.GetStartTime())
		f.time(path+".end_time", t.GetEndTime())
		f.notNegative(path+".total_bytes", t.GetTotalBytes())
		f.notNegative(path+".done_bytes", t.GetDoneBytes())
	}
	if st := r.Stats; st != nil {
		f.notNegative("stats.disk_bytes", st.DiskBytes)
		f.notNegative("stats.allocated_bytes", st.AllocatedBytes)
		f.notNegative("stats.read_bytes", st.ReadBytes)
		f.notNegative("stats.new_bytes", st.NewBytes)
		f.notNegative("stats.sent_bytes", st.SentBytes)
		f.notNegative("stats.changed_blocks", st.ChangedBlocks)
		f.notNegative("stats.new_blocks", st.NewBlocks)
		f.notNegative("stats.bad_blocks", st.BadBlocks)
		f.notNegative("stats.tracked_bytes", st.TrackedBytes)
		f.notNegative("stats.sampled_bytes", st.SampledBytes)
		f.notNegative("stats.garbage_blocks", st.GarbageBlocks)
		f.notNegative("stats.garbage_bytes", st.GarbageBytes)
		f.notNegative("stats.reclaimed_bytes", st.ReclaimedBytes)
		if d := st.Frozen; d != nil && (d.CheckValid() != nil || d.AsDuration() < 0) {
			f.add("stats.frozen", "is no valid duration")
		}
	}
	if p := r.Error; p != nil {
		f.problem("error", p)
	}
	f.text("outcome", r.Outcome, 4000)
	if n := len(r.Warnings); n > 100 {
		f.add("warnings", "has %d warnings; at most 100 are allowed", n)
		return
	}
	for i, w := range r.Warnings {
		f.warning(fmt.Sprintf("warnings[%d]", i), w)
	}
}

// warning is problem for a warning.
func (f *fields) warning(path string, w *pb.Warning) {
	f.problem(path, &pb.Problem{Reason: w.GetReason(), Message: w.GetMessage(), Remedy: w.GetRemedy(), Metadata: w.GetMetadata()})
}

func (f *fields) notNegative(path string, n int64) {
	if n < 0 {
		f.add(path, "is %d; it must not be negative", n)
	}
}

// problem checks a problem that an agent tells.
func (f *fields) problem(path string, p *pb.Problem) {
	enum(f, path+".reason", p.Reason, pb.ErrorReason_name)
	f.text(path+".message", p.Message, 4000)
	f.text(path+".remedy", p.Remedy, 4000)
	if n := len(p.Metadata); n > 32 {
		f.add(path+".metadata", "has %d entries; at most 32 are allowed", n)
		return
	}
	for _, k := range sortedKeys(p.Metadata) {
		f.text(path+".metadata", k, 64)
		f.text(fmt.Sprintf("%s.metadata[%s]", path, quote(k)), p.Metadata[k], 4000)
	}
}
