package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "cairn/proto/cairn/v1"
)

const inUse = pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE

// vaultPoints counts the points that are really in the vault's store.
func (w *lifeWorld) vaultPoints() int64 {
	w.t.Helper()
	return must[*pb.GetVaultUsageResponse](w.t)(w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault})).Usage.RecoveryPointCount
}

func (w *lifeWorld) setSoftDelete(sd *pb.SoftDelete) {
	w.t.Helper()
	must[*pb.Vault](w.t)(w.updateVault(&pb.Vault{Name: vault, SoftDelete: sd}, "soft_delete"))
}

// Data that was deleted goes when its days have passed, and not a moment before;
// what the vault says later is for items that are deleted later.
func TestPurge(t *testing.T) {
	for _, c := range []struct {
		days, then int32
	}{{0, 0}, {180, 14}, {14, 180}, {30, 30}} {
		t.Run(fmt.Sprintf("%d days, then %d", c.days, c.then), func(t *testing.T) {
			w := newLife(t)
			w.setSoftDelete(&pb.SoftDelete{RetentionDays: c.days})
			w.point(1)
			w.point(2)
			w.ok(w.stopProtection(remove))
			w.setSoftDelete(&pb.SoftDelete{RetentionDays: c.then})
			days := time.Duration(max(14, c.days))
			w.pass(days*24*time.Hour - time.Nanosecond)
			w.restart()
			w.s.Tend(w.ctx)
			if w.stateOf() != "deleted" || w.vaultPoints() != 2 {
				t.Fatalf("the item is %s a moment before its time", w.stateOf())
			}
			w.pass(time.Nanosecond)
			if w.stateOf() != "nothing" || w.vaultPoints() != 0 {
				t.Errorf("the item is %s, its points are %d, when its time has come", w.stateOf(), w.vaultPoints())
			}
			w.restart()
			if w.stateOf() != "nothing" {
				t.Errorf("the item is %s after a restart", w.stateOf())
			}
			w.protect() // anew
			if p := w.point(3); w.item(item1).RecoveryPointCount != 1 {
				t.Errorf("item %v, point %v", w.item(item1), p)
			}
		})
	}
}

// Undelete works as long as the data is there, also when its time has passed.
func TestUndeleteLate(t *testing.T) {
	w := newLife(t)
	p := w.point(1)
	w.ok(w.stopProtection(remove))
	w.clock.mu.Lock()
	w.clock.now = w.clock.now.AddDate(0, 1, 0)
	w.clock.mu.Unlock()
	w.ok(w.undelete())
	w.pass(time.Hour)
	if w.stateOf() != "PROTECTION_STOPPED" {
		t.Errorf("the item is %s", w.stateOf())
	}
	w.checkBytes(p, newTestDisk("vda", blockSize).fill(1, 0))
}

// A point that somebody reads is not purged from under him; the rest is.
func TestPurgeOfPointInUse(t *testing.T) {
	w := newLife(t)
	w.point(1)
	read := w.point(2)
	w.point(3)
	w.ok(w.stopProtection(remove))
	w.pass(13 * 24 * time.Hour)
	lease := &pb.LeaseRecoveryPointRequest{Name: read.Name, Holder: "mount", Duration: durationpb.New(24 * time.Hour)}
	for range 2 {
		lease.LeaseId = must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, lease)).LeaseId
		w.pass(20 * time.Hour)
	}
	if it := w.item(item1); it.RecoveryPointCount != 1 || it.LatestRecoveryPoint != read.Name || it.DeleteTime == nil || w.vaultPoints() != 1 {
		t.Errorf("item %v with %d points", it, w.vaultPoints())
	}
	w.checkBytes(read, newTestDisk("vda", blockSize).fill(2, 0))
	must[*pb.ReleaseRecoveryPointResponse](t)(w.points.ReleaseRecoveryPoint(w.ctx, &pb.ReleaseRecoveryPointRequest{Name: read.Name, LeaseId: lease.LeaseId}))
	w.pass(time.Minute)
	if w.stateOf() != "nothing" || w.vaultPoints() != 0 {
		t.Errorf("the item is %s with %d points", w.stateOf(), w.vaultPoints())
	}
}

// Without soft delete all goes at once, unless somebody reads it.
func TestDeleteWithoutSoftDelete(t *testing.T) {
	w := newLife(t)
	w.setSoftDelete(&pb.SoftDelete{Disabled: true})
	p1 := w.point(1)
	w.point(2)
	lease := must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p1.Name, Holder: "mount on web"}))
	info := wantError(t, w.stopProtection(remove), codes.FailedPrecondition, inUse)
	if info.Metadata["holders"] != "mount on web" || info.Metadata["count"] != "1" {
		t.Errorf("metadata %v", info.Metadata)
	}
	if it := w.item(item1); it.RecoveryPointCount != 2 || isStopped(it) || w.vaultPoints() != 2 {
		t.Errorf("a refused call left %v", it)
	}
	must[*pb.ReleaseRecoveryPointResponse](t)(w.points.ReleaseRecoveryPoint(w.ctx, &pb.ReleaseRecoveryPointRequest{Name: p1.Name, LeaseId: lease.LeaseId}))

	j := w.restore(newMachine(p1.Name, "copy"))
	info = wantError(t, w.stopProtection(remove), codes.FailedPrecondition, inUse)
	if !strings.Contains(info.Metadata["holders"], j.Name) {
		t.Errorf("metadata %v", info.Metadata)
	}
	w.cancelJob(j.Name)
	w.ok(w.stopProtection(retain))
	w.ok(w.stopProtection(remove))
	if w.stateOf() != "nothing" || w.vaultPoints() != 0 || len(w.s.data.leases.byPoint) != 0 {
		t.Errorf("the item is %s with %d points", w.stateOf(), w.vaultPoints())
	}
	must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
}

