package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

func TestDeleteAndExtend(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", blockSize).fill(1, 0)
	old := w.backUp("", day, []*testDisk{d}, nil)
	p := w.backUp(old.Name, day.Add(time.Hour), []*testDisk{d}, nil)
	newest := w.backUp(p.Name, day.Add(2*time.Hour), []*testDisk{d}, nil)
	if p.NewBytes != 0 || newest.StoredBytes != 0 {
		t.Errorf("the same again took %d and %d bytes", p.NewBytes, newest.StoredBytes)
	}
	del := func(r *pb.DeleteRecoveryPointRequest) error {
		_, err := w.points.DeleteRecoveryPoint(w.ctx, r)
		return err
	}
	wantField(t, del(&pb.DeleteRecoveryPointRequest{Name: "x"}), "name")
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: newest.Name}), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_NEWEST_RECOVERY_POINT)
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: p.Name, Etag: "x"}), codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)

	until := p.ExpireTime.AsTime().Add(time.Hour)
	extend := func(at time.Time, etag string) (*pb.ExtendRecoveryPointResponse, error) {
		return w.points.ExtendRecoveryPoint(w.ctx, &pb.ExtendRecoveryPointRequest{Name: p.Name, RetainUntil: timestamppb.New(at), Etag: etag})
	}
	_, err := extend(until.Add(-2*time.Hour), "")
	wantField(t, err, "retain_until")
	_, err = extend(until.AddDate(100, 0, 0), "")
	wantField(t, err, "retain_until")
	e := must[*pb.ExtendRecoveryPointResponse](t)(extend(until, p.Etag)).RecoveryPoint
	if e.ExpireTime.AsTime() != until || e.RetentionRule != pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL || e.Etag == p.Etag {
		t.Errorf("extended to %v", e)
	}
	_, err = extend(until, p.Etag)
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)
	if got := must[*pb.GetRecoveryPointResponse](t)(w.points.GetRecoveryPoint(w.ctx, &pb.GetRecoveryPointRequest{Name: p.Name})).RecoveryPoint; !proto.Equal(got, e) {
		t.Errorf("read %v, extended %v", got, e)
	}

	lease := must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name, Holder: "mount on web"}))
	info := wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: p.Name}), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE)
	if info.Metadata["holders"] != "mount on web" {
		t.Errorf("metadata %v", info.Metadata)
	}
	renewed := must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name, LeaseId: lease.LeaseId, Duration: durationpb.New(time.Hour)}))
	if renewed.LeaseId != lease.LeaseId || !renewed.ExpireTime.AsTime().After(lease.ExpireTime.AsTime()) {
		t.Errorf("lease %v, renewed %v", lease, renewed)
	}
	release := &pb.ReleaseRecoveryPointRequest{Name: p.Name, LeaseId: lease.LeaseId}
	must[*pb.ReleaseRecoveryPointResponse](t)(w.points.ReleaseRecoveryPoint(w.ctx, release))
	_, err = w.points.ReleaseRecoveryPoint(w.ctx, release)
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)
	_, err = w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name, LeaseId: lease.LeaseId})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)

	if err := del(&pb.DeleteRecoveryPointRequest{Name: p.Name, Etag: e.Etag}); err != nil {
		t.Fatal(err)
	}
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: p.Name}), codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	_, err = w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p.Name})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)
	if n := len(w.s.data.leases.byPoint); n != 0 {
		t.Errorf("%d points are leased in the end", n)
	}
	w.checkBytes(newest, d)
	it := must[*pb.GetProtectedItemResponse](t)(w.items.GetProtectedItem(w.ctx, &pb.GetProtectedItemRequest{Name: item1})).ProtectedItem
	if it.RecoveryPointCount != 2 {
		t.Errorf("%d points are counted, want 2", it.RecoveryPointCount)
	}

	must[*pb.UpdateVaultResponse](t)(w.vaults.UpdateVault(w.ctx, &pb.UpdateVaultRequest{
		Vault:      &pb.Vault{Name: vault, Immutability: pb.Immutability_IMMUTABILITY_UNLOCKED},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"immutability"}},
	}))
	wantError(t, del(&pb.DeleteRecoveryPointRequest{Name: old.Name}), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
}

// TestPointLeaseRunsOut: with the server's time moved on.
func TestPointLeaseRunsOut(t *testing.T) {
	now := day
	l := newPointLeases(func() time.Time { return now }, strings.NewReader(strings.Repeat("0123456789", 3)))
	n := PointName{ItemName{VaultName{"s", "v"}, "i"}, "p"}
	id, expires, err := l.take(n, "", "me", time.Minute)
	if err != nil || expires != now.Add(time.Minute) {
		t.Fatal(id, expires, err)
	}
	if _, err := l.closePoint(n); err == nil {
		t.Error("closed while leased")
	}
	now = expires
	reopen, err := l.closePoint(n)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.take(n, "", "me", time.Minute); err == nil {
		t.Error("leased while it is deleted")
	}
	if _, err := l.closePoint(n); err == nil {
		t.Error("closed twice")
	}
	reopen()
	if _, _, err := l.take(n, id, "me", time.Minute); err == nil {
		t.Error("renewed after it ran out")
	}
	if len(l.byPoint) != 0 || l.count != 0 {
		t.Errorf("left: %v, %d", l.byPoint, l.count)
	}
}
