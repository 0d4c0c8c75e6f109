package server

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// The numbers of the dashboard are those of the vault's items, jobs and points.
func TestVaultSummary(t *testing.T) {
	w := newLife(t, func(o *Options) { o.ReclaimEvery = 1000 * 24 * time.Hour }) // when it is told to
	w.createVault("v2", nil)                                                     // whose jobs do not count
	expect := func(when string, want *pb.VaultSummary) {
		t.Helper()
		got := must[*pb.GetVaultSummaryResponse](t)(w.vaults.GetVaultSummary(w.ctx, &pb.GetVaultSummaryRequest{Name: vault})).Summary
		if got.StoredBytes <= 0 || got.FreeBytes < -1 {
			t.Errorf("%s: %d bytes stored, %d free", when, got.StoredBytes, got.FreeBytes)
		}
		if n := got.ItemsPassed + got.ItemsActionSuggested + got.ItemsActionRequired; n != got.Items {
			t.Errorf("%s: %d items by health, %d in all", when, n, got.Items)
		}
		got.StoredBytes, got.FreeBytes = 0, 0
		if !proto.Equal(got, want) {
			t.Errorf("%s:\n%v, want\n%v", when, got, want)
		}
	}
	expect("pending", &pb.VaultSummary{Items: 1, ItemsActionSuggested: 1, ItemsIrPending: 1})
	first := timestamppb.New(w.point(1).SnapshotTime.AsTime())
	last := timestamppb.New(w.point(2).SnapshotTime.AsTime())
	db := must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: host1 + "/machines/db1", Policy: daily}})).ProtectedItem
	points := func(s *pb.VaultSummary) *pb.VaultSummary {
		s.RecoveryPointCount, s.OldestRecoveryPointTime, s.NewestRecoveryPointTime = 2, first, last
		s.Instances, s.ProtectedBytes = 1, blockSize
		return s
	}
	expect("one of two", points(&pb.VaultSummary{Items: 2, ItemsPassed: 1, ItemsActionSuggested: 1, ItemsIrPending: 1}))

	reclaim := must[*pb.ReclaimVaultResponse](t)(w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault})).Job
	w.waitJob(reclaim.Name)
	reclaimed := timestamppb.New(w.clock.Now())
	none := points
	points = func(s *pb.VaultSummary) *pb.VaultSummary {
		s.LastReclaimJob, s.LastReclaimTime = reclaim.Name, reclaimed
		return none(s)
	}
	expect("reclaimed", points(&pb.VaultSummary{Items: 2, ItemsPassed: 1, ItemsActionSuggested: 1, ItemsIrPending: 1}))

	// Jobs: one under way, one that waits, one that failed.
	a := w.claim("one")
	w.backUpNow()
	a.assignment()
	expect("backing up", points(&pb.VaultSummary{Items: 2, ItemsPassed: 1, ItemsActionSuggested: 1, ItemsIrPending: 1, JobsInProgress: 1}))
	a.cancel()
	for w.s.jobs.Connected(host1) {
		time.Sleep(time.Millisecond)
	}
	j := must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: db.Name})).Job
	expect("waiting", points(&pb.VaultSummary{Items: 2, ItemsPassed: 1, ItemsActionSuggested: 1, ItemsIrPending: 1, JobsInProgress: 1, JobsQueued: 1}))
	w.cancelJob(j.Name)
	for range 2 {
		must[*pb.Job](t)(w.s.jobs.Fail(job.Spec{
			Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: db.Name, Machine: db.Machine,
			Error: &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED, Message: "no"},
		}))
	}
	failed := points(&pb.VaultSummary{Items: 2, ItemsPassed: 1, ItemsActionRequired: 1, ItemsIrPending: 1, JobsInProgress: 1, JobsFailed: 2})
	expect("failed", failed)

	w.ok(w.stopProtection(retain))
	if _, err := w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{Name: db.Name, Mode: retain}); err != nil {
		t.Fatal(err)
	}
	w.pass(24*time.Hour - time.Second)
	failed.ItemsPassed, failed.ItemsActionRequired, failed.ItemsActionSuggested, failed.ItemsIrPending, failed.ItemsStopped, failed.JobsInProgress = 1, 0, 1, 0, 2, 0
	expect("stopped", failed)
	w.pass(time.Second)
	failed.JobsFailed = 0
	expect("a day later", failed)
	w.ok(w.stopProtection(remove))
	failed.ItemsPassed, failed.ItemsActionSuggested, failed.ItemsStopped, failed.ItemsDeleted = 0, 2, 1, 1
	expect("deleted", failed)
	w.pass(14 * 24 * time.Hour)
	expect("purged", &pb.VaultSummary{Items: 1, ItemsActionSuggested: 1, ItemsStopped: 1, LastReclaimJob: reclaim.Name, LastReclaimTime: reclaimed})

	_, err := w.vaults.GetVaultSummary(w.ctx, &pb.GetVaultSummaryRequest{Name: sub + "/vaults/none"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	_, err = w.vaults.GetVaultSummary(w.ctx, &pb.GetVaultSummaryRequest{Name: sub + "/vaults/-"})
	wantField(t, err, "name")
}
