package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/policy"
)

// keeping is what decides how long the points of an item are kept: the item, its
// policy and the time, as they are together at one moment. Nothing of it is in the
// points themselves, so that a change of policy, or a stop of protection, tells on
// all of them at once.
type keeping struct {
	item   *pb.ProtectedItem
	policy *pb.Policy // nil if it is gone
	now    time.Time
}

func (s *Server) keeping(v *Vault, it *pb.ProtectedItem) keeping {
	return keeping{it, v.pointPolicy(it), s.opts.Now()}
}

// fillKept is keeping.fill for points of an item.
func (s *Server) fillKept(v *Vault, n ItemName, points ...*pb.RecoveryPoint) error {
	it, err := v.item(n)
	if err != nil {
		return err
	}
	k := s.keeping(v, it)
	for _, p := range points {
		k.fill(p)
	}
	return nil
}

// paused says whether nothing of the item is pruned, whatever its policy says.
func (k keeping) paused() bool {
	switch k.item.ProtectionState {
	case pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED, pb.ProtectionState_PROTECTION_STATE_PROTECTION_PAUSED:
		return true
	}
	return k.item.DeleteTime != nil
}

// newest says whether a point is the item's newest: ids sort by time.
func (k keeping) newest(p *pb.RecoveryPoint) bool { return p.Name >= k.item.LatestRecoveryPoint }

// until is how long a point is kept on its own account.
func (k keeping) until(p *pb.RecoveryPoint) policy.Kept {
	return policy.Keep(k.policy, policyPoint(p))
}

// policyPoint is a point as retention sees it.
func policyPoint(p *pb.RecoveryPoint) policy.Point {
	pt := policy.Point{Snapshot: p.SnapshotTime.AsTime()}
	if p.ScheduleTime != nil {
		pt.Slot = p.ScheduleTime.AsTime()
	}
	if p.RetainUntil != nil {
		pt.RetainUntil = p.RetainUntil.AsTime()
	}
	return pt
}

// fill tells in a point's message until when it is kept, and why.
func (k keeping) fill(p *pb.RecoveryPoint) {
	kept := k.until(p)
	switch {
	case k.paused():
		p.ExpireTime, p.RetentionRule = nil, pb.RetentionRule_RETENTION_RULE_PROTECTION_STOPPED
	case k.newest(p) && !kept.Until.After(k.now):
		p.ExpireTime, p.RetentionRule = nil, pb.RetentionRule_RETENTION_RULE_NEWEST
	default:
		p.ExpireTime, p.RetentionRule = timestamppb.New(kept.Until), kept.Rule
	}
}

// pruned is what pruneExpired knows of an item since it looked last. Records are
// replaced when they change, never changed: so while they are the same ones,
// nothing can expire before next.
type pruned struct {
	item   *pb.ProtectedItem
	policy *pb.Policy
	next   time.Time
}

// pruneAgain is when a point that could not be deleted, as somebody reads it, is
// tried again.
const pruneAgain = time.Minute

// pruneExpired is the chore that deletes the points that nothing keeps any more.
// An item whose points cannot be read is left alone, and does not hinder others.
func (s *Server) pruneExpired(ctx context.Context, now time.Time) (next time.Time, err error) {
	known := map[ItemName]pruned{}
	for _, v := range s.vaults.all() {
		release, unavailable := v.use()
		if unavailable != nil {
			continue // it is told elsewhere; the points wait
		}
		for _, it := range v.itemsOf(func(*pb.ProtectedItem) bool { return true }) {
			ids, _ := splitName(it.Name, itemPattern, false)
			n := ItemName{v.Name, ids[2]}
			k := keeping{it, v.pointPolicy(it), now}
			if k.paused() || ctx.Err() != nil {
				continue
			}
			p, ok := s.pruned[n]
			if !ok || p.item != it || p.policy != k.policy || !now.Before(p.next) {
				var e error
				if p, e = s.pruneItem(ctx, v, n, k); e != nil {
					err = errors.Join(err, fmt.Errorf("prune %s: %w", n, e))
					continue
				}
			}
			known[n] = p
			if next.IsZero() || p.next.Before(next) {
				next = p.next
			}
		}
		release()
	}
	s.pruned = known
	return next, err
}

// errKept says that a point is kept after all.
var errKept = errors.New("the point is kept")

// pruneItem deletes what has expired of one item. It goes through the points one
// by one, oldest first, and never comes to the last of them: whatever records and
// clocks say, that one stays.
func (s *Server) pruneItem(ctx context.Context, v *Vault, n ItemName, k keeping) (pruned, error) {
	done := pruned{k.item, k.policy, k.now.AddDate(1, 0, 0)}
	wait := func(t time.Time) {
		if t.Before(done.next) {
			done.next = t
		}
	}
	var before *pb.RecoveryPoint
	var bad error
	err := v.Store.Points(n.Item+"/", "", func(sp blockstore.Point) bool {
		var p *pb.RecoveryPoint
		if p, bad = decodePoint(v.Name.pointOfStore(sp.ID), sp.Meta); bad != nil || ctx.Err() != nil {
			return false
		}
		p, before = before, p
		if p == nil || k.newest(p) {
			return true
		}
		if kept := k.until(p); kept.Until.After(k.now) {
			wait(kept.Until)
			return true
		}
		if e := s.prune(ctx, v, p, k.now); e != nil {
			wait(k.now.Add(pruneAgain))
			switch reason := classify(e).Reason; {
			case errors.Is(e, errKept), reason == pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE,
				reason == pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND: // somebody was faster, or still reads it
			default:
				bad = e
			}
		}
		return bad == nil
	})
	return done, errors.Join(err, bad, ctx.Err())
}

// prune deletes a point that has expired, if that is still so.
func (s *Server) prune(ctx context.Context, v *Vault, p *pb.RecoveryPoint, now time.Time) error {
	n := new(fields).point("", p.Name)
	s.data.points.Lock() // as who extends a point
	defer s.data.points.Unlock()
	p, _, err := v.point(n)
	if err != nil {
		return err
	}
	var kept policy.Kept
	err = s.deletePoint(ctx, v, n, func(it *pb.ProtectedItem) error {
		k := keeping{it, v.pointPolicy(it), now} // Vault.write is held: this is how it is
		if kept = k.until(p); k.paused() || k.newest(p) || kept.Until.After(now) {
			return errKept
		}
		return nil
	})
	if err == nil {
		s.auditSelf(auditPrune, n.String(), fmt.Sprintf("kept by %s until %s", kept.Rule, kept.Until.UTC().Format(time.RFC3339)))
		s.log.Info("a recovery point has expired and was pruned", "point", n.String(), "rule", kept.Rule.String(),
			"expired", kept.Until.Format(time.RFC3339), "snapshot", p.SnapshotTime.AsTime().Format(time.RFC3339))
	}
	return err
}
