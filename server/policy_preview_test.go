package server

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

func (w *clockWorld) preview(r *pb.PreviewPolicyRequest) *pb.PreviewPolicyResponse {
	w.t.Helper()
	return must[*pb.PreviewPolicyResponse](w.t)(w.policies.PreviewPolicy(w.ctx, r))
}

// grandfather keeps all days for 3 days, Sundays for 3 weeks, the first of each
// month for 3 months, the last of January and July for 2 years.
func grandfather(zone string) *pb.Policy {
	sunday := []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}
	return &pb.Policy{
		Schedule: &pb.Schedule{TimeZone: zone, Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: 2, Minutes: 30}}}},
		Retention: &pb.Retention{
			Daily:   &pb.DailyRetention{Days: 3},
			Weekly:  &pb.WeeklyRetention{Days: sunday, Weeks: 3},
			Monthly: &pb.MonthlyRetention{Months: 3, On: &pb.MonthlyRetention_Days{Days: &pb.DaysOfMonth{Days: []int32{1}}}},
			Yearly: &pb.YearlyRetention{Years: 2, MonthsOfYear: []int32{1, 7},
				On: &pb.YearlyRetention_Days{Days: &pb.DaysOfMonth{LastDay: true}}},
		},
	}
}

// TestPreviewComesTrue plays a year as the preview says, with the clean-up of the
// real server once after every run.
func TestPreviewComesTrue(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "Australia/Lord_Howe"} {
		t.Run(zone, func(t *testing.T) {
			w := newClockWorld(t, "2026-01-20 12:00")
			p := grandfather(zone)
			p.Name = daily
			must[*pb.UpdatePolicyResponse](t)(w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{
				Policy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule", "retention"}}}))
			old := w.scheduled("2026-01-18 01:30", "2026-01-19 01:30", "2026-01-20 01:30")
			w.put(w.now, time.Time{}, w.now.AddDate(0, 2, 0))
			r := &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: daily}, ProtectedItem: item1,
				EndTime: timestamppb.New(w.now.AddDate(1, 0, 0))}
			said := w.preview(r)
			if len(said.Runs) != 365 || len(said.Points) != 365+4 || said.Truncated || said.Points[1].RecoveryPoint != old[1] {
				t.Fatalf("%d runs and %d points", len(said.Runs), len(said.Points))
			}
			byTime := map[int64]*pb.PointPreview{}
			for _, pt := range said.Points {
				byTime[pt.Time.Seconds] = pt
			}
			for i, run := range said.Runs {
				w.set(run.AsTime())
				w.put(w.now, w.now, time.Time{})
				w.prune()
				if i%5 != 0 {
					continue
				}
				for _, p := range w.list() {
					said := byTime[p.SnapshotTime.Seconds]
					if p.RetentionRule != byNewest && (!proto.Equal(said.ExpireTime, p.ExpireTime) || said.Rule != p.RetentionRule) {
						t.Fatalf("at %v the point of %v is kept until %v by %v, and the preview says %v",
							w.now, p.SnapshotTime.AsTime(), p.ExpireTime.AsTime(), p.RetentionRule, said)
					}
				}
			}
			w.set(r.EndTime.AsTime())
			w.prune()
			var left, kept []int64
			for _, p := range w.list() {
				left = append(left, p.SnapshotTime.Seconds)
			}
			for _, pt := range said.Points {
				if pt.KeptAtEnd {
					kept = append(kept, pt.Time.Seconds)
				}
			}
			if !slices.Equal(left, kept) {
				t.Errorf("left are %v; the preview said %v", left, kept)
			}
		})
	}
}

