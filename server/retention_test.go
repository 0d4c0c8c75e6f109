package server

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// clockWorld is a world with the item web1 whose server has a clock of ours and
// does what it does of itself when told to.
type clockWorld struct {
	*world
	now   time.Time // for the test; set changes it
	clock atomic.Int64
	log   strings.Builder
}

func (w *clockWorld) set(now time.Time) {
	w.now = now
	w.clock.Store(now.UnixNano())
}

func newClockWorld(t *testing.T, now string) *clockWorld {
	w := &clockWorld{}
	w.set(utc(t, now))
	opts := inMemory()
	opts.Unattended, opts.Now = true, func() time.Time { return time.Unix(0, w.clock.Load()).UTC() }
	opts.Logger = slog.New(slog.NewTextHandler(&w.log, nil))
	w.world = dataWorld(t, opts)
	return w
}

func utc(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// put stores a point of web1 without disks, and gives its name. slot and retain
// may be zero.
func (w *clockWorld) put(snapshot, slot, retain time.Time) string {
	w.t.Helper()
	p := &pb.RecoveryPoint{Uid: "u", SnapshotTime: timestamppb.New(snapshot), CreateTime: timestamppb.New(w.now)}
	if !slot.IsZero() {
		p.ScheduleTime = timestamppb.New(slot)
	}
	if !retain.IsZero() {
		p.RetainUntil = timestamppb.New(retain)
	}
	return w.putStored(p)
}

func (w *clockWorld) putStored(p *pb.RecoveryPoint) string {
	w.t.Helper()
	v, item := w.vaultAndItem()
	id, err := newPointID(p.SnapshotTime.AsTime(), w.s.opts.Rand)
	if err != nil {
		w.t.Fatal(err)
	}
	n := PointName{item, id}
	meta, err := catalog.EncodeProto(p)
	if err != nil {
		w.t.Fatal(err)
	}
	u, err := v.Store.StartUpload("test")
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = v.changeItem(w.ctx, item, func(it *pb.ProtectedItem) error {
		it.LatestRecoveryPoint = max(it.LatestRecoveryPoint, n.String())
		it.RecoveryPointCount++
		return nil
	}, func(m blockstore.Mutation) error {
		return u.Commit(w.ctx, blockstore.Point{ID: n.storeID(), Meta: meta}, m)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n.String()
}

func (w *clockWorld) vaultAndItem() (*Vault, ItemName) {
	w.t.Helper()
	item := new(fields).item("", item1)
	v, err := w.s.vaults.find(item.VaultName)
	if err != nil {
		w.t.Fatal(err)
	}
	return v, item
}

// scheduled stores points that runs made at once.
func (w *clockWorld) scheduled(runs ...string) (names []string) {
	w.t.Helper()
	for _, r := range runs {
		at := utc(w.t, r)
		names = append(names, w.put(at, at, time.Time{}))
	}
	return names
}

func (w *clockWorld) get(name string) *pb.RecoveryPoint {
	w.t.Helper()
	return must[*pb.GetRecoveryPointResponse](w.t)(w.points.GetRecoveryPoint(w.ctx, &pb.GetRecoveryPointRequest{Name: name})).RecoveryPoint
}

// list gives the points of web1, oldest first.
func (w *clockWorld) list() (points []*pb.RecoveryPoint) {
	w.t.Helper()
	r := &pb.ListRecoveryPointsRequest{Parent: item1, PageSize: 1000}
	for {
		l := must[*pb.ListRecoveryPointsResponse](w.t)(w.points.ListRecoveryPoints(w.ctx, r))
		points = append(points, l.RecoveryPoints...)
		if r.PageToken = l.NextPageToken; r.PageToken == "" {
			slices.Reverse(points)
			return points
		}
	}
}

// wantKept checks what a point says of its end; until "" is none.
func (w *clockWorld) wantKept(name, until string, rule pb.RetentionRule) {
	w.t.Helper()
	p := w.get(name)
	if until == "" && p.ExpireTime != nil || until != "" && !p.ExpireTime.AsTime().Equal(utc(w.t, until)) || p.RetentionRule != rule {
		w.t.Errorf("%s is kept until %v by %v, not until %q by %v", name, p.ExpireTime.AsTime(), p.RetentionRule, until, rule)
	}
}

// prune does what retention has to do, and nothing else of what is due.
func (w *clockWorld) prune() { w.s.do(w.ctx, w.s.chores[choreRetention]) }

// tendAt prunes at a time, and checks what points are left, and that they are
// counted.
func (w *clockWorld) tendAt(at string, left ...string) {
	w.t.Helper()
	w.set(utc(w.t, at))
	w.prune()
	w.wantLeft(left...)
}

func (w *clockWorld) wantLeft(left ...string) {
	w.t.Helper()
	var got []string
	for _, p := range w.list() {
		got = append(got, p.Name)
	}
	if !slices.Equal(got, left) {
		w.t.Errorf("at %v these points are left:\n%q, not\n%q", w.now, got, left)
	}
	it := must[*pb.GetProtectedItemResponse](w.t)(w.items.GetProtectedItem(w.ctx, &pb.GetProtectedItemRequest{Name: item1})).ProtectedItem
	if int(it.RecoveryPointCount) != len(left) {
		w.t.Errorf("%d points are counted, not %d", it.RecoveryPointCount, len(left))
	}
}

// retain gives the policy another retention.
func (w *clockWorld) retain(r *pb.Retention) error {
	_, err := w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{
		Policy: &pb.Policy{Name: daily, Retention: r}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"retention"}}})
	return err
}

