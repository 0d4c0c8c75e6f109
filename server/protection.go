package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

// The life of a protected item. Its state is what protection_state says, and
// whether delete_time is set:
//
//	 ProtectMachine
//	       │           first backup
//	       ▼            succeeds            machine is gone
//	  IR_PENDING ───────────────▶ PROTECTED ◀─────────────▶ PROTECTION_ERROR
//	     │    ▲                    │     ▲    a backup succeeds    │
//	     │    └───────────┬────────│─────┘                         │
//	     │         Resume │        │                               │
//	     │                │        │ Stop, RETAIN_DATA             │
//	     └───────────────▶│◀───────┴───────────────────────────────┘
//	              PROTECTION_STOPPED
//	                  │       ▲
//	 Stop, DELETE_DATA│       │ Undelete
//	   (from any state│       │
//	     but deleted) ▼       │
//	              PROTECTION_STOPPED, delete_time and purge_time set
//	                  │
//	                  │ purge_time passes: purgeDeleted
//	                  ▼
//	              (nothing, but a line in the bill)
//
// Stop with DELETE_DATA leads from every state but the last straight to nothing if
// there is no point, or if the vault's soft delete is off.
//
// What does not lead anywhere is refused: PROTECTION_STOPPED to stop what is
// stopped, PROTECTION_ACTIVE to resume or undelete what is neither,
// PROTECTED_ITEM_DELETED for all but undelete while an item is soft-deleted. A call
// with the request id of one that was answered gets that answer all the same.
//
// Each step is one batch in the vault's store, which has the item, the answer, and
// the job that tells of the step, see done.go. What it entails comes after, and is
// made up for if the server stops in between: a backup that is under way is
// cancelled; one that goes on nevertheless cannot commit (see mayBackUp).
//
// A stopped item can be read as before; pruning leaves it alone.

// isStopped says whether protection is stopped, with the data retained or deleted.
func isStopped(it *pb.ProtectedItem) bool {
	return it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED
}

// notDeleted refuses what cannot be done to a soft-deleted item.
func notDeleted(it *pb.ProtectedItem) error {
	if it.DeleteTime == nil {
		return nil
	}
	purge := it.PurgeTime.AsTime().UTC().Format(time.RFC3339)
	return newError(pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED,
		"protected item %q was deleted, and its data goes for good at %s; undelete it first", it.Name, purge).
		with("name", it.Name).with("purge_time", purge)
}

// mayBackUp refuses backups of items that are not protected now.
func mayBackUp(it *pb.ProtectedItem) error {
	if err := notDeleted(it); err != nil {
		return err
	}
	if isStopped(it) || it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_PROTECTION_PAUSED {
		return newError(pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED,
			"protection of %q is stopped or paused; resume it before you back it up", it.Name).with("name", it.Name)
	}
	return nil
}

// describeStopped puts into a stopped item's message what its state means. The
// stored item keeps what its last backup left, so that it is there again when
// protection goes on.
func describeStopped(it *pb.ProtectedItem) {
	if !isStopped(it) {
		return
	}
	kept := fmt.Sprintf("its %d recovery points are", it.RecoveryPointCount)
	if it.RecoveryPointCount == 1 {
		kept = "its recovery point is"
	}
	switch {
	case it.DeleteTime != nil:
		it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED
		it.HealthDetail = fmt.Sprintf("Deleted: %s gone for good after %s; undelete the item before if you need them.",
			strings.Replace(kept, "its", "the", 1), it.PurgeTime.AsTime().UTC().Format(time.RFC3339))
	case it.RecoveryPointCount == 0:
		it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED
		it.HealthDetail = "Protection is stopped, and there is no recovery point; resume protection, or delete the item."
	default:
		it.Health = pb.HealthStatus_HEALTH_STATUS_PASSED
		it.HealthDetail = fmt.Sprintf("Protection is stopped; %s kept until you delete the item's data.", kept)
	}
	if it.LastBackupTime == nil && it.LastBackupStatus == pb.BackupStatus_BACKUP_STATUS_IR_PENDING {
		it.LastBackupStatusText = "Warning (No backup was made before protection was stopped)"
	}
}