// What is in an immutable vault cannot be deleted, nor kept shorter.
func TestImmutableLife(t *testing.T) {
	const immutable = pb.ErrorReason_ERROR_REASON_IMMUTABLE
	for _, im := range []pb.Immutability{pb.Immutability_IMMUTABILITY_UNLOCKED, pb.Immutability_IMMUTABILITY_LOCKED} {
		for _, soft := range []*pb.SoftDelete{{RetentionDays: 20}, {Disabled: true}} {
			w := newLife(t)
			w.setSoftDelete(soft)
			for id, days := range map[string]int32{"short": 29, "long": 31} {
				must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{
					Parent: vault, PolicyId: id, Policy: &pb.Policy{Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: days}}}}))
			}
			p := w.point(1)
			w.point(2)
			set := func(i pb.Immutability) error {
				return second(w.updateVault(&pb.Vault{Name: vault, Immutability: i}, "immutability"))
			}
			w.ok(set(im))
			for _, sd := range []*pb.SoftDelete{{Disabled: true, RetentionDays: 20}, {RetentionDays: 19}, {RetentionDays: 14}} {
				err := second(w.updateVault(&pb.Vault{Name: vault, SoftDelete: sd}, "soft_delete"))
				if !soft.Disabled {
					wantError(t, err, codes.FailedPrecondition, immutable)
				}
			}
			wantError(t, w.stopProtection(remove), codes.FailedPrecondition, immutable)
			wantError(t, w.deletePoint(p.Name), codes.FailedPrecondition, immutable)
			if w.stateOf() != "PROTECTED" {
				t.Fatalf("a refused call made it %s", w.stateOf())
			}
			w.ok(w.stopProtection(retain))
			wantError(t, w.stopProtection(remove), codes.FailedPrecondition, immutable)
			resume := func(policy string) error {
				return second(w.items.ResumeProtection(w.ctx, &pb.ResumeProtectionRequest{Name: item1, Policy: vault + "/policies/" + policy}))
			}
			wantError(t, resume("short"), codes.FailedPrecondition, immutable)
			w.ok(resume("long"))
			wantError(t, second(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault})), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY)
			// An item without points takes no data with it.
			db := must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
				Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: host1 + "/machines/db1", Policy: daily}})).ProtectedItem
			must[*pb.StopProtectionResponse](t)(w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{Name: db.Name, Mode: remove}))

			if err := set(pb.Immutability_IMMUTABILITY_DISABLED); im == pb.Immutability_IMMUTABILITY_LOCKED {
				wantError(t, err, codes.FailedPrecondition, immutable)
				wantError(t, w.stopProtection(remove), codes.FailedPrecondition, immutable)
			} else {
				w.ok(err)
				w.ok(w.stopProtection(remove))
			}
		}
	}
}

// Immutability goes up in every step, and down only while it is not locked.
func TestImmutabilitySteps(t *testing.T) {
	const off, unlocked, locked = pb.Immutability_IMMUTABILITY_DISABLED, pb.Immutability_IMMUTABILITY_UNLOCKED, pb.Immutability_IMMUTABILITY_LOCKED
	w := memWorld(t)
	n := 0
	for _, from := range []pb.Immutability{off, unlocked, locked} {
		for _, to := range []pb.Immutability{0, off, unlocked, locked} {
			n++
			v := w.createVault(fmt.Sprintf("v%d", n), &pb.Vault{Immutability: from})
			up, err := w.updateVault(&pb.Vault{Name: v.Name, Immutability: to}, "immutability")
			if from == locked && to != locked {
				wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
			} else if err != nil || up.Immutability != max(off, to) {
				t.Errorf("from %v to %v: %v, %v", from, to, up, err)
			}
		}
	}
	// Both at once do not go round the rule.
	v := w.createVault("both", &pb.Vault{Immutability: unlocked, SoftDelete: &pb.SoftDelete{RetentionDays: 60}})
	_, err := w.updateVault(&pb.Vault{Name: v.Name, Immutability: off, SoftDelete: &pb.SoftDelete{Disabled: true}}, "immutability", "soft_delete")
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
	must[*pb.Vault](t)(w.updateVault(&pb.Vault{Name: v.Name, SoftDelete: &pb.SoftDelete{RetentionDays: 61}}, "soft_delete"))
}