func dailyFor(days int32) *pb.Retention {
	return &pb.Retention{Daily: &pb.DailyRetention{Days: days}}
}

const (
	byDaily   = pb.RetentionRule_RETENTION_RULE_DAILY
	byWeekly  = pb.RetentionRule_RETENTION_RULE_WEEKLY
	byDate    = pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL
	byNewest  = pb.RetentionRule_RETENTION_RULE_NEWEST
	byStop    = pb.RetentionRule_RETENTION_RULE_PROTECTION_STOPPED
	byNothing = pb.RetentionRule_RETENTION_RULE_UNSPECIFIED
)

// TestPolicyChangeTellsOnPoints: 2026-03-01 is a Sunday.
func TestPolicyChangeTellsOnPoints(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	p := w.scheduled("2026-03-01 22:00", "2026-03-02 22:00", "2026-03-03 22:00")
	w.wantKept(p[0], "2026-03-31 22:00", byDaily)
	w.wantKept(p[2], "2026-04-02 22:00", byDaily)
	etag := w.get(p[0]).Etag
	if err := w.retain(dailyFor(60)); err != nil {
		t.Fatal(err)
	}
	w.wantKept(p[0], "2026-04-30 22:00", byDaily)
	if err := w.retain(&pb.Retention{Daily: &pb.DailyRetention{Days: 1},
		Weekly: &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 2}}); err != nil {
		t.Fatal(err)
	}
	w.wantKept(p[0], "2026-03-15 22:00", byWeekly)
	w.wantKept(p[1], "2026-03-03 22:00", byDaily) // gone with the next clean-up
	w.wantKept(p[2], "2026-03-04 22:00", byDaily)
	if got := w.get(p[0]).Etag; got != etag {
		t.Errorf("the point's etag changed with its policy, from %s to %s", etag, got)
	}
	w.tendAt("2026-03-04 12:00", p[0], p[2])
	w.tendAt("2026-03-04 22:00", p[0], p[2])
	w.wantKept(p[2], "", byNewest)
	w.tendAt("2026-03-15 21:59", p[0], p[2])
	w.tendAt("2026-03-15 22:00", p[2])
	w.tendAt("2099-01-01 00:00", p[2])
	if s := w.log.String(); strings.Count(s, "was pruned") != 2 || !strings.Contains(s, byWeekly.String()) || !strings.Contains(s, p[1]) {
		t.Errorf("the log does not tell what was pruned and what had kept it:\n%s", s)
	}
	if err := w.retain(&pb.Retention{Weekly: &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 1}}); err != nil {
		t.Fatal(err)
	}
	w.wantKept(p[2], "", byNewest)
	last := w.scheduled("2099-01-01 00:00")[0]
	w.wantKept(p[2], "2026-03-03 22:00", byNothing)
	w.tendAt("2099-01-01 00:00", last)
}

