package server

import (
	"context"
	"fmt"
	"time"

	pb "cairn/proto/cairn/v1"
)

// killedHosts are the hosts of these lives, each with two machines.
var killedHosts = map[string][]string{"rack1": {"web1", "db1"}, "rack2": {"web2", "db2"}}

// agent is the agent of a host. It connects again when the server dies, and
// sometimes dies itself.
func (l *killedLife) agent(host string, machines []string) {
	name := sub + "/hosts/" + host
	for life := 0; l.ctx.Err() == nil; life++ {
		ctx, die := context.WithCancel(l.ctx)
		instance := fmt.Sprintf("%s-%d", host, life)
		if l.register(host, machines) {
			for ctx.Err() == nil {
				l.claim(ctx, die, name, instance)
			}
		}
		die()
	}
}

func (l *killedLife) register(host string, machines []string) bool {
	if _, err := callKilled(l, l.w.hosts.RegisterHost, &pb.RegisterHostRequest{Parent: sub, HostId: host}); err != nil {
		l.fail("register host: %v", err)
		return false
	}
	r := &pb.ReportMachinesRequest{Parent: sub + "/hosts/" + host}
	for _, m := range machines {
		r.Machines = append(r.Machines, machineOf(r.Parent, m))
	}
	if _, err := callKilled(l, l.w.hosts.ReportMachines, r); err != nil {
		l.fail("report machines: %v", err)
		return false
	}
	return true
}

// claim takes jobs until the stream breaks.
func (l *killedLife) claim(ctx context.Context, die func(), host, instance string) {
	stream, err := l.w.hosts.ClaimJobs(ctx, &pb.ClaimJobsRequest{Host: host, MaxConcurrent: 2, InstanceId: instance})
	for err == nil {
		var e *pb.ClaimJobsResponse
		if e, err = stream.Recv(); err != nil {
			break
		}
		if as := e.GetAssignment(); as != nil {
			l.work.Go(func() { l.backUp(ctx, die, as) })
		}
	}
	if ctx.Err() == nil && !lost(err) {
		l.fail("claim of %s: %v", host, err)
	}
}

// backUp does an assignment, or not.
func (l *killedLife) backUp(ctx context.Context, die func(), as *pb.JobAssignment) {
	chance := l.random(100)
	if l.gentle.Load() {
		chance = 0
	}
	switch {
	case chance >= 97: // the agent dies
		die()
		return
	case chance >= 93: // it forgets the job, whose lease runs out
		return
	case chance >= 86:
		l.report(ctx, as, pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
			r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED, Message: "no"}
			if chance%2 == 0 {
				r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, Message: "never"}
			}
		})
		return
	}
	// Snapshots of a machine have times of their own, within the last 30 seconds.
	at := l.clock.Now().Add(-30*time.Second + time.Duration(l.snaps.Add(1)%30000)*time.Millisecond)
	for ctx.Err() == nil {
		p, err := l.w.backUpGuest(as, at)
		switch r := reasonIn(err); {
		case err == nil:
			l.notes.mu.Lock()
			l.notes.points[p.Name] = p
			l.notes.mu.Unlock()
			l.report(ctx, as, completed)
			return
		case r == pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND, // a server that was started meanwhile does not know it
			lost(err) && r == 0,
			r == pb.ErrorReason_ERROR_REASON_INTERRUPTED:
		case r == pb.ErrorReason_ERROR_REASON_CANCELLED:
			l.report(ctx, as, pb.JobState_JOB_STATE_CANCELLED)
			return
		case r == pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST:
			return
		case ctx.Err() == nil:
			// The base may be gone, or the item: the job fails, which is no fault.
			if r == pb.ErrorReason_ERROR_REASON_INTERNAL || r == 0 {
				l.fail("backup %s: %v", as.Job.Name, err)
			}
			l.report(ctx, as, pb.JobState_JOB_STATE_FAILED, func(q *pb.ReportJobRequest) {
				q.Error = &pb.Problem{Reason: r, Message: err.Error()}
			})
			return
		}
	}
}

// report tells the end of a job until that is answered.
func (l *killedLife) report(ctx context.Context, as *pb.JobAssignment, state pb.JobState, more ...func(*pb.ReportJobRequest)) {
	for ctx.Err() == nil {
		_, err := l.w.reportJob(as, state, more...)
		if lost(err) {
			continue
		}
		if r := reasonIn(err); err != nil && r != pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST && ctx.Err() == nil {
			l.fail("end of %s: %v", as.Job.Name, err)
		}
		return
	}
}
