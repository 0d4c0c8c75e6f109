package server

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// The clients of a killedLife. Each has something of its own that nobody else
// changes, so that it knows at any time how that must be: as its last answered
// call made it. It looks before everything that it does.

// killedItem is an item, and what its client knows of it.
type killedItem struct {
	l             *killedLife
	name, machine string
	state         killedState
	policy        *killedPolicy
	purge         time.Time    // when its data goes, if it is deleted
	purged        []time.Time  // when it was seen to be gone
	spans         []killedSpan // when it was protected for sure
}

type killedState int

const (
	itemAbsent killedState = iota
	itemActive
	itemStopped
	itemDeleted
)

// killedSpan is a time during which an item was protected by a schedule; to is zero
// as long as that goes on.
type killedSpan struct {
	from, to time.Time
	schedule *pb.Schedule
}

func (it *killedItem) begin() {
	it.spans = append(it.spans, killedSpan{from: it.l.clock.Now(), schedule: it.policy.schedule})
}

func (it *killedItem) stop() {
	if n := len(it.spans); n > 0 && it.spans[n-1].to.IsZero() {
		it.spans[n-1].to = it.l.clock.Now()
	}
}

// look compares the item with what is known of it.
func (it *killedItem) look() {
	r, err := callKilled(it.l, it.l.w.items.GetProtectedItem, &pb.GetProtectedItemRequest{Name: it.name})
	if errors.Is(err, errOver) {
		return
	}
	i, gone := r.GetProtectedItem(), reasonIn(err) == pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND
	stopped := i.GetProtectionState() == pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED
	ok := err == nil
	switch it.state {
	case itemAbsent:
		ok = gone
	case itemActive:
		ok = ok && !stopped && i.DeleteTime == nil && i.Policy == it.policy.name && i.NextBackupTime != nil
	case itemStopped:
		ok = ok && stopped && i.DeleteTime == nil && i.NextBackupTime == nil
	case itemDeleted:
		ok = ok && stopped && i.DeleteTime != nil && i.PurgeTime.AsTime().Equal(it.purge)
		if now := it.l.clock.Now(); gone && !now.Before(it.purge) {
			it.state, it.purged, ok = itemAbsent, append(it.purged, now), true
		}
	}
	if !ok {
		it.l.fail("item %s should be in state %d: %v, %v", it.name, it.state, i, err)
	}
}

// act does something with the item, or tries what must be refused.
func (it *killedItem) act() {
	it.look()
	l, w := it.l, it.l.w
	chance := l.random(1000) // most of the time it is left to its schedule
	var err error
	var job *pb.Job
	refused := pb.ErrorReason_ERROR_REASON_UNSPECIFIED
	switch {
	case it.state == itemAbsent && chance < 500:
		it.policy = l.policies[l.random(len(l.policies))]
		_, err = twice(l, w.items.ProtectMachine, &pb.ProtectMachineRequest{
			Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: it.machine, Policy: it.policy.name}, RequestId: l.requestID(),
		})
		if err == nil {
			it.state = itemActive
			it.begin()
		}
	case it.state == itemAbsent:
		_, err = callKilled(l, w.items.BackUp, &pb.BackUpRequest{Name: it.name, RequestId: l.requestID()})
		refused = pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND
	case chance < 30:
		it.extend()
	case chance < 50:
		it.deletePoint()
	case chance < 80:
		it.verify()
	case it.state == itemActive && chance < 200:
		it.demand()
	case it.state == itemActive && chance < 250:
		it.cancel()
	case it.state == itemActive && chance < 270:
		it.stop()
		it.policy = l.policies[l.random(len(l.policies))]
		_, err = callKilled(l, w.items.UpdateProtectedItem, &pb.UpdateProtectedItemRequest{
			ProtectedItem: &pb.ProtectedItem{Name: it.name, Policy: it.policy.name}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"policy"}},
		})
		it.begin()
	case it.state == itemActive && chance < 300:
		_, err = callKilled(l, w.items.ResumeProtection, &pb.ResumeProtectionRequest{Name: it.name, RequestId: l.requestID()})
		refused = pb.ErrorReason_ERROR_REASON_PROTECTION_ACTIVE
	case it.state == itemActive && chance < 315:
		it.stop()
		job, err = it.stopProtection(pb.StopProtectionMode_STOP_PROTECTION_MODE_RETAIN_DATA, itemStopped)
	case it.state == itemStopped && chance < 180:
		var r *pb.ResumeProtectionResponse
		r, err = twice(l, w.items.ResumeProtection, &pb.ResumeProtectionRequest{Name: it.name, RequestId: l.requestID()})
		if job = r.GetJob(); err == nil {
			it.state = itemActive
			it.begin()
		}
	case it.state == itemStopped && chance < 315:
		_, err = callKilled(l, w.items.BackUp, &pb.BackUpRequest{Name: it.name, RequestId: l.requestID()})
		refused = pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED
	case it.state != itemDeleted && chance < 322:
		it.stop()
		job, err = it.stopProtection(pb.StopProtectionMode_STOP_PROTECTION_MODE_DELETE_DATA, itemDeleted)
	case it.state == itemDeleted && chance < 110:
		var r *pb.UndeleteProtectedItemResponse
		r, err = twice(l, w.items.UndeleteProtectedItem, &pb.UndeleteProtectedItemRequest{Name: it.name, RequestId: l.requestID()})
		if job = r.GetJob(); err == nil {
			it.state = itemStopped
		} else if reasonIn(err) == pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND && !l.clock.Now().Before(it.purge) {
			err = nil // too late
		}
	default:
		return
	}
	if r := reasonIn(err); r != refused && !errors.Is(err, errOver) {
		l.fail("item %s in state %d: refused with %v, want %v", it.name, it.state, err, refused)
	}
	if job != nil {
		l.note(job)
	}
	it.look()
}