// TestNewestStays: whatever clocks and records say.
func TestNewestStays(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	same := w.scheduled("2026-01-01 22:00", "2026-01-01 22:00", "2026-01-01 22:00")
	slices.Sort(same)
	w.tendAt("2026-03-04 12:00", same[2])
	w.wantKept(same[2], "", byNewest)
	// Made now, of a time before the one that is there: it is not the newest.
	w.scheduled("2025-12-01 22:00")
	w.tendAt("2026-03-04 12:00", same[2])
	// A record that does not know the newest, or a newer one that is not there,
	// never costs the last point.
	v, item := w.vaultAndItem()
	for i, latest := range []string{"", item1 + "/recoveryPoints/p99991231t000000-000aaa"} {
		newest := w.scheduled(fmt.Sprintf("2026-01-0%d 22:00", 2+i))[0]
		if _, err := v.changeItem(w.ctx, item, func(it *pb.ProtectedItem) error { it.LatestRecoveryPoint = latest; return nil }, nil); err != nil {
			t.Fatal(err)
		}
		w.prune()
		if points := w.list(); points[len(points)-1].Name != newest {
			t.Errorf("with %q as the newest, %v are left", latest, points)
		}
	}
}

func TestPruneWaitsForReaders(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	p := w.scheduled("2026-02-01 22:00", "2026-02-02 22:00", "2026-03-03 22:00")
	must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx,
		&pb.LeaseRecoveryPointRequest{Name: p[0], Holder: "mount", Duration: durationpb.New(time.Hour)}))
	w.tendAt("2026-03-04 12:59", p[0], p[1], p[2])
	if err := w.retain(dailyFor(30)); err != nil {
		t.Fatal(err)
	}
	w.tendAt("2026-03-04 12:59", p[0], p[1], p[2])
	if err := w.retain(dailyFor(29)); err != nil {
		t.Fatal(err)
	}
	w.tendAt("2026-03-04 12:59", p[0], p[2])
	w.tendAt("2026-03-04 13:00", p[2])
}

