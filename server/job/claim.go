package job

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"slices"
	"strings"
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
	cancels        []string            // jobs to stop, to be sent
	again          []*pb.JobAssignment // that may have got lost, to be sent again
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

// wakeAll makes all sessions look for work. mu is held.
func (m *Manager) wakeAll() {
	for _, s := range m.sessions {
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
		msgs, e := m.next(s)
		again := false
		if e != nil {
			var a *pb.JobAssignment
			if a, again = m.assign(s, e); a != nil {
				msgs = append(msgs, assignmentMessage(a))
			}
		}
		for _, msg := range msgs {
			if err := send(msg); err != nil {
				return err
			}
		}
		if again || len(msgs) > 0 {
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

func assignmentMessage(a *pb.JobAssignment) *pb.ClaimJobsResponse {
	return &pb.ClaimJobsResponse{Event: &pb.ClaimJobsResponse_Assignment{Assignment: a}}
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
		if e.host != s.host || e.lease.Token == nil || e.ending || e.ended {
			continue
		}
		if s.instance != "" && e.lease.Instance != s.instance {
			if e.lease.Reported || !m.requeue(e) {
				gone = append(gone, e)
			}
			continue
		}
		e.session = s
		s.running[e] = true
		switch {
		case e.job.State == pb.JobState_JOB_STATE_CANCELLING:
			s.cancels = append(s.cancels, e.job.Name)
		case !e.lease.Reported && e.assigned != nil:
			s.again = append(s.again, e.assigned)
		}
	}
	return gone
}

// detach ends a session. Its jobs keep their leases.
func (m *Manager) detach(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.release(s)
	if m.sessions[s.host] == s {
		delete(m.sessions, s.host)
	}
}

// release takes the jobs from a session. mu is held.
func (m *Manager) release(s *session) {
	for e := range s.running {
		e.session = nil
	}
	clear(s.running)
}

// requeue takes a job back that was assigned to an agent which is gone and never
// said a word about it. mu is held.
func (m *Manager) requeue(e *entry) bool {
	if e.job.State != pb.JobState_JOB_STATE_IN_PROGRESS {
		return false
	}
	next := proto.CloneOf(e.job)
	next.State, next.StartTime = pb.JobState_JOB_STATE_QUEUED, nil
	lease := e.lease
	e.lease, e.assigned = catalog.Lease{}, nil
	if err := m.commit(e, next, nil); err != nil {
		e.lease = lease
		return false
	}
	m.queues[e.host] = append([]*entry{e}, m.queues[e.host]...)
	m.wakeAll()
	return true
}

// next takes what a session has to send, and a job to assign, if there is one
// and room for it.
func (m *Manager) next(s *session) (msgs []*pb.ClaimJobsResponse, e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range s.again {
		msgs = append(msgs, assignmentMessage(a))
	}
	for _, name := range s.cancels {
		msgs = append(msgs, &pb.ClaimJobsResponse{Event: &pb.ClaimJobsResponse_Cancellation{Cancellation: &pb.JobCancellation{Job: name}}})
	}
	s.again, s.cancels = nil, nil
	if m.stopping || len(s.running) >= s.max || m.sessions[s.host] != s {
		return msgs, nil
	}
	q := slices.DeleteFunc(m.queues[s.host], func(e *entry) bool { return e.ended || e.ending })
	if len(q) == 0 {
		delete(m.queues, s.host)
		return msgs, nil
	}
	i := m.choose(s.host, q)
	if i < 0 {
		m.queues[s.host] = q
		return msgs, nil
	}
	e = q[i]
	e.taken = true
	m.queues[s.host] = slices.Delete(q, i, i+1)
	return msgs, e
}

// choose gives the index in a host's queue of the job that is next; -1 if the
// limits allow none. Somebody waits for a restore, so restores go before backups;
// otherwise the oldest goes first. A vault at its limit holds up nobody but its own
// jobs. mu is held.
func (m *Manager) choose(host string, q []*entry) int {
	onHost, ofVault := 0, map[string]int{}
	if m.o.PerHost > 0 || m.o.PerVault > 0 {
		for _, e := range m.active {
			if e.host == "" || e.ended || !e.taken && e.lease.Token == nil {
				continue
			}
			ofVault[e.vault()]++
			if e.host == host {
				onHost++
			}
		}
	}
	if m.o.PerHost > 0 && onHost >= m.o.PerHost {
		return -1
	}
	free := func(e *entry) bool { return m.o.PerVault <= 0 || ofVault[e.vault()] < m.o.PerVault }
	if i := slices.IndexFunc(q, func(e *entry) bool { return e.restore != nil && free(e) }); i >= 0 {
		return i
	}
	return slices.IndexFunc(q, free)
}

// vault is the resource name of the job's vault.
func (e *entry) vault() string {
	v, _, _ := strings.Cut(e.job.Name, "/jobs/")
	return v
}

// putBack queues a job again that next took. mu is held.
func (m *Manager) putBack(e *entry) {
	e.taken = false
	m.queues[e.host] = append([]*entry{e}, m.queues[e.host]...)
}

// assign gives a job, taken off the queue, to a session. It answers nil if that
// did not work out; again says whether the next job can be looked at at once.
func (m *Manager) assign(s *session, e *entry) (a *pb.JobAssignment, again bool) {
	m.mu.Lock()
	j := e.job
	m.mu.Unlock()
	work, err := m.o.Hooks.Work(j, e.restore)
	if err != nil {
		p := m.o.Hooks.Problem(err)
		how := end{state: pb.JobState_JOB_STATE_FAILED, error: p}
		switch p.GetReason() {
		case pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED: // while it was queued
			how.state = pb.JobState_JOB_STATE_CANCELLED
			m.mu.Lock()
			e.why = p
			m.mu.Unlock()
		}
		m.finish(e, how)
		return nil, true
	}
	var raw [20]byte
	if _, err := io.ReadFull(m.o.Rand, raw[:]); err != nil {
		m.finish(e, end{state: pb.JobState_JOB_STATE_FAILED, error: m.o.Hooks.Problem(err)})
		return nil, true
	}
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.ending || e.ended { // cancelled meanwhile
		return nil, true
	}
	if m.sessions[s.host] != s {
		m.putBack(e)
		m.wakeAll()
		return nil, true
	}
	now := m.o.Now()
	next := proto.CloneOf(e.job)
	next.State, next.StartTime = pb.JobState_JOB_STATE_IN_PROGRESS, timestamppb.New(now)
	e.lease = catalog.Lease{Token: hashToken(token), Expire: now.Add(m.o.Lease), Instance: s.instance}
	if err := m.commit(e, next, nil); err != nil {
		e.lease = catalog.Lease{}
		m.putBack(e)
		m.log.Error("job not assigned", "job", next.Name, "error", err)
		time.AfterFunc(m.o.Flush, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.wakeAll()
		})
		return nil, false
	}
	e.taken, e.session = false, s // its lease counts now
	s.running[e] = true
	m.wake()
	e.assigned = &pb.JobAssignment{
		Job: next, LeaseToken: token, LeaseExpireTime: timestamppb.New(e.lease.Expire), Work: work.Work,
	}
	return e.assigned, true
}

func hashToken(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}