// turn changes an item's state: change does it to a copy, or refuses. k keeps the
// answer, which answer makes of the job that tells of it.
func (s *Server) turn(ctx context.Context, v *Vault, n ItemName, op pb.JobOperation, k keep,
	answer func(*pb.Job) proto.Message, change func(*pb.ProtectedItem) error) error {
	var d deed
	_, err := v.changeItem(ctx, n, func(it *pb.ProtectedItem) (err error) {
		if err := change(it); err != nil {
			return err
		}
		it.UpdateTime = timestamppb.New(s.opts.Now())
		d, err = s.newDeed(v, it, op, k, answer)
		return err
	}, func(m blockstore.Mutation) error {
		if err := v.Store.Apply(ctx, append(d.muts, m)...); err != nil {
			return err
		}
		s.done(v, d)
		return nil
	})
	return err
}

// StopProtection ends backups, and retains the data or deletes it.
func (s *protectedItemService) StopProtection(ctx context.Context, r *pb.StopProtectionRequest) (*pb.StopProtectionResponse, error) {
	var f fields
	n := f.item("name", r.Name)
	if r.Mode == pb.StopProtectionMode_STOP_PROTECTION_MODE_UNSPECIFIED {
		f.add("mode", "must be given: RETAIN_DATA or DELETE_DATA")
	}
	enum(&f, "mode", r.Mode, pb.StopProtectionMode_name)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := once(s.Server, n.Subscription, r.RequestId, pb.ProtectedItemService_StopProtection_FullMethodName, r, v, new(pb.StopProtectionResponse),
		func(k keep) (*pb.StopProtectionResponse, error) {
			resp := new(pb.StopProtectionResponse)
			answer := func(j *pb.Job) proto.Message { resp.Job = j; return resp }
			var err error
			if r.Mode == pb.StopProtectionMode_STOP_PROTECTION_MODE_DELETE_DATA {
				err = s.deleteData(ctx, v, n, k, answer)
			} else {
				err = s.turn(ctx, v, n, pb.JobOperation_JOB_OPERATION_DISABLE_BACKUP, k, answer, stopRetaining)
			}
			if err != nil {
				return nil, err
			}
			if err := s.endItemJobs(n.String(), &pb.Problem{
				Reason: pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED, Message: "protection of the machine was stopped",
			}); err != nil { // it cannot commit any more
				s.log.Warn("backup of a stopped item not cancelled", "item", n.String(), "error", err)
			}
			s.poke(choreSchedule)
			s.poke(choreDeleted)
			return resp, nil
		})
	if err != nil {
		return nil, err
	}
	resp.Job = s.told(v, resp.Job)
	return resp, nil
}

func stopRetaining(it *pb.ProtectedItem) error {
	if err := notDeleted(it); err != nil {
		return err
	}
	if isStopped(it) {
		return newError(pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED,
			"protection of %q is stopped already, and its data is retained", it.Name).with("name", it.Name)
	}
	it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED
	return nil
}

// ResumeProtection takes a stopped item up again.
func (s *protectedItemService) ResumeProtection(ctx context.Context, r *pb.ResumeProtectionRequest) (*pb.ResumeProtectionResponse, error) {
	var f fields
	n := f.item("name", r.Name)
	var policy PolicyName
	if r.Policy != "" {
		policy = f.policyOf("policy", r.Policy, n.VaultName)
	}
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := once(s.Server, n.Subscription, r.RequestId, pb.ProtectedItemService_ResumeProtection_FullMethodName, r, v, new(pb.ResumeProtectionResponse),
		func(k keep) (*pb.ResumeProtectionResponse, error) {
			resp := new(pb.ResumeProtectionResponse)
			err := s.turn(ctx, v, n, pb.JobOperation_JOB_OPERATION_CONFIGURE_BACKUP, k,
				func(j *pb.Job) proto.Message { resp.Job = j; return resp },
				func(it *pb.ProtectedItem) error { return s.resume(v, n, it, policy) })
			if err != nil {
				return nil, err
			}
			s.poke(choreSchedule)
			s.poke(choreRetention)
			return resp, nil
		})
	if err != nil {
		return nil, err
	}
	resp.Job = s.told(v, resp.Job)
	return resp, nil
}

