package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
	"cairn/server/upload"
)

// jobHooks is what package job asks of vaults and uploads.
func (s *Server) jobHooks() job.Hooks {
	return job.Hooks{
		Work:    s.jobWork,
		Made:    s.pointMade,
		Ending:  s.jobEnding,
		Settle:  s.settleBackup,
		Problem: problemOf,
		Moved:   s.notifier.Job,
		Seen:    s.jobSeen,
		Halt: func(j *pb.Job) {
			s.data.uploads.End(j.Name, upload.ErrCancelled)
		},
	}
}

// itemOfJob gives the vault and the item of a job, with the vault's store kept
// open until release.
func (s *Server) itemOfJob(j *pb.Job) (v *Vault, n ItemName, release func(), err error) {
	ids, ok := splitName(j.ProtectedItem, itemPattern, false)
	if !ok {
		return nil, n, nil, fmt.Errorf("job %s is about no protected item", j.Name)
	}
	n = ItemName{VaultName{ids[0], ids[1]}, ids[2]}
	v, release, err = s.vaults.use(n.VaultName)
	return v, n, release, err
}

// jobWork describes a job to the agent that is about to run it.
func (s *Server) jobWork(j *pb.Job, restore *pb.RestoreRequest) (*pb.JobAssignment, error) {
	if restore != nil {
		w, err := s.restoreWork(j, restore)
		return &pb.JobAssignment{Work: &pb.JobAssignment_Restore{Restore: w}}, err
	}
	w, err := s.backupWork(j)
	return &pb.JobAssignment{Work: &pb.JobAssignment_Backup{Backup: w}}, err
}

// backupWork describes a backup.
func (s *Server) backupWork(j *pb.Job) (*pb.BackupWork, error) {
	v, n, release, err := s.itemOfJob(j)
	if err != nil {
		return nil, err
	}
	defer release()
	it, err := v.item(n)
	if err != nil {
		return nil, err
	}
	if j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP {
		if err := mayBackUp(it); err != nil {
			return nil, err
		}
	}
	if e := s.vaultProblem(v); e != nil {
		return nil, e
	}
	w := &pb.BackupWork{
		ProtectedItem: j.ProtectedItem, Machine: it.Machine, ExcludedDisks: it.ExcludedDisks,
		BlockSize: int32(v.Store.Info().BlockSize), BaseRecoveryPoint: it.LatestRecoveryPoint,
	}
	w.MinimumConsistency, _ = leastConsistency(v.pointPolicy(it), it)
	return w, nil
}

// leastConsistency is what a backup must reach, and what wants it. policy may be
// nil.
func leastConsistency(policy *pb.Policy, it *pb.ProtectedItem) (least pb.ConsistencyClass, who string) {
	if own := it.MinimumConsistency; own > policy.GetMinimumConsistency() {
		return own, fmt.Sprintf("protected item %q", it.Name)
	}
	return policy.GetMinimumConsistency(), fmt.Sprintf("policy %q", it.Policy)
}

// pointMade finds the recovery point that a backup has made.
func (s *Server) pointMade(j *pb.Job) (string, bool) {
	v, n, release, err := s.itemOfJob(j)
	if err != nil {
		return "", false
	}
	defer release()
	p, ok := s.pointOfJob(v, n, j.Name)
	if !ok {
		return "", false
	}
	return p.Name, true
}

// jobEnding notes in a protected item how its backup ended. It may run again for
// the same job.
func (s *Server) jobEnding(j *pb.Job) {
	fillRemedies(j.Error, j.Warnings)
	if j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP {
		return
	}
	switch j.State {
	case pb.JobState_JOB_STATE_CANCELLED, pb.JobState_JOB_STATE_SKIPPED:
		return
	}
	if rec, err := s.cat.Schedule(j.ProtectedItem); err == nil && rec.Retry != nil && j.Error == nil {
		s.notRetried(rec.Retry.Job) // settleBackup drops it
	}
	v, n, release, err := s.itemOfJob(j)
	if err == nil {
		defer release()
		// The job ends, whether the server stops or not: so no context of a call.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err = v.changeItem(ctx, n, func(it *pb.ProtectedItem) error {
			if j.CreateTime.AsTime().Before(it.CreateTime.AsTime()) || isStopped(it) && j.Error != nil {
				return nil // it was of an item that is gone, or was stopped with protection
			}
			backupEnded(it, j)
			it.UpdateTime = timestamppb.New(s.opts.Now())
			return nil
		}, nil)
	}
	if err != nil {
		s.log.Error("end of a backup not noted in its item", "job", j.Name, "item", j.ProtectedItem, "error", err)
	}
}

const initialBackupPending = "Warning (Initial backup pending)"

// backupEnded changes an item as the end of a backup makes it.
func backupEnded(it *pb.ProtectedItem, j *pb.Job) {
	it.LastBackupJob = j.Name
	if p := j.Error; p != nil {
		it.LastBackupStatus = pb.BackupStatus_BACKUP_STATUS_UNHEALTHY
		it.LastBackupStatusText = "Unhealthy: " + p.Message
		it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_REQUIRED
		it.HealthDetail = fmt.Sprintf("The last backup failed (%s): %s. %s", reasonName(p.Reason), strings.TrimSuffix(p.Message, "."), p.Remedy)
		if j.Scheduled && noMachine(p.Reason) && isProtected(it) {
			it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_PROTECTION_ERROR
		}
		return
	}
	if it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_IR_PENDING || it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_PROTECTION_ERROR {
		it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_PROTECTED
	}
	it.LastBackupStatus = pb.BackupStatus_BACKUP_STATUS_HEALTHY
	it.LastBackupStatusText = "Healthy"
	if it.BillingStartTime == nil {
		it.BillingStartTime = orDefault(it.LastBackupTime, j.EndTime)
	}
	it.LastBackupTime = j.EndTime
	it.Health, it.HealthDetail = pb.HealthStatus_HEALTH_STATUS_PASSED, ""
	if len(j.Warnings) > 0 {
		w := j.Warnings[0]
		it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED
		it.HealthDetail = strings.TrimSpace(fmt.Sprintf("The last backup succeeded with warnings (%s): %s. %s",
			reasonName(w.Reason), strings.TrimSuffix(w.Message, "."), w.Remedy))
	}
}

// reasonName is a reason without its prefix.
func reasonName(r pb.ErrorReason) string { return strings.TrimPrefix(r.String(), "ERROR_REASON_") }
