package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// deleteData stops an item's protection and deletes its points: softly, so that
// they stay for as many days as the vault says at this moment; or for good, if
// soft delete is off, or if there are none.
func (s *Server) deleteData(ctx context.Context, v *Vault, n ItemName, k keep, answer func(*pb.Job) proto.Message) error {
	s.data.points.Lock() // as who deletes a single point
	defer s.data.points.Unlock()
	v.write.Lock()
	defer v.write.Unlock()
	old, err := v.item(n)
	if err != nil {
		return err
	}
	if err := notDeleted(old); err != nil {
		return err
	}
	ids, err := v.pointIDs(n)
	if err != nil {
		return err
	}
	m := v.stored()
	if len(ids) > 0 && isImmutable(m) {
		return newError(pb.ErrorReason_ERROR_REASON_IMMUTABLE,
			"vault %q is immutable (%s): the data of %q cannot be deleted; stop protection with its data retained", v.Name, short(m.Immutability), n).
			with("name", n.String())
	}
	d, err := s.newDeed(v, old, pb.JobOperation_JOB_OPERATION_DELETE_BACKUP_DATA, k, answer)
	if err != nil {
		return err
	}
	if len(ids) > 0 && !m.SoftDelete.GetDisabled() {
		now := s.opts.Now()
		it := proto.CloneOf(old)
		it.ProtectionState = pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED
		it.DeleteTime, it.UpdateTime = timestamppb.New(now), timestamppb.New(now)
		it.PurgeTime = timestamppb.New(now.AddDate(0, 0, int(softDelete(m.SoftDelete).RetentionDays)))
		err = v.putItem(ctx, n.Item, it, d.muts...)
	} else {
		free, used, reopen := s.closePoints(v.Name, ids)
		defer reopen()
		if len(used) > 0 {
			return errPointsInUse(n, len(free), used)
		}
		err = s.removeItem(ctx, v, n, old, ids, d.muts...)
	}
	if err == nil {
		s.done(v, d)
	}
	return err
}

// pointIDs gives the ids, in the store, of all points of an item, oldest first.
func (v *Vault) pointIDs(n ItemName) (ids []string, err error) {
	err = v.Store.Points(n.Item+"/", "", func(p blockstore.Point) bool {
		ids = append(ids, p.ID)
		return true
	})
	return ids, err
}

// closePoints closes points so that they can be deleted, until reopen. Those that
// somebody reads are not closed; used says why, in the order of ids.
func (s *Server) closePoints(v VaultName, ids []string) (free []string, used []*Error, reopen func()) {
	var all []func()
	for _, id := range ids {
		open, err := s.closePoint(v.pointOfStore(id))
		if err != nil {
			used = append(used, classify(err))
			continue
		}
		free, all = append(free, id), append(all, open)
	}
	return free, used, func() {
		for _, f := range all {
			f()
		}
	}
}

// errPointsInUse refuses to delete an item's data that somebody reads.
func errPointsInUse(n ItemName, free int, used []*Error) error {
	var holders []string
	for _, e := range used {
		for h := range strings.SplitSeq(e.Meta["holders"], "; ") {
			if h != "" && !slices.Contains(holders, h) && len(holders) < 10 {
				holders = append(holders, h)
			}
		}
	}
	return newError(pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE,
		"%d of the %d recovery points of %q are being read; of the first: %s", len(used), len(used)+free, n, used[0].Message).
		with("name", n.String()).with("holders", strings.Join(holders, "; ")).with("count", fmt.Sprint(len(used)))
}

// removeItem removes an item and its points for good, all at once with more, and
// leaves a line for the bill. ids are all its points. write is held.
func (s *Server) removeItem(ctx context.Context, v *Vault, n ItemName, it *pb.ProtectedItem, ids []string, more ...blockstore.Mutation) error {
	more = append(more, blockstore.Mutation{Key: itemPrefix + n.Item, Delete: true})
	if it.LastBackupTime != nil {
		m, err := recordMutation(endedPrefix+it.Uid, endedUsage(it, s.opts.Now()))
		if err != nil {
			return err
		}
		more = append(more, m)
	}
	if err := v.Store.DeletePoints(ctx, ids, more...); err != nil {
		return err
	}
	v.mu.Lock()
	delete(v.items, n.Item)
	v.mu.Unlock()
	s.vaults.mu.Lock()
	defer s.vaults.mu.Unlock()
	if s.vaults.machines[it.Machine] == n {
		delete(s.vaults.machines, it.Machine)
	}
	return nil
}