func (it *killedItem) stopProtection(mode pb.StopProtectionMode, state killedState) (*pb.Job, error) {
	points, began := it.acknowledged(), it.l.clock.Now()
	r, err := twice(it.l, it.l.w.items.StopProtection, &pb.StopProtectionRequest{Name: it.name, Mode: mode, RequestId: it.l.requestID()})
	if err != nil {
		return nil, err
	}
	if it.state = state; state == itemDeleted {
		i, err := callKilled(it.l, it.l.w.items.GetProtectedItem, &pb.GetProtectedItemRequest{Name: it.name})
		if reasonIn(err) == pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND && len(points) == 0 {
			it.state, it.purged = itemAbsent, append(it.purged, it.l.clock.Now()) // there was nothing to keep
			return r.Job, nil
		}
		if err != nil {
			return nil, err
		}
		it.purge = i.ProtectedItem.PurgeTime.AsTime()
		if deleted := it.purge.AddDate(0, 0, -14); deleted.Before(began) || deleted.After(it.l.clock.Now()) {
			it.l.fail("item %s, deleted after %v, goes at %v", it.name, began, it.purge)
		}
	}
	return r.Job, nil
}

// acknowledged gives the points that agents were told of and that nobody asked to
// delete, oldest first.
func (it *killedItem) acknowledged() (known []*pb.RecoveryPoint) {
	gone := time.Time{}
	if n := len(it.purged); n > 0 {
		gone = it.purged[n-1]
	}
	n := &it.l.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.points {
		if _, asked := n.deleted[p.Name]; strings.HasPrefix(p.Name, it.name+"/") && !asked && p.CreateTime.AsTime().After(gone) {
			known = append(known, p)
		}
	}
	slices.SortFunc(known, func(a, b *pb.RecoveryPoint) int { return cmp.Compare(a.Name, b.Name) })
	return known
}

// note remembers a job that a server told of.
func (l *killedLife) note(j *pb.Job) {
	l.notes.mu.Lock()
	defer l.notes.mu.Unlock()
	l.notes.jobs[j.Name] = j
}

// demand backs the item up now.
func (it *killedItem) demand() {
	l := it.l
	r, err := twice(l, l.w.items.BackUp, &pb.BackUpRequest{
		Name: it.name, RequestId: l.requestID(), RetainUntil: timestamppb.New(l.clock.Now().Add(time.Duration(1+l.random(100)) * time.Hour)),
	})
	switch reasonIn(err) {
	case pb.ErrorReason_ERROR_REASON_UNSPECIFIED:
		if err == nil {
			l.note(r.Job)
			l.notes.mu.Lock()
			l.notes.asked[r.Job.Name] = true
			l.notes.mu.Unlock()
		}
	case pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS:
	default:
		l.fail("back up %s: %v", it.name, err)
	}
}