// resume changes an item so that it is protected again. policy may be empty.
func (s *Server) resume(v *Vault, n ItemName, it *pb.ProtectedItem, policy PolicyName) error {
	if err := notDeleted(it); err != nil {
		return err
	}
	if mayBackUp(it) == nil {
		return newError(pb.ErrorReason_ERROR_REASON_PROTECTION_ACTIVE,
			"protection of %q is not stopped, so there is nothing to resume", n).with("name", n.String())
	}
	// A stopped item keeps its machine; so this is only about vaults that were
	// damaged, or copied.
	if other, ok := s.vaults.itemOf(it.Machine); ok && other != n {
		return s.errProtected(it.Machine, other)
	}
	if policy.Policy != "" {
		if err := changePolicy(v, it, policy); err != nil {
			return err
		}
	}
	it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_PROTECTED
	if it.LastBackupTime == nil || it.RecoveryPointCount == 0 {
		initialPending(it)
	}
	it.ScheduleSinceTime = timestamppb.New(s.opts.Now())
	return nil
}

// initialPending makes an item one of which no backup has been made.
func initialPending(it *pb.ProtectedItem) {
	it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_IR_PENDING
	it.LastBackupStatus = pb.BackupStatus_BACKUP_STATUS_IR_PENDING
	it.LastBackupStatusText = initialBackupPending
	it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED
	it.HealthDetail = "No backup has been made yet: wait for the first scheduled one, or back up now."
}

// UndeleteProtectedItem brings soft-deleted data back. It may also come late, as
// long as the data is there.
func (s *protectedItemService) UndeleteProtectedItem(ctx context.Context, r *pb.UndeleteProtectedItemRequest) (*pb.UndeleteProtectedItemResponse, error) {
	var f fields
	n := f.item("name", r.Name)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := once(s.Server, n.Subscription, r.RequestId, pb.ProtectedItemService_UndeleteProtectedItem_FullMethodName, r, v, new(pb.UndeleteProtectedItemResponse),
		func(k keep) (*pb.UndeleteProtectedItemResponse, error) {
			resp := new(pb.UndeleteProtectedItemResponse)
			err := s.turn(ctx, v, n, pb.JobOperation_JOB_OPERATION_UNDELETE, k,
				func(j *pb.Job) proto.Message { resp.Job = j; return resp },
				func(it *pb.ProtectedItem) error {
					if it.DeleteTime == nil {
						return newError(pb.ErrorReason_ERROR_REASON_PROTECTION_ACTIVE,
							"protected item %q is not deleted, so there is nothing to undelete", n).with("name", n.String())
					}
					it.DeleteTime, it.PurgeTime = nil, nil
					return nil
				})
			if err != nil {
				return nil, err
			}
			return resp, nil
		})
	if err != nil {
		return nil, err
	}
	resp.Job = s.told(v, resp.Job)
	return resp, nil
}

// errProtected refuses a machine that an item has already, and says what can be
// done with that.
func (s *Server) errProtected(machine string, n ItemName) error {
	e := newError(pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED, "machine %q is protected already, as %q", machine, n).
		with("machine", machine).with("protected_item", n.String())
	v, err := s.vaults.find(n.VaultName)
	if err != nil {
		return e
	}
	it, err := v.item(n)
	switch {
	case err != nil:
	case it.DeleteTime != nil:
		e.Message += fmt.Sprintf(", which was deleted and is kept until %s; undelete and resume it, or protect the machine anew after that",
			it.PurgeTime.AsTime().UTC().Format(time.RFC3339))
	case isStopped(it):
		e.Message += ", whose protection is stopped; resume it, or delete its data first"
	}
	return e
}
