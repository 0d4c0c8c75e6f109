package job

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// session is the Claim of a host's agent. mu guards all but the channels.
type session struct {
	host, instance string
	max            int
	wake           chan struct{}
	replaced       chan struct{}
	running        map[*entry]bool
	cancels        []string // jobs to stop, to be sent
}

// nudge makes the session look for something to send.
func (s *session) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wakeHost makes a host's session look for work. mu is held.
func (m *Manager) wakeHost(host string) {
	if s := m.sessions[host]; s != nil {
		s.nudge()
	}
}

// Connected says whether a host's agent holds a Claim.
func (m *Manager) Connected(host string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[host] != nil
}

// Claim hands jobs of a host to its agent, at most max at a time, until ctx ends
// or send fails. instance, if not empty, is what the agent's process calls
// itself: jobs that another process of the host held are INTERRUPTED. Errors:
// ErrReplaced, ErrStopping, ctx's and send's.
func (m *Manager) Claim(ctx context.Context, host, instance string, max int, send func(*pb.ClaimJobsResponse) error) error {
	s := &session{
		host: host, instance: instance, max: max,
		wake: make(chan struct{}, 1), replaced: make(chan struct{}), running: map[*entry]bool{},
	}
	if err := m.enter(); err != nil {
		return err
	}
	defer m.runs.Done()
	gone := m.attach(s)
	defer m.detach(s)
	for _, e := range gone {
		m.finish(e, interrupted("the agent that ran the job was started anew"))
	}
	keepAlive := time.NewTicker(m.o.KeepAlive)
	defer keepAlive.Stop()
	// At once, so that the agent knows that it is connected.
	if err := send(keepAliveMessage()); err != nil {
		return err
	}
	for {
		select { // before all work
		case <-s.replaced:
			return ErrReplaced
		case <-m.stop:
			return ErrStopping
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		cancels, e := m.next(s)
		for _, name := range cancels {
			msg := &pb.ClaimJobsResponse{Event: &pb.ClaimJobsResponse_Cancellation{Cancellation: &pb.JobCancellation{Job: name}}}
			if err := send(msg); err != nil {
				return err
			}
		}
		if e != nil {
			a := m.assign(s, e)
			if a == nil {
				continue
			}
			if err := send(&pb.ClaimJobsResponse{Event: &pb.ClaimJobsResponse_Assignment{Assignment: a}}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-s.wake:
		case <-keepAlive.C:
			if err := send(keepAliveMessage()); err != nil {
				return err
			}
		case <-s.replaced:
		case <-m.stop:
		case <-ctx.Done():
		}
	}
}

func keepAliveMessage() *pb.ClaimJobsResponse {
	return &pb.ClaimJobsResponse{Event: &pb.ClaimJobsResponse_KeepAlive{KeepAlive: &pb.KeepAlive{}}}
}

// attach makes s the session of its host, which goes on with the jobs that the
// same process holds. It gives those that another process held.
func (m *Manager) attach(s *session) (gone []*entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.sessions[s.host]; old != nil {
		close(old.replaced)
		m.release(old)
	}
	m.sessions[s.host] = s
	for _, e := range m.active {
		if e.host != s.host || e.lease.Token == nil || e.ended {
			continue
		}
		if s.instance != "" && e.lease.Instance != s.instance {
			gone = append(gone, e)
			continue
		}
		e.session = s
		s.running[e] = true
		if e.job.State == pb.JobState_JOB_STATE_CANCELLING {
			s.cancels = append(s.cancels, e.job.Name)
		}
	}
	return gone
}

// detach ends a session.
func (m *Manager) detach(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.release(s)
	if m.sessions[s.host] == s {
		delete(m.sessions, s.host)
	}
}

// release takes the jobs from a session. What its agent never said a word about
// may never have reached it: that is queued again. mu is held.
func (m *Manager) release(s *session) {
	for e := range s.running {
		e.session = nil
		delete(s.running, e)
		if e.lease.Reported || e.ended || e.ending || e.job.State != pb.JobState_JOB_STATE_IN_PROGRESS {
			continue
		}
		next := proto.CloneOf(e.job)
		next.State, next.StartTime = pb.JobState_JOB_STATE_QUEUED, nil
		lease := e.lease
		e.lease = catalog.Lease{}
		if err := m.commit(e, next, nil); err != nil {
			e.lease = lease // it runs out
			m.log.Error("job not queued again", "job", next.Name, "error", err)
			continue
		}
		m.queues[e.host] = append([]*entry{e}, m.queues[e.host]...)
	}
}

// next takes what a session has to send: jobs to cancel, and a job to assign.
func (m *Manager) next(s *session) (cancels []string, e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cancels, s.cancels = s.cancels, nil
	if m.stopping || len(s.running) >= s.max || m.sessions[s.host] != s {
		return cancels, nil
	}
	q := m.queues[s.host]
	for len(q) > 0 && e == nil {
		if !q[0].ended && !q[0].ending {
			e = q[0]
		}
		q = q[1:]
	}
	if m.queues[s.host] = q; len(q) == 0 {
		delete(m.queues, s.host)
	}
	return cancels, e
}

// assign gives a job, taken off the queue, to a session. It answers nil if the
// job has ended instead.
func (m *Manager) assign(s *session, e *entry) *pb.JobAssignment {
	m.mu.Lock()
	j := e.job
	m.mu.Unlock()
	work, err := m.o.Hooks.Work(j)
	if err != nil {
		m.finish(e, end{state: pb.JobState_JOB_STATE_FAILED, error: m.o.Hooks.Problem(err)})
		return nil
	}
	var raw [20]byte
	if _, err := io.ReadFull(m.o.Rand, raw[:]); err != nil {
		m.finish(e, end{state: pb.JobState_JOB_STATE_FAILED, error: m.o.Hooks.Problem(err)})
		return nil
	}
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.ending || e.ended { // cancelled meanwhile
		return nil
	}
	if m.sessions[s.host] != s {
		m.queues[e.host] = append([]*entry{e}, m.queues[e.host]...)
		m.wakeHost(e.host)
		return nil
	}
	now := m.o.Now()
	next := proto.CloneOf(e.job)
	next.State, next.StartTime = pb.JobState_JOB_STATE_IN_PROGRESS, timestamppb.New(now)
	e.lease = catalog.Lease{Token: hashToken(token), Expire: now.Add(m.o.Lease), Instance: s.instance}
	if err := m.commit(e, next, nil); err != nil {
		e.lease = catalog.Lease{}
		m.queues[e.host] = append([]*entry{e}, m.queues[e.host]...)
		m.log.Error("job not assigned", "job", next.Name, "error", err)
		time.AfterFunc(m.o.Flush, s.nudge)
		return nil
	}
	e.session = s
	s.running[e] = true
	m.wake()
	return &pb.JobAssignment{
		Job: next, LeaseToken: token, LeaseExpireTime: timestamppb.New(e.lease.Expire),
		Work: &pb.JobAssignment_Backup{Backup: work},
	}
}

func hashToken(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}
