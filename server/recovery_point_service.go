package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

type recoveryPointService struct {
	pb.UnimplementedRecoveryPointServiceServer
	*Server
}

// GetRecoveryPoint reads one point's record.
func (s *recoveryPointService) GetRecoveryPoint(_ context.Context, r *pb.GetRecoveryPointRequest) (*pb.GetRecoveryPointResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	p, _, err := v.point(n)
	if err == nil {
		err = s.fillKept(v, n.ItemName, p)
	}
	if err != nil {
		return nil, err
	}
	return &pb.GetRecoveryPointResponse{RecoveryPoint: p}, nil
}

// ListRecoveryPoints lists the points of an item, newest first.
func (s *recoveryPointService) ListRecoveryPoints(_ context.Context, r *pb.ListRecoveryPointsRequest) (*pb.ListRecoveryPointsResponse, error) {
	var f fields
	item := f.item("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	list := "recovery points of " + item.String()
	before, err := s.pageStart(list, r.PageToken)
	if err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(item.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := v.item(item); err != nil {
		return nil, err
	}
	points, err := v.pointsBefore(item, before, size+1)
	if err == nil {
		err = s.fillKept(v, item, points...)
	}
	if err != nil {
		return nil, err
	}
	resp := &pb.ListRecoveryPointsResponse{RecoveryPoints: points[:min(size, len(points))]}
	if len(points) > size {
		last := new(fields).point("", points[size-1].Name)
		resp.NextPageToken = s.pageToken(list, last.Point)
	}
	return resp, nil
}

// ExtendRecoveryPoint keeps a point longer.
func (s *recoveryPointService) ExtendRecoveryPoint(ctx context.Context, r *pb.ExtendRecoveryPointRequest) (*pb.ExtendRecoveryPointResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	until := f.time("retain_until", r.RetainUntil)
	switch now := s.opts.Now(); {
	case r.RetainUntil == nil:
		f.add("retain_until", "must be given")
	case until.IsZero(): // is no time: told already
	case !until.After(now):
		f.add("retain_until", "%s is past; it must lie in the future", until.Format(time.RFC3339))
	case until.After(now.AddDate(99, 0, 0)):
		f.add("retain_until", "is %s; it must lie within 99 years", until.Format(time.RFC3339))
	}
	f.text("etag", r.Etag, 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	s.data.points.Lock()
	defer s.data.points.Unlock()
	p, sp, err := v.point(n)
	if err != nil {
		return nil, err
	}
	if err := checkPointEtag(p, r.Etag); err != nil {
		return nil, err
	}
	it, err := v.item(n.ItemName)
	if err == nil {
		err = notDeleted(it)
	}
	if err == nil {
		err = s.fillKept(v, n.ItemName, p)
	}
	if err != nil {
		return nil, err
	}
	// What is kept without an end may be given any date to come, but for the one it
	// was promised before.
	for _, t := range []*timestamppb.Timestamp{p.ExpireTime, p.RetainUntil} {
		if t != nil && until.Before(t.AsTime()) {
			return nil, invalidField("retain_until", "is %s, before the point's present expire_time %s; a point can only be kept longer",
				until.Format(time.RFC3339), t.AsTime().Format(time.RFC3339))
		}
	}
	p.RetainUntil = timestamppb.New(until)
	meta, err := encodePoint(p)
	if err != nil {
		return nil, err
	}
	if err := v.Store.UpdatePoint(ctx, sp.ID, meta); err != nil {
		return nil, err
	}
	if p, err = decodePoint(n, meta); err == nil {
		err = s.fillKept(v, n.ItemName, p)
	}
	if err != nil {
		return nil, err
	}
	return &pb.ExtendRecoveryPointResponse{RecoveryPoint: p}, nil
}

func checkPointEtag(p *pb.RecoveryPoint, etag string) error {
	if etag == "" || etag == p.Etag {
		return nil
	}
	return newError(pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH,
		"recovery point %q was changed since its etag %s was read; read it again", p.Name, quote(etag)).with("name", p.Name)
}

// DeleteRecoveryPoint removes a point.
func (s *recoveryPointService) DeleteRecoveryPoint(ctx context.Context, r *pb.DeleteRecoveryPointRequest) (*pb.DeleteRecoveryPointResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	f.text("etag", r.Etag, 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	s.data.points.Lock()
	defer s.data.points.Unlock()
	p, _, err := v.point(n)
	if err != nil {
		return nil, err
	}
	if err := checkPointEtag(p, r.Etag); err != nil {
		return nil, err
	}
	it, err := v.item(n.ItemName)
	if err == nil {
		err = notDeleted(it)
	}
	if err != nil {
		return nil, err
	}
	if m := v.stored(); isImmutable(m) {
		return nil, newError(pb.ErrorReason_ERROR_REASON_IMMUTABLE,
			"vault %q is immutable (%s): its recovery points cannot be deleted", v.Name, short(m.Immutability)).with("name", n.String())
	}
	if err := s.deletePoint(ctx, v, n, nil); err != nil {
		return nil, err
	}
	return &pb.DeleteRecoveryPointResponse{}, nil
}

// deletePoint removes a point, unless it is its item's newest or somebody reads
// it. may, unless nil, looks at the item as it is when that happens. The caller
// holds data.points.
func (s *Server) deletePoint(ctx context.Context, v *Vault, n PointName, may func(*pb.ProtectedItem) error) error {
	reopen, err := s.closePoint(n)
	if err != nil {
		return err
	}
	defer reopen()
	_, err = v.changeItem(ctx, n.ItemName, func(it *pb.ProtectedItem) error {
		if it.LatestRecoveryPoint == n.String() {
			return newError(pb.ErrorReason_ERROR_REASON_NEWEST_RECOVERY_POINT,
				"recovery point %q is the newest of its item, which is kept until the next successful backup", n).with("name", n.String())
		}
		if may != nil {
			if err := may(it); err != nil {
				return err
			}
		}
		it.RecoveryPointCount--
		return nil
	}, func(m blockstore.Mutation) error { return v.Store.DeletePoint(ctx, n.storeID(), m) })
	if errors.Is(err, blockstore.ErrNotFound) {
		return errPointNotFound(n)
	}
	return err
}

// LeaseRecoveryPoint keeps a point from being deleted while it is read.
func (s *recoveryPointService) LeaseRecoveryPoint(_ context.Context, r *pb.LeaseRecoveryPointRequest) (*pb.LeaseRecoveryPointResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	d := f.duration("duration", r.Duration, minPointLease, maxPointLease, defaultPointLease)
	f.text("holder", r.Holder, 256)
	f.text("lease_id", r.LeaseId, 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	id, expire, err := s.data.leases.take(n, r.LeaseId, r.Holder, d)
	if err != nil {
		return nil, err
	}
	// Only now, so that a point that is there is not deleted any more.
	if _, _, err := v.point(n); err != nil {
		_ = s.data.leases.release(n, id) // it may have run out meanwhile
		return nil, err
	}
	return &pb.LeaseRecoveryPointResponse{LeaseId: id, ExpireTime: timestamppb.New(expire)}, nil
}

// ReleaseRecoveryPoint gives a lease back.
func (s *recoveryPointService) ReleaseRecoveryPoint(_ context.Context, r *pb.ReleaseRecoveryPointRequest) (*pb.ReleaseRecoveryPointResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	if r.LeaseId == "" {
		f.add("lease_id", "must be given")
	}
	f.text("lease_id", r.LeaseId, 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := s.data.leases.release(n, r.LeaseId); err != nil {
		return nil, err
	}
	return &pb.ReleaseRecoveryPointResponse{}, nil
}