// cancel cancels what goes on, or retries what failed.
func (it *killedItem) cancel() {
	l := it.l
	r, err := callKilled(l, l.w.jobs.ListJobs, &pb.ListJobsRequest{Parent: vault, PageSize: 5, Filter: &pb.JobFilter{
		ProtectedItem: it.name, Operations: []pb.JobOperation{pb.JobOperation_JOB_OPERATION_BACKUP},
	}})
	if err != nil || len(r.Jobs) == 0 {
		return
	}
	switch j := r.Jobs[0]; {
	case len(j.Actions) == 0:
	case j.Actions[0] == pb.JobAction_JOB_ACTION_CANCEL:
		if _, err = callKilled(l, l.w.jobs.CancelJob, &pb.CancelJobRequest{Name: j.Name}); reasonIn(err) == pb.ErrorReason_ERROR_REASON_JOB_NOT_CANCELLABLE {
			err = nil // it has ended, or an answer got lost
		}
	default:
		var retry *pb.RetryJobResponse
		retry, err = twice(l, l.w.jobs.RetryJob, &pb.RetryJobRequest{Name: j.Name, RequestId: l.requestID()})
		if err == nil {
			l.note(retry.Job)
			l.notes.mu.Lock()
			l.notes.asked[retry.Job.Name] = true
			l.notes.mu.Unlock()
		}
		if reasonIn(err) == pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS {
			err = nil
		}
	}
	if err != nil && !errors.Is(err, errOver) {
		l.fail("cancel or retry %v: %v", r.Jobs[0], err)
	}
}

// aPoint gives one of the item's points, and the newest; nil if it has none.
func (it *killedItem) aPoint() (p, newest *pb.RecoveryPoint) {
	r, err := callKilled(it.l, it.l.w.points.ListRecoveryPoints, &pb.ListRecoveryPointsRequest{Parent: it.name})
	if err != nil || len(r.RecoveryPoints) == 0 {
		return nil, nil
	}
	return r.RecoveryPoints[it.l.random(len(r.RecoveryPoints))], r.RecoveryPoints[0]
}

// may is for calls about a point that was there a moment ago, and may be gone.
func (it *killedItem) may(err error, reasons ...pb.ErrorReason) bool {
	r := reasonIn(err)
	for _, ok := range append(reasons, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND) {
		if r == ok {
			return false
		}
	}
	if err != nil && !errors.Is(err, errOver) {
		it.l.fail("point of %s: %v", it.name, err)
	}
	return err == nil
}

func (it *killedItem) extend() {
	p, _ := it.aPoint()
	if p == nil {
		return
	}
	until := it.l.clock.Now()
	if e := p.ExpireTime.AsTime(); e.After(until) {
		until = e
	}
	until = until.Add(time.Duration(1+it.l.random(48)) * time.Hour)
	r, err := callKilled(it.l, it.l.w.points.ExtendRecoveryPoint, &pb.ExtendRecoveryPointRequest{Name: p.Name, RetainUntil: timestamppb.New(until)})
	if it.may(err, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED, pb.ErrorReason_ERROR_REASON_INVALID_FIELD) {
		it.l.notes.mu.Lock()
		defer it.l.notes.mu.Unlock()
		it.l.notes.points[p.Name] = r.RecoveryPoint
	}
}

func (it *killedItem) deletePoint() {
	p, newest := it.aPoint()
	if p == nil {
		return
	}
	l := it.l
	l.notes.mu.Lock()
	l.notes.deleted[p.Name] = l.notes.deleted[p.Name] || false
	l.notes.mu.Unlock()
	_, err := callKilled(l, l.w.points.DeleteRecoveryPoint, &pb.DeleteRecoveryPointRequest{Name: p.Name})
	if p == newest && err == nil && it.state != itemActive {
		l.fail("the newest point %s could be deleted", p.Name)
	}
	if it.may(err, pb.ErrorReason_ERROR_REASON_NEWEST_RECOVERY_POINT, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_IN_USE, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED) {
		l.notes.mu.Lock()
		defer l.notes.mu.Unlock()
		l.notes.deleted[p.Name] = true
	}
}