// A vault says what it still holds.
func TestDeleteVaultThatHolds(t *testing.T) {
	w := newLife(t)
	refused := func(want ...string) {
		t.Helper()
		err := second(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
		info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY)
		if info.Metadata["protected_items"] != item1 || info.Metadata["count"] != "1" {
			t.Errorf("metadata %v", info.Metadata)
		}
		for _, text := range want {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("error %v, want %q in it", err, text)
			}
		}
	}
	refused("web1: initial backup pending, recovery points: 0", "stop")
	w.point(1)
	refused("web1: protected, recovery points: 1")
	w.ok(w.stopProtection(retain))
	refused("web1: protection stopped, recovery points: 1")
	w.ok(w.stopProtection(remove))
	refused("web1: deleted, gone for good after 2026-03-16T12:00:01Z, recovery points: 1", "it can be deleted when they are gone, after 2026-03-16T12:00:01Z")
	// Redundancy is frozen for as long.
	_, err := w.updateVault(&pb.Vault{Name: vault, Redundancy: pb.Redundancy_REDUNDANCY_GEO}, "redundancy")
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REDUNDANCY_FROZEN)
	w.pass(14 * 24 * time.Hour)
	must[*pb.Vault](t)(w.updateVault(&pb.Vault{Name: vault, Redundancy: pb.Redundancy_REDUNDANCY_GEO}, "redundancy"))
	must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault})) // policies do not matter
	if l, err := w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: sub}); err != nil || len(l.Jobs) != 0 {
		t.Errorf("jobs of a deleted vault: %v, %v", l, err)
	}
}

// A vault whose last item went with a backup under way waits for that job's end.
func TestDeleteVaultWithJob(t *testing.T) {
	w := newLife(t)
	a := w.claim("one")
	j := w.backUpNow()
	as := a.assignment()
	w.ok(w.stopProtection(remove))
	if w.stateOf() != "nothing" || w.getJob(j.Name).State != pb.JobState_JOB_STATE_CANCELLING {
		t.Errorf("the item is %s, its backup %v", w.stateOf(), w.getJob(j.Name))
	}
	err := second(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY); info.Metadata["job"] != j.Name {
		t.Errorf("metadata %v", info.Metadata)
	}
	must[*pb.ReportJobResponse](t)(w.reportJob(as, pb.JobState_JOB_STATE_CANCELLED))
	if got := w.getJob(j.Name); got.State != pb.JobState_JOB_STATE_CANCELLED || got.Error.GetReason() != isStoppedNow {
		t.Errorf("job %v", got)
	}
	must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
}

// Many items are named by the first few.
func TestDeleteVaultThatHoldsMany(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	var machines []string
	for i := range 12 {
		machines = append(machines, fmt.Sprintf("m%02d", i))
	}
	w.host("rack9", "", machines...)
	for _, m := range machines {
		must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
			Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: sub + "/hosts/rack9/machines/" + m, Policy: daily}}))
	}
	err := second(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
	info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY)
	if n := len(strings.Split(info.Metadata["protected_items"], ",")); n != 10 || info.Metadata["count"] != "12" || !strings.Contains(err.Error(), "; and 9 more)") {
		t.Errorf("error %v, metadata %v", err, info.Metadata)
	}
}

// Regions must fit, and who names one that is not there learns the others.
func TestRegionsFit(t *testing.T) {
	w := newLife(t)
	unknown := func(err error, field string) {
		t.Helper()
		info := wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_UNKNOWN_REGION)
		if wantField(t, err, field); info.Metadata["regions"] != "east,west" || !strings.Contains(err.Error(), "east, west") {
			t.Errorf("error %v, metadata %v", err, info.Metadata)
		}
	}
	unknown(second(w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "x", Vault: &pb.Vault{Region: "mars"}})), "vault.region")
	unknown(second(w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: "x", Host: &pb.Host{Region: "mars"}})), "host.region")
	l := must[*pb.ListRegionsResponse](t)(w.vaults.ListRegions(w.ctx, &pb.ListRegionsRequest{}))
	if strings.Join(l.Regions, ",") != "east,west" || l.DefaultRegion != "west" {
		t.Errorf("regions %v", l)
	}
	w.host("far", "east", "web1")
	err := second(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItemId: "far", ProtectedItem: &pb.ProtectedItem{Machine: sub + "/hosts/far/machines/web1", Policy: daily}}))
	info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REGION_MISMATCH)
	if info.Metadata["machine_region"] != "east" || info.Metadata["vault_region"] != "west" || !strings.Contains(err.Error(), `"east"`) || !strings.Contains(err.Error(), `"west"`) {
		t.Errorf("error %v, metadata %v", err, info.Metadata)
	}
	p := w.point(1)
	r := newMachine(p.Name, "copy")
	r.Host = sub + "/hosts/far"
	info = wantError(t, second(w.points.Restore(w.ctx, r)), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REGION_MISMATCH)
	if info.Metadata["host_region"] != "east" || info.Metadata["vault_region"] != "west" {
		t.Errorf("metadata %v", info.Metadata)
	}
}
