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
		Work:    s.backupWork,
		Made:    s.pointMade,
		Ending:  s.jobEnding,
		Problem: problemOf,
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

// backupWork describes a backup to the agent that is about to run it.
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
	if e := s.vaultProblem(v); e != nil {
		return nil, e
	}
	w := &pb.BackupWork{
		ProtectedItem: j.ProtectedItem, Machine: it.Machine, ExcludedDisks: it.ExcludedDisks,
		BlockSize: int32(v.Store.Info().BlockSize), BaseRecoveryPoint: it.LatestRecoveryPoint,
	}
	ids, _ := splitName(it.Policy, policyPattern, false)
	if p, err := v.policy(PolicyName{n.VaultName, ids[2]}); err == nil {
		w.MinimumConsistency = p.MinimumConsistency
	}
	return w, nil
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
	if j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP {
		return
	}
	switch j.State {
	case pb.JobState_JOB_STATE_CANCELLED, pb.JobState_JOB_STATE_SKIPPED:
		return
	}
	if p := j.Error; p != nil && p.Remedy == "" {
		p.Remedy = remedy(p.Reason)
	}
	v, n, release, err := s.itemOfJob(j)
	if err == nil {
		defer release()
		// The job ends, whether the server stops or not: so no context of a call.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err = v.changeItem(ctx, n, func(it *pb.ProtectedItem) error {
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
		return
	}
	if it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_IR_PENDING || it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_PROTECTION_ERROR {
		it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_PROTECTED
	}
	it.LastBackupStatus = pb.BackupStatus_BACKUP_STATUS_HEALTHY
	it.LastBackupStatusText = "Healthy"
	it.LastBackupTime = j.EndTime
	it.Health, it.HealthDetail = pb.HealthStatus_HEALTH_STATUS_PASSED, ""
	if len(j.Warnings) > 0 {
		w := j.Warnings[0]
		it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED
		it.HealthDetail = strings.TrimSpace(fmt.Sprintf("The last backup succeeded with warnings (%s): %s. %s",
			reasonName(w.Reason), strings.TrimSuffix(w.Message, "."), remedy(w.Reason)))
	}
	if n := j.Stats.GetAllocatedBytes(); n > 0 {
		it.ProtectedBytes = n
	}
}

// reasonName is a reason without its prefix.
func reasonName(r pb.ErrorReason) string { return strings.TrimPrefix(r.String(), "ERROR_REASON_") }

// remedy says what to do about a backup that failed for a reason.
func remedy(r pb.ErrorReason) string {
	switch r {
	case pb.ErrorReason_ERROR_REASON_AGENT_UNREACHABLE:
		return "See that the agent runs on the host and reaches the server, then retry the job."
	case pb.ErrorReason_ERROR_REASON_INTERRUPTED:
		return "Start it again; blocks that were sent already are not sent twice."
	case pb.ErrorReason_ERROR_REASON_STORE_FULL:
		return "Make room on the disk that holds the vault, then retry the job."
	case pb.ErrorReason_ERROR_REASON_STORE_READ_ONLY, pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, pb.ErrorReason_ERROR_REASON_STORE_LOCKED:
		return "See that the server can write to the vault's directory, then retry the job."
	case pb.ErrorReason_ERROR_REASON_STORE_TOO_NEW:
		return "Upgrade the server to the version that wrote the vault."
	case pb.ErrorReason_ERROR_REASON_DATA_CORRUPT:
		return "Verify the item's recovery points, and check the disk that holds the vault."
	case pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE:
		return "Check the disk image with qemu-img check; restore it from a recovery point if it is damaged."
	case pb.ErrorReason_ERROR_REASON_IMAGE_CHANGED:
		return "Back up while nothing writes to the image, or through libvirt."
	case pb.ErrorReason_ERROR_REASON_MACHINE_GONE:
		return "Bring the machine back, or stop its protection."
	case pb.ErrorReason_ERROR_REASON_MACHINE_STATE:
		return "Start the machine, or shut it down cleanly, then retry the job."
	case pb.ErrorReason_ERROR_REASON_GUEST_AGENT_UNAVAILABLE:
		return "Install and start qemu-guest-agent in the guest."
	case pb.ErrorReason_ERROR_REASON_FREEZE_FAILED, pb.ErrorReason_ERROR_REASON_VSS_WRITER_FAILED:
		return "Look into the guest's logs for what keeps its file systems or writers from pausing."
	case pb.ErrorReason_ERROR_REASON_SNAPSHOT_SPACE:
		return "Make room on the host's disk for the snapshot."
	case pb.ErrorReason_ERROR_REASON_TOOL_MISSING:
		return "Install the package that is named, on the host."
	case pb.ErrorReason_ERROR_REASON_DISK_LOCKED, pb.ErrorReason_ERROR_REASON_KEY_UNAVAILABLE:
		return "Make the key available to the host."
	}
	return "Retry the job; if it fails again, the logs of the agent and of the server say more."
}