func (it *killedItem) verify() {
	if p, _ := it.aPoint(); p != nil {
		r, err := twice(it.l, it.l.w.points.Verify, &pb.VerifyRequest{Name: p.Name, RequestId: it.l.requestID()})
		if it.may(err, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED) {
			it.l.note(r.Job)
		}
	}
}

// killedPolicy is a policy whose schedule stays, and whose retention changes.
type killedPolicy struct {
	l        *killedLife
	name     string
	schedule *pb.Schedule
	now      *pb.Policy
}

// killedLeast is the least for which any policy keeps a scheduled point.
const killedLeast = 2 * 24 * time.Hour

func (p *killedPolicy) act() {
	l := p.l
	r, err := callKilled(l, l.w.policies.GetPolicy, &pb.GetPolicyRequest{Name: p.name})
	if err != nil || r.Policy.DisplayName != p.now.DisplayName || !proto.Equal(r.Policy.Retention, p.now.Retention) || !proto.Equal(r.Policy.Schedule, p.schedule) {
		if !errors.Is(err, errOver) {
			l.fail("policy %v, %v, want %v", r.GetPolicy(), err, p.now)
		}
		return
	}
	next := &pb.Policy{
		Name: p.name, DisplayName: fmt.Sprintf("version %d", l.random(1e6)),
		Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: int32(killedLeast.Hours()/24) + int32(l.random(3))}},
	}
	if l.random(3) == 0 {
		next.Retention.Weekly = &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 2}
	}
	if _, err := callKilled(l, l.w.policies.UpdatePolicy, &pb.UpdatePolicyRequest{
		Policy: next, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "retention"}},
	}); err != nil && !errors.Is(err, errOver) {
		l.fail("update %v: %v", next, err)
	}
	p.now = next
}

// vaultKeeper reclaims, asks for usage, and makes and deletes a vault.
func (l *killedLife) vaultKeeper() func() {
	made := ""
	return func() {
		var err error
		switch w := l.w; l.random(5) {
		case 0, 1:
			var r *pb.ReclaimVaultResponse
			r, err = twice(l, w.vaults.ReclaimVault, &pb.ReclaimVaultRequest{Name: vault, DryRun: l.random(3) == 0, RequestId: l.requestID()})
			if err == nil {
				l.note(r.Job)
			} else if reasonIn(err) == pb.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS {
				err = nil
			}
		case 2:
			_, err = callKilled(l, w.vaults.GetVaultUsage, &pb.GetVaultUsageRequest{Name: vault, StartTime: timestamppb.New(startEpoch)})
		case 3:
			_, err = callKilled(l, w.vaults.GetVaultSummary, &pb.GetVaultSummaryRequest{Name: vault})
		case 4:
			if made == "" {
				id := fmt.Sprintf("x%d", l.random(1e6))
				var r *pb.CreateVaultResponse
				if r, err = twice(l, w.vaults.CreateVault, &pb.CreateVaultRequest{Parent: sub, VaultId: id, RequestId: l.requestID()}); err == nil {
					made = r.Vault.Name
					_, err = twice(l, w.policies.CreatePolicy, &pb.CreatePolicyRequest{Parent: made, PolicyId: "p", RequestId: l.requestID()})
				}
				if err == nil {
					_, err = callKilled(l, w.policies.GetPolicy, &pb.GetPolicyRequest{Name: made + "/policies/p"})
				}
				break
			}
			// Its answer may have been lost.
			if _, err = callKilled(l, w.vaults.DeleteVault, &pb.DeleteVaultRequest{Name: made}); reasonIn(err) == pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND {
				err = nil
			}
			if _, gone := callKilled(l, w.vaults.GetVault, &pb.GetVaultRequest{Name: made}); reasonIn(gone) != pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND && !errors.Is(gone, errOver) {
				l.fail("vault %s was deleted: %v", made, gone)
			}
			made = ""
		}
		if err != nil && !errors.Is(err, errOver) {
			l.fail("vault: %v", err)
		}
	}
}
