package server

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// instanceSize is the protected size up to which one instance is charged.
const instanceSize = 500 << 30

// GetVaultUsage tells what the vault's storage takes and what is billed.
func (s *vaultService) GetVaultUsage(ctx context.Context, r *pb.GetVaultUsageRequest) (*pb.GetVaultUsageResponse, error) {
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
	st, err := v.Store.Stats()
	if err != nil {
		return nil, err
	}
	dir := v.Store.Info().Dir
	size, err := s.dirSize(ctx, dir)
	if err != nil {
		return nil, err
	}
	u := &pb.VaultUsage{
		RecoveryPointCount: int64(st.Points), BlockCount: int64(st.Blocks),
		StoredBytes: size, FreeBytes: -1,
	}
	if d, err := s.opts.FS.GetDiskUsage(dir); err == nil {
		u.FreeBytes = int64(d.AvailBytes)
	}
	for _, it := range v.itemsOf(func(*pb.ProtectedItem) bool { return true }) {
		u.Items = append(u.Items, itemUsage(it))
	}
	return &pb.GetVaultUsageResponse{Usage: u}, nil
}

// itemUsage is what one item is charged for. Charging begins with the first
// backup that succeeded, and ends when protection is stopped and all data gone.
func itemUsage(it *pb.ProtectedItem) *pb.ProtectedItemUsage {
	u := &pb.ProtectedItemUsage{
		ProtectedItem: it.Name, ProtectedBytes: it.ProtectedBytes,
		UniqueStoredBytes: -1, SharedStoredBytes: -1,
	}
	stopped := it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED
	switch {
	case it.LastBackupTime == nil:
		u.BillingState = pb.BillingState_BILLING_STATE_NOT_STARTED
	case stopped && it.RecoveryPointCount == 0:
		u.BillingState = pb.BillingState_BILLING_STATE_ENDED
	case stopped:
		u.BillingState = pb.BillingState_BILLING_STATE_RETAINED
	default:
		u.BillingState = pb.BillingState_BILLING_STATE_ACTIVE
	}
	if u.BillingState == pb.BillingState_BILLING_STATE_ACTIVE || u.BillingState == pb.BillingState_BILLING_STATE_RETAINED {
		u.Instances = max(1, (u.ProtectedBytes+instanceSize-1)/instanceSize)
	}
	return u
}

// endedUsage is the last line of an item's bill.
func endedUsage(it *pb.ProtectedItem, now time.Time) *pb.ProtectedItemUsage {
	return &pb.ProtectedItemUsage{
		ProtectedItem: it.Name, ProtectedBytes: it.ProtectedBytes, BillingState: pb.BillingState_BILLING_STATE_ENDED,
		BillingStartTime: orDefault(it.BillingStartTime, it.LastBackupTime), BillingEndTime: timestamppb.New(now),
	}
}

// dirSize is the size of all files below a directory, in bytes. Files that go
// meanwhile do not count.
func (s *Server) dirSize(ctx context.Context, dir string) (int64, error) {
	fs := s.opts.FS
	names, err := fs.List(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		switch {
		case err != nil:
		case info.IsDir():
			if n, err := s.dirSize(ctx, path); err == nil {
				sum += n
			}
		default:
			sum += info.Size()
		}
	}
	return sum, nil
}