func TestProtectionStoppedPausesPruning(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	p := w.scheduled("2026-02-01 22:00", "2026-03-03 22:00")
	v, item := w.vaultAndItem()
	set := func(state pb.ProtectionState, deleted *timestamppb.Timestamp) {
		t.Helper()
		if _, err := v.changeItem(w.ctx, item, func(it *pb.ProtectedItem) error {
			it.ProtectionState, it.DeleteTime = state, deleted
			return nil
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED, nil)
	w.wantKept(p[0], "", byStop)
	w.tendAt("2026-06-01 00:00", p...)
	set(pb.ProtectionState_PROTECTION_STATE_PROTECTED, timestamppb.New(w.now))
	w.wantKept(p[0], "", byStop)
	w.tendAt("2026-06-01 00:00", p...)
	// Any date to come is good for what is kept without an end, but the one that it
	// had before.
	until := func(at string) error {
		_, err := w.points.ExtendRecoveryPoint(w.ctx, &pb.ExtendRecoveryPointRequest{Name: p[0], RetainUntil: timestamppb.New(utc(t, at))})
		return err
	}
	set(pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED, nil)
	wantField(t, until("2026-05-31 00:00"), "retain_until")
	if err := until("2026-08-01 00:00"); err != nil {
		t.Error(err)
	}
	wantField(t, until("2026-07-31 00:00"), "retain_until")
	w.wantKept(p[0], "", byStop)
	set(pb.ProtectionState_PROTECTION_STATE_PROTECTED, nil)
	w.wantKept(p[0], "2026-08-01 00:00", byDate)
	w.tendAt("2026-07-31 23:59", p...)
	w.tendAt("2026-08-01 00:00", p[1])
}

func TestRetainUntil(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	d := newTestDisk("vda", blockSize)
	asked := w.backUp("", w.now, []*testDisk{d}, nil).Name
	w.wantKept(asked, "2026-04-03 12:00", byDate)
	p := w.scheduled("2026-03-04 22:00", "2026-03-05 22:00")
	extend := func(name, at string) error {
		_, err := w.points.ExtendRecoveryPoint(w.ctx, &pb.ExtendRecoveryPointRequest{Name: name, RetainUntil: timestamppb.New(utc(t, at))})
		return err
	}
	wantField(t, extend(p[0], "2026-04-03 21:59"), "retain_until") // the policy keeps it that long
	if err := extend(p[0], "2026-04-04 00:00"); err != nil {
		t.Fatal(err)
	}
	w.wantKept(p[0], "2026-04-04 00:00", byDate)
	// What was asked for is not the policy's business; what was extended is still.
	if err := w.retain(dailyFor(31)); err != nil {
		t.Fatal(err)
	}
	w.wantKept(asked, "2026-04-03 12:00", byDate)
	w.wantKept(p[0], "2026-04-04 22:00", byDaily)
	w.tendAt("2026-04-03 12:00", p...)
	w.tendAt("2026-04-04 22:00", p[1])
	w.tendAt("2026-04-05 22:00", p[1])
	if err := extend(p[1], "2026-04-05 22:01"); err != nil { // kept as the newest: any date
		t.Fatal(err)
	}
	w.wantKept(p[1], "2026-04-05 22:01", byDate)
}

// TestPointsStoredWithTheirExpiry: points from before have it in their records.
func TestPointsStoredWithTheirExpiry(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	at, until := timestamppb.New(utc(t, "2026-03-01 10:00")), timestamppb.New(utc(t, "2026-03-20 00:00"))
	asked := w.putStored(&pb.RecoveryPoint{SnapshotTime: at, ExpireTime: until, RetentionRule: byDate})
	made := w.putStored(&pb.RecoveryPoint{SnapshotTime: at, ExpireTime: until, RetentionRule: byDaily})
	w.scheduled("2026-03-02 22:00")
	w.wantKept(asked, "2026-03-20 00:00", byDate)
	w.wantKept(made, "2026-03-31 10:00", byDaily)
	if p := w.get(asked); p.RetainUntil.AsTime() != until.AsTime() || p.ScheduleTime != nil {
		t.Errorf("the point that was asked for is read as %v", p)
	}
	if _, err := w.points.ExtendRecoveryPoint(w.ctx, &pb.ExtendRecoveryPointRequest{Name: made, RetainUntil: timestamppb.New(utc(t, "2026-05-01 00:00"))}); err != nil {
		t.Fatal(err)
	}
	w.wantKept(made, "2026-05-01 00:00", byDate)
	if err := w.retain(dailyFor(90)); err != nil {
		t.Fatal(err)
	}
	w.wantKept(made, "2026-05-30 10:00", byDaily)
}

// TestImmutableVault: retention is not shortened, by whatever way, and what has
// expired goes all the same.
func TestImmutableVault(t *testing.T) {
	w := newClockWorld(t, "2026-03-04 12:00")
	p := w.scheduled("2026-02-01 22:00", "2026-03-03 22:00")
	must[*pb.UpdateVaultResponse](t)(w.vaults.UpdateVault(w.ctx, &pb.UpdateVaultRequest{
		Vault:      &pb.Vault{Name: vault, Immutability: pb.Immutability_IMMUTABILITY_LOCKED},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"immutability"}},
	}))
	immutable := func(err error) {
		t.Helper()
		wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
	}
	immutable(w.retain(dailyFor(29)))
	_, err := w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule"}},
		Policy: &pb.Policy{Name: daily, Schedule: &pb.Schedule{TimeZone: "Asia/Tokyo", Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{}}}}}})
	immutable(err)
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "short", Policy: &pb.Policy{Retention: dailyFor(7)}}))
	_, err = w.items.UpdateProtectedItem(w.ctx, &pb.UpdateProtectedItemRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"policy"}},
		ProtectedItem: &pb.ProtectedItem{Name: item1, Policy: vault + "/policies/short"}})
	immutable(err)
	w.wantKept(p[1], "2026-04-02 22:00", byDaily)
	// Another time of the day in the same zone takes nothing, and more is welcome.
	before := must[*pb.GetPolicyResponse](t)(w.policies.GetPolicy(w.ctx, &pb.GetPolicyRequest{Name: daily})).Policy
	if before.ScheduleUpdateTime != nil {
		t.Errorf("the schedule was changed at %v", before.ScheduleUpdateTime.AsTime())
	}
	after := must[*pb.UpdatePolicyResponse](t)(w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule", "retention"}},
		Policy: &pb.Policy{Name: daily, Retention: dailyFor(31),
			Schedule: &pb.Schedule{Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: 3}}}}}})).Policy
	if !proto.Equal(after.ScheduleUpdateTime, timestamppb.New(w.now)) {
		t.Errorf("the schedule was changed now, and not at %v", after.ScheduleUpdateTime.AsTime())
	}
	w.tendAt("2026-03-04 21:59", p...)
	w.tendAt("2026-03-04 22:00", p[1])
}
