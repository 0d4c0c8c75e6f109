package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// runSchedules is the chore that starts backups when schedules want them.
func (s *Server) runSchedules(context.Context, time.Time) (time.Time, error) {
	return time.Time{}, nil
}

// nextBackup is when the schedule starts an item's next backup; nil if it does
// not.
func (s *Server) nextBackup(*pb.ProtectedItem) *timestamppb.Timestamp { return nil }

// endItemJobs ends what backs up an item whose protection has stopped: its BACKUP
// that has not ended is cancelled, for the reason why, and nothing is left of its
// schedule, neither a retry nor the last run. The item's record must say already
// that it is stopped, so that no backup begins any more; Vault.write must not be
// held.
func (s *Server) endItemJobs(item string, why *pb.Problem) error {
	err := s.cat.Update(context.Background(), func(tx *catalog.Tx) error { return tx.DeleteSchedule(item) })
	j := s.jobs.Busy(item)
	if j == nil || j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP {
		return err
	}
	var state *job.StateError
	if _, cancel := s.jobs.CancelFor(j.Name, why); cancel != nil && !errors.As(cancel, &state) { // it ended meanwhile
		err = errors.Join(err, cancel)
	}
	return err
}
