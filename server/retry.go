package server

import (
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// retryClass says when a scheduled backup that failed is tried again: that long
// after the end of the first try, of the second, …, and then no more.
type retryClass []time.Duration

var (
	// What passes by itself: a broken connection, a restart, an agent that is away.
	retrySoon = retryClass{time.Minute, 5 * time.Minute, 15 * time.Minute}
	// What the guest, the host or a person needs some time for.
	retryLater = retryClass{15 * time.Minute, time.Hour}
	// What stays as it is until somebody does something about it, and what no job
	// of a schedule meets. The next run of the schedule tries again anyway.
	retryNever = retryClass{}
)

// retryClasses has every reason that there is.
var retryClasses = classesOf(map[*retryClass][]pb.ErrorReason{
	&retrySoon: {
		// The way to the vault.
		pb.ErrorReason_ERROR_REASON_TRANSFER_FAILED,
		pb.ErrorReason_ERROR_REASON_INTERRUPTED,
		pb.ErrorReason_ERROR_REASON_AGENT_UNREACHABLE,
		pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST,
		pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED,
		pb.ErrorReason_ERROR_REASON_DIGEST_MISMATCH,
		pb.ErrorReason_ERROR_REASON_MALFORMED_BLOCK,
		pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID,
		pb.ErrorReason_ERROR_REASON_BLOCK_MISSING,
		// The vault, which is opened again by itself.
		pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE,
		pb.ErrorReason_ERROR_REASON_STORE_LOCKED,
		pb.ErrorReason_ERROR_REASON_STORE_READ_ONLY,
		// The host.
		pb.ErrorReason_ERROR_REASON_HYPERVISOR_UNREACHABLE,
		pb.ErrorReason_ERROR_REASON_SNAPSHOT_LOST,
		pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND, // that it built on
		pb.ErrorReason_ERROR_REASON_INTERNAL,
	},
	&retryLater: {
		pb.ErrorReason_ERROR_REASON_GUEST_AGENT_UNAVAILABLE,
		pb.ErrorReason_ERROR_REASON_FREEZE_FAILED,
		pb.ErrorReason_ERROR_REASON_VSS_WRITER_FAILED,
		pb.ErrorReason_ERROR_REASON_MACHINE_STATE,
		pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED,
		pb.ErrorReason_ERROR_REASON_SNAPSHOT_LIMIT,
		pb.ErrorReason_ERROR_REASON_SNAPSHOT_SPACE,
		pb.ErrorReason_ERROR_REASON_IMAGE_CHANGED,
		pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS,
		pb.ErrorReason_ERROR_REASON_STORE_FULL,
	},
	&retryNever: {
		// The machine and its disks.
		pb.ErrorReason_ERROR_REASON_MACHINE_GONE,
		pb.ErrorReason_ERROR_REASON_DISK_TOO_LARGE,
		pb.ErrorReason_ERROR_REASON_DISK_LOCKED,
		pb.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED,
		pb.ErrorReason_ERROR_REASON_KEY_UNAVAILABLE,
		pb.ErrorReason_ERROR_REASON_QUOTA_DENIED,
		pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE,
		pb.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW,
		pb.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET,
		pb.ErrorReason_ERROR_REASON_GUEST_UNSUPPORTED,
		pb.ErrorReason_ERROR_REASON_TOOL_MISSING,
		// The vault.
		pb.ErrorReason_ERROR_REASON_DATA_CORRUPT,
		pb.ErrorReason_ERROR_REASON_STORE_TOO_NEW,
		// The life of things.
		pb.ErrorReason_ERROR_REASON_CANCELLED,
		pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED,
		pb.ErrorReason_ERROR_REASON_PROTECTION_ACTIVE,
		pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED,
		pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_JOB_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS,
		pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED,
		pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY,
		pb.ErrorReason_ERROR_REASON_POLICY_IN_USE,
		pb.ErrorReason_ERROR_REASON_UNKNOWN_REGION,
		pb.ErrorReason_ERROR_REASON_REGION_MISMATCH,
		pb.ErrorReason_ERROR_REASON_REDUNDANCY_FROZEN,
		pb.ErrorReason_ERROR_REASON_IMMUTABLE,
		pb.ErrorReason_ERROR_REASON_NEWEST_RECOVERY_POINT,
		pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE,
		pb.ErrorReason_ERROR_REASON_JOB_NOT_CANCELLABLE,
		pb.ErrorReason_ERROR_REASON_JOB_NOT_RETRIABLE,
		pb.ErrorReason_ERROR_REASON_HOST_IN_USE,
		pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS,
		// Calls that are wrong in themselves.
		pb.ErrorReason_ERROR_REASON_INVALID_FIELD,
		pb.ErrorReason_ERROR_REASON_INVALID_NAME,
		pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN,
		pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED,
		pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH,
		pb.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED,
		pb.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
		pb.ErrorReason_ERROR_REASON_WRONG_BLOCK_LENGTH,
		pb.ErrorReason_ERROR_REASON_ZERO_BLOCK,
		pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE,
		pb.ErrorReason_ERROR_REASON_REVISION_UNAVAILABLE,
		// Restores.
		pb.ErrorReason_ERROR_REASON_RESTORE_TARGET_EXISTS,
		pb.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL,
		pb.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED,
		pb.ErrorReason_ERROR_REASON_RESTORE_ADJUSTED,
	},
})

func classesOf(lists map[*retryClass][]pb.ErrorReason) map[pb.ErrorReason]retryClass {
	out := map[pb.ErrorReason]retryClass{}
	for class, reasons := range lists {
		for _, r := range reasons {
			out[r] = *class
		}
	}
	return out
}

// settleBackup is job.Hooks.Settle: it plans the retry of a scheduled backup that
// failed, and drops the one planned of an item that was backed up.
func (s *Server) settleBackup(tx *catalog.Tx, j *pb.Job) error {
	if j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP || j.ProtectedItem == "" {
		return nil
	}
	rec, err := tx.Schedule(j.ProtectedItem)
	switch {
	case errors.Is(err, catalog.ErrNotFound): // never scheduled, or not any more
		return nil
	case errors.Is(err, catalog.ErrCorrupt): // the chore says so, and makes a new one
		return nil
	case err != nil:
		return err
	}
	planned := rec.Retry
	switch j.State {
	case pb.JobState_JOB_STATE_COMPLETED, pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS:
		rec.Retry = nil
	case pb.JobState_JOB_STATE_FAILED:
		if !j.Scheduled {
			return nil
		}
		if rec.Retry = s.planRetry(j, rec.Slot); rec.Retry != nil {
			j.NextAttemptTime = timestamppb.New(rec.Retry.Due)
			s.poke(choreSchedule)
		}
	}
	if rec.Retry == planned {
		return nil
	}
	return tx.PutSchedule(j.ProtectedItem, rec)
}

// planRetry says when a scheduled backup that failed is tried again; nil if it is
// not. slot is the last run of the schedule that was seen to.
func (s *Server) planRetry(j *pb.Job, slot time.Time) *catalog.Retry {
	run, class := j.ScheduleTime.AsTime(), retryClasses[j.Error.GetReason()]
	if j.Attempt < 1 || int(j.Attempt) > len(class) || run.Before(slot) {
		return nil
	}
	due := j.EndTime.AsTime().Add(class[j.Attempt-1])
	if !s.wantsBackups(j.ProtectedItem) {
		return nil
	}
	if _, it := s.itemNamed(j.ProtectedItem); it != nil {
		if next := s.nextRun(it, run); !next.IsZero() && !due.Before(next) {
			return nil // the next run comes first
		}
	}
	return &catalog.Retry{Job: j.Name, Due: due, Attempt: j.Attempt + 1}
}

// notRetried takes back what a failed job says of its retry, which was dropped.
func (s *Server) notRetried(name string) {
	if s.jobs == nil { // at the server's start, of a job that the last one did not bring to its end
		return
	}
	err := s.jobs.Amend(name, func(j *pb.Job) { j.NextAttemptTime = nil })
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		s.log.Warn("a job still tells of a retry that will not come", "job", name, "error", err)
	}
}