// purgeDeleted is the chore that removes for good what was soft-deleted long
// enough. It also makes up for what a stop of the server left undone.
func (s *Server) purgeDeleted(ctx context.Context, now time.Time) (next time.Time, err error) {
	next = now.Add(time.Hour)
	for _, v := range s.vaults.all() {
		release, unavailable := v.use()
		if unavailable != nil {
			continue // it is looked at when it is there again
		}
		s.tellAll(v)
		err = errors.Join(err, s.forgetEnded(ctx, v, now))
		for _, it := range v.itemsOf(func(it *pb.ProtectedItem) bool { return it.PurgeTime != nil }) {
			if at := it.PurgeTime.AsTime(); at.After(now) {
				if at.Before(next) {
					next = at
				}
				continue
			}
			ids, _ := splitName(it.Name, itemPattern, false)
			if e := s.purge(ctx, v, ItemName{v.Name, ids[2]}, now); e != nil {
				err = errors.Join(err, fmt.Errorf("purge %s: %w", it.Name, e))
			}
		}
		release()
	}
	return next, err
}

// purge removes a soft-deleted item whose time has come; points that somebody
// reads, and the item with them, stay until the next time.
func (s *Server) purge(ctx context.Context, v *Vault, n ItemName, now time.Time) error {
	s.data.points.Lock()
	defer s.data.points.Unlock()
	v.write.Lock()
	defer v.write.Unlock()
	old, err := v.item(n)
	if err != nil || old.DeleteTime == nil || old.PurgeTime.AsTime().After(now) {
		return nil // undeleted meanwhile, or gone
	}
	ids, err := v.pointIDs(n)
	if err != nil {
		return err
	}
	free, used, reopen := s.closePoints(v.Name, ids)
	defer reopen()
	switch {
	case len(used) == 0:
		if err = s.removeItem(ctx, v, n, old, ids); err == nil {
			s.auditSelf(auditPurge, n.String(), fmt.Sprintf("deleted at %s, with %d recovery points", old.DeleteTime.AsTime().Format(time.RFC3339), len(ids)))
			s.log.Info("a deleted item is gone for good", "item", n.String(), "points", len(ids))
		}
		return err
	case len(free) == 0:
		return nil
	}
	it := proto.CloneOf(old)
	it.RecoveryPointCount = int64(len(used))
	for _, id := range ids {
		if !slices.Contains(free, id) {
			it.LatestRecoveryPoint = v.Name.pointOfStore(id).String()
		}
	}
	m, err := recordMutation(itemPrefix+n.Item, it)
	if err != nil {
		return err
	}
	if err := v.Store.DeletePoints(ctx, free, m); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.items[n.Item] = it
	return nil
}

// keepEnded is for how long the bill tells of items that are gone.
const keepEnded = 400 * 24 * time.Hour

// ended gives what is left of items that are gone for good, by time of their end.
func (v *Vault) ended() ([]*pb.ProtectedItemUsage, error) {
	all := map[string]*pb.ProtectedItemUsage{}
	if err := loadRecords(v.Store, endedPrefix, all); err != nil {
		return nil, err
	}
	out := make([]*pb.ProtectedItemUsage, 0, len(all))
	for _, uid := range sortedKeys(all) {
		out = append(out, all[uid])
	}
	slices.SortStableFunc(out, func(a, b *pb.ProtectedItemUsage) int {
		return a.BillingEndTime.AsTime().Compare(b.BillingEndTime.AsTime())
	})
	return out, nil
}

// forgetEnded removes what is left of items that ended long ago.
func (s *Server) forgetEnded(ctx context.Context, v *Vault, now time.Time) error {
	var old []blockstore.Mutation
	var bad error
	err := v.Store.Records(endedPrefix, "", func(key string, value []byte) bool {
		u := new(pb.ProtectedItemUsage)
		bad = catalog.DecodeProto(value, u)
		if now.Sub(u.BillingEndTime.AsTime()) > keepEnded {
			old = append(old, blockstore.Mutation{Key: key, Delete: true})
		}
		return bad == nil
	})
	if err = errors.Join(err, bad); err != nil || len(old) == 0 {
		return err
	}
	return v.Store.Apply(ctx, old...)
}
