package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

const (
	failedWithin = 24 * time.Hour
	// longestJob is how long before that a job that is counted may have begun: jobs
	// are listed by their beginning.
	longestJob = 48 * time.Hour
)

// GetVaultSummary gives the numbers of a dashboard.
func (s *vaultService) GetVaultSummary(ctx context.Context, r *pb.GetVaultSummaryRequest) (*pb.GetVaultSummaryResponse, error) {
	var f fields
	n := f.vault("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n)
	if err != nil {
		return nil, err
	}
	defer release()
	sum := new(pb.VaultSummary)
	if sum.StoredBytes, sum.FreeBytes, err = s.vaultBytes(ctx, v); err != nil {
		return nil, err
	}
	for _, it := range v.itemsOf(func(*pb.ProtectedItem) bool { return true }) {
		countItem(sum, it)
		if err := v.spanPoints(sum, it); err != nil {
			return nil, err
		}
	}
	last, ok, err := v.lastReclaim()
	if err != nil {
		return nil, err
	}
	if ok {
		sum.LastReclaimJob, sum.LastReclaimTime = last.Job, timestamppb.New(last.Time)
	}
	if err := s.countJobs(ctx, sum, n); err != nil {
		return nil, err
	}
	return &pb.GetVaultSummaryResponse{Summary: sum}, nil
}

// countItem adds an item to the numbers.
func countItem(sum *pb.VaultSummary, it *pb.ProtectedItem) {
	seen := proto.CloneOf(it)
	describeStopped(seen)
	sum.Items++
	switch seen.Health {
	case pb.HealthStatus_HEALTH_STATUS_ACTION_REQUIRED:
		sum.ItemsActionRequired++
	case pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED:
		sum.ItemsActionSuggested++
	default:
		sum.ItemsPassed++
	}
	switch {
	case it.DeleteTime != nil:
		sum.ItemsDeleted++
	case isStopped(it):
		sum.ItemsStopped++
	case it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_IR_PENDING:
		sum.ItemsIrPending++
	}
	sum.RecoveryPointCount += it.RecoveryPointCount
	if u := itemUsage(it); u.Instances > 0 {
		sum.Instances += u.Instances
		sum.ProtectedBytes += u.ProtectedBytes
	}
}

// spanPoints extends the time that the vault's points span by those of an item.
func (v *Vault) spanPoints(sum *pb.VaultSummary, it *pb.ProtectedItem) error {
	ids, _ := splitName(it.Name, itemPattern, false)
	n := ItemName{v.Name, ids[2]}
	var oldest, newest *pb.RecoveryPoint
	var bad error
	if err := v.Store.Points(n.Item+"/", "", func(p blockstore.Point) bool {
		oldest, bad = decodePoint(v.Name.pointOfStore(p.ID), p.Meta)
		return false
	}); err != nil || bad != nil || oldest == nil {
		return errors.Join(err, bad)
	}
	last, err := v.pointsBefore(n, "", 1)
	if err != nil {
		return err
	}
	if newest = oldest; len(last) > 0 {
		newest = last[0]
	}
	if t := oldest.SnapshotTime; sum.OldestRecoveryPointTime == nil || t.AsTime().Before(sum.OldestRecoveryPointTime.AsTime()) {
		sum.OldestRecoveryPointTime = t
	}
	if t := newest.SnapshotTime; sum.NewestRecoveryPointTime == nil || t.AsTime().After(sum.NewestRecoveryPointTime.AsTime()) {
		sum.NewestRecoveryPointTime = t
	}
	return nil
}

// countJobs adds the vault's jobs to the numbers.
func (s *Server) countJobs(ctx context.Context, sum *pb.VaultSummary, n VaultName) error {
	queued, running := s.jobs.Active(n.String())
	sum.JobsQueued, sum.JobsInProgress = int64(queued), int64(running)
	since := s.opts.Now().Add(-failedWithin)
	err := s.jobs.List(n.Subscription, n.Vault, "", func(j *pb.Job) bool {
		if !j.CreateTime.AsTime().After(since.Add(-longestJob)) || ctx.Err() != nil {
			return false
		}
		if j.State == pb.JobState_JOB_STATE_FAILED && j.EndTime.AsTime().After(since) {
			sum.JobsFailed++
		}
		return true
	})
	return errors.Join(err, ctx.Err())
}
