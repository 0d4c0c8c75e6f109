package job

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// Prepare makes, without storing it, the record of something that the caller is
// about to do in a database of its own: a job that is COMPLETED. The caller
// writes it there in one step with the effect, and hands it to Keep; if it stops
// in between it does so when it is back. Of the spec only names and operation
// are heeded.
func (m *Manager) Prepare(spec Spec) (*pb.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	id, err := m.newID(now)
	if err != nil {
		return nil, err
	}
	uid, err := uuid.NewRandomFromReader(m.o.Rand)
	if err != nil {
		return nil, fmt.Errorf("make a uid: %w", err)
	}
	at := timestamppb.New(now)
	return &pb.Job{
		Name: spec.Vault + "/jobs/" + id, Uid: uid.String(),
		Operation: spec.Operation, State: pb.JobState_JOB_STATE_COMPLETED, Stats: &pb.JobStats{},
		ProtectedItem: spec.ProtectedItem, Machine: spec.Machine, RecoveryPoint: spec.RecoveryPoint,
		CreateTime: at, StartTime: at, EndTime: at,
	}, nil
}

// Keep stores a job that Prepare made and gives it as it is then. It may be called
// again for the same job.
func (m *Manager) Keep(j *pb.Job) (*pb.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch old, err := m.cat.Job(j.Name); {
	case err == nil:
		return old, nil
	case !errors.Is(err, catalog.ErrNotFound):
		return nil, err
	}
	next := proto.CloneOf(j)
	if err := m.commit(&entry{ended: true}, next, nil); err != nil {
		return nil, err
	}
	return next, nil
}
