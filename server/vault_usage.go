package server

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

// The steps of the protected size: up to smallInstance one instance is charged at
// the small rate, up to fullInstance one at the full rate, and one more for every
// further fullInstance that is begun.
const (
	smallInstance = 50 << 30
	fullInstance  = 500 << 30
)

// usageWait is for how long a call waits until the stored bytes of items are
// found out. That goes on, so that a later call has them.
const usageWait = 10 * time.Second

// GetVaultUsage tells what the vault's storage takes and what is billed.
func (s *vaultService) GetVaultUsage(ctx context.Context, r *pb.GetVaultUsageRequest) (*pb.GetVaultUsageResponse, error) {
	var f fields
	n := f.vault("name", r.Name)
	from, to := f.usageDays(r, s.opts.Now())
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
	size, free, err := s.vaultBytes(ctx, v)
	if err != nil {
		return nil, err
	}
	u := &pb.VaultUsage{
		RecoveryPointCount: int64(st.Points), BlockCount: int64(st.Blocks), PlainBytes: int64(st.PlainBytes),
		StoredBytes: size, FreeBytes: free,
	}
	wait, cancel := context.WithTimeout(ctx, usageWait)
	defer cancel()
	bytes, err := s.itemBytes(wait, v)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil { // too large, or damaged: all else is known
		s.log.Warn("stored bytes of items not known", "vault", v.Name.String(), "error", err)
		bytes = nil
	}
	if u.Items, err = v.itemUsages(bytes); err != nil {
		return nil, err
	}
	if !from.IsZero() {
		if u.Days, err = v.usageDays(from, to); err != nil {
			return nil, err
		}
	}
	return &pb.GetVaultUsageResponse{Usage: u}, nil
}

// vaultBytes is what a vault's directory takes, and what is free beside it; -1 if
// that is not known.
func (s *Server) vaultBytes(ctx context.Context, v *Vault) (size, free int64, err error) {
	dir := v.Store.Info().Dir
	free = -1
	if d, err := s.opts.FS.GetDiskUsage(dir); err == nil {
		free = int64(d.AvailBytes)
	}
	size, err = s.dirSize(ctx, dir)
	return size, free, err
}

// itemUsages is the bill of a vault: its items by id, then those that are gone.
// bytes are the stored bytes of items by id; nil if they are not known.
func (v *Vault) itemUsages(bytes map[string]blockstore.GroupUsage) ([]*pb.ProtectedItemUsage, error) {
	ended, err := v.ended() // first: so an item that goes now is there twice rather than not at all
	if err != nil {
		return nil, err
	}
	var out []*pb.ProtectedItemUsage
	for _, it := range v.itemsOf(func(*pb.ProtectedItem) bool { return true }) {
		u := itemUsage(it)
		b, ok := bytes[it.Name[strings.LastIndexByte(it.Name, '/')+1:]]
		if ok || bytes != nil && it.RecoveryPointCount == 0 {
			u.UniqueStoredBytes, u.SharedStoredBytes = b.UniqueBytes, b.SharedBytes
		}
		out = append(out, u)
	}
	return append(out, ended...), nil
}

// itemUsage is what one item is charged for. Charging begins with the first
// backup that succeeded, goes on while any of the data is kept, and ends when
// protection is stopped and all data gone. An item's newest point stays as long as
// the item, so that the end comes with the item's: see endedUsage.
func itemUsage(it *pb.ProtectedItem) *pb.ProtectedItemUsage {
	u := &pb.ProtectedItemUsage{
		ProtectedItem: it.Name, ProtectedBytes: it.ProtectedBytes, RecoveryPointCount: it.RecoveryPointCount,
		UniqueStoredBytes: -1, SharedStoredBytes: -1,
		BillingStartTime: orDefault(it.BillingStartTime, it.LastBackupTime),
	}
	switch {
	case it.LastBackupTime == nil:
		u.BillingState = pb.BillingState_BILLING_STATE_NOT_STARTED
		return u
	case !isStopped(it):
		u.BillingState = pb.BillingState_BILLING_STATE_ACTIVE
	case it.RecoveryPointCount > 0:
		u.BillingState = pb.BillingState_BILLING_STATE_RETAINED
	default:
		u.BillingState, u.BillingEndTime = pb.BillingState_BILLING_STATE_ENDED, it.UpdateTime
		return u
	}
	u.Instances = max(1, (u.ProtectedBytes+fullInstance-1)/fullInstance)
	u.SmallRate = u.ProtectedBytes <= smallInstance
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