// TestPreviewOfPointsThatNoRuleKeeps: each is there until the next.
func TestPreviewOfPointsThatNoRuleKeeps(t *testing.T) {
	w := newClockWorld(t, "2026-03-05 12:00") // a Thursday
	p := &pb.Policy{Retention: &pb.Retention{Weekly: &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 1}}}
	got := w.preview(&pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Policy{Policy: p}, EndTime: timestamppb.New(utc(t, "2026-03-09 22:00"))})
	day := func(d int) string { return utc(t, fmt.Sprintf("2026-03-%02d 22:00", d)).Format(time.RFC3339) }
	want := []string{
		fmt.Sprintln(day(5), day(6), byNewest, false),
		fmt.Sprintln(day(6), day(7), byNewest, false),
		fmt.Sprintln(day(7), day(8), byNewest, false),
		fmt.Sprintln(day(8), day(15), byWeekly, true),
		fmt.Sprintln(day(9), "-", byNewest, true),
	}
	var is []string
	for _, pt := range got.Points {
		until := "-"
		if pt.ExpireTime != nil {
			until = pt.ExpireTime.AsTime().Format(time.RFC3339)
		}
		is = append(is, fmt.Sprintln(pt.Time.AsTime().Format(time.RFC3339), until, pt.Rule, pt.KeptAtEnd))
	}
	if !slices.Equal(is, want) {
		t.Errorf("foreseen is\n%v, not\n%v", is, want)
	}
}

func TestPreviewRange(t *testing.T) {
	w := newClockWorld(t, "2026-03-05 22:00")
	byName := func(start, end time.Time) *pb.PreviewPolicyRequest {
		r := &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: daily}}
		if !start.IsZero() {
			r.StartTime = timestamppb.New(start)
		}
		if !end.IsZero() {
			r.EndTime = timestamppb.New(end)
		}
		return r
	}
	if got := w.preview(byName(time.Time{}, time.Time{})).Runs; len(got) != 31 || got[0].AsTime() != w.now || got[30].AsTime() != w.now.AddDate(0, 0, 30) {
		t.Errorf("both ends belong to the range: %d runs", len(got))
	}
	if got := w.preview(byName(w.now, w.now)).Runs; len(got) != 1 {
		t.Errorf("%d runs at a moment", len(got))
	}
	hourly := &pb.Policy{Schedule: &pb.Schedule{Kind: &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{IntervalHours: 4, WindowStart: &pb.TimeOfDay{}, WindowHours: 24}}}}
	got := w.preview(&pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Policy{Policy: hourly}, EndTime: timestamppb.New(w.now.AddDate(100, 0, 0))})
	if len(got.Runs) != maxPreviewRuns || !got.Truncated || len(got.Points) != maxPreviewRuns || got.Points[maxPreviewRuns-1].KeptAtEnd ||
		got.Runs[maxPreviewRuns-1].AsTime().Sub(got.Runs[0].AsTime()) != (maxPreviewRuns-1)*4*time.Hour {
		t.Errorf("%d runs, %d points, truncated %v; the last is %v", len(got.Runs), len(got.Points), got.Truncated, got.Points[len(got.Points)-1])
	}
	if n := proto.Size(got); n > 4<<20 {
		t.Errorf("the answer has %d bytes, more than clients take", n)
	}
	refuse := func(field string, r *pb.PreviewPolicyRequest) {
		t.Helper()
		_, err := w.policies.PreviewPolicy(w.ctx, r)
		wantField(t, err, field)
	}
	refuse("name", &pb.PreviewPolicyRequest{})
	refuse("name", &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: "x"}})
	refuse("policy.retention", &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Policy{Policy: &pb.Policy{Retention: &pb.Retention{}}}})
	refuse("policy.schedule.time_zone", &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Policy{
		Policy: &pb.Policy{Schedule: &pb.Schedule{TimeZone: "Mars/Olympus"}}}})
	refuse("end_time", byName(w.now, w.now.Add(-1)))
	refuse("end_time", byName(time.Time{}, w.now.Add(-1)))
	refuse("end_time", byName(w.now, w.now.AddDate(100, 0, 0).Add(1)))
	refuse("end_time", byName(utc(t, "9000-12-31 00:00"), time.Time{}))
	refuse("start_time", byName(time.Unix(-1, 0), w.now))
	refuse("start_time", &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: daily}, StartTime: &timestamppb.Timestamp{Nanos: -1}})
	r := byName(w.now, w.now)
	r.ProtectedItem = "x"
	refuse("protected_item", r)
	r.ProtectedItem = sub + "/vaults/v2/protectedItems/web1"
	refuse("protected_item", r)
	r.ProtectedItem = vault + "/protectedItems/web2"
	_, err := w.policies.PreviewPolicy(w.ctx, r)
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND)
	_, err = w.policies.PreviewPolicy(w.ctx, &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: daily + "x"}})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND)
}
