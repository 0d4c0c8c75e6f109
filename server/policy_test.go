package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

func timestampOf(unix int64) *timestamppb.Timestamp { return timestamppb.New(time.Unix(unix, 0)) }

func TestPolicies(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	p := must[*pb.GetPolicyResponse](t)(w.policies.GetPolicy(w.ctx, &pb.GetPolicyRequest{Name: daily})).Policy
	if at := p.Schedule.GetDaily().GetTime(); p.Schedule.TimeZone != "UTC" || at.GetHours() != 22 || at.GetMinutes() != 0 ||
		p.Retention.GetDaily().GetDays() != 30 || p.Etag == "" || p.ProtectedItemCount != 0 {
		t.Errorf("default policy %v", p)
	}
	full := fullPolicy()
	made := must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "full", Policy: full})).Policy
	if !proto.Equal(made.Schedule, full.Schedule) || !proto.Equal(made.Retention, full.Retention) {
		t.Errorf("made %v of %v", made, full)
	}
	_, err := w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "full"})
	wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS)
	update := func(p *pb.Policy, paths ...string) (*pb.Policy, error) {
		r, err := w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{Policy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return r.GetPolicy(), err
	}
	// What a mask does not name stays; what it names and is not set gets the default.
	up := must[*pb.Policy](t)(update(&pb.Policy{Name: made.Name, Etag: made.Etag, DisplayName: "x"}, "retention", "minimum_consistency"))
	if up.DisplayName != full.DisplayName || up.Retention.GetDaily().GetDays() != 30 || up.Retention.Weekly != nil || !proto.Equal(up.Schedule, full.Schedule) {
		t.Errorf("updated %v", up)
	}
	_, err = update(&pb.Policy{Name: made.Name, Etag: made.Etag}, "schedule")
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)
	_, err = update(&pb.Policy{Name: made.Name}, "uid")
	wantField(t, err, "update_mask")
	_, err = update(&pb.Policy{Name: daily + "x"}, "schedule")
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND)
	l := must[*pb.ListPoliciesResponse](t)(w.policies.ListPolicies(w.ctx, &pb.ListPoliciesRequest{Parent: vault, PageSize: 1}))
	if len(l.Policies) != 1 || l.Policies[0].Name != daily || l.NextPageToken == "" {
		t.Errorf("list %v", l)
	}
	l = must[*pb.ListPoliciesResponse](t)(w.policies.ListPolicies(w.ctx, &pb.ListPoliciesRequest{Parent: vault, PageToken: l.NextPageToken}))
	if len(l.Policies) != 1 || !proto.Equal(l.Policies[0], up) || l.NextPageToken != "" {
		t.Errorf("list %v", l)
	}
	must[*pb.DeletePolicyResponse](t)(w.policies.DeletePolicy(w.ctx, &pb.DeletePolicyRequest{Name: made.Name, Etag: up.Etag}))
	_, err = w.policies.DeletePolicy(w.ctx, &pb.DeletePolicyRequest{Name: made.Name})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND)
}

func TestPolicyRefusals(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	at := &pb.TimeOfDay{Hours: 1}
	hourly := func(h *pb.HourlySchedule) func(*pb.Policy) {
		return func(p *pb.Policy) { p.Schedule = &pb.Schedule{Kind: &pb.Schedule_Hourly{Hourly: h}} }
	}
	weekly := func(days ...pb.DayOfWeek) func(*pb.Policy) {
		return func(p *pb.Policy) { p.Schedule.GetWeekly().Days = days }
	}
	for _, c := range []struct {
		field  string
		change func(*pb.Policy)
	}{
		{"policy.display_name", func(p *pb.Policy) { p.DisplayName = strings.Repeat("x", 201) }},
		{"policy.minimum_consistency", func(p *pb.Policy) { p.MinimumConsistency = 9 }},
		{"policy.schedule", func(p *pb.Policy) { p.Schedule.Kind = nil }},
		{"policy.schedule.time_zone", func(p *pb.Policy) { p.Schedule.TimeZone = "Mars/Olympus" }},
		{"policy.schedule.time_zone", func(p *pb.Policy) { p.Schedule.TimeZone = "Local" }},
		{"policy.schedule.time_zone", func(p *pb.Policy) { p.Schedule.TimeZone = "../../etc/passwd" }},
		{"policy.schedule.time_zone", func(p *pb.Policy) { p.Schedule.TimeZone = strings.Repeat("x", 100) }},
		{"policy.schedule.daily.time", func(p *pb.Policy) { p.Schedule.Kind = &pb.Schedule_Daily{} }},
		{"policy.schedule.daily.time.hours", func(p *pb.Policy) {
			p.Schedule.Kind = &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: 24}}}
		}},
		{"policy.schedule.daily.time.minutes", func(p *pb.Policy) {
			p.Schedule.Kind = &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Minutes: -1}}}
		}},
		{"policy.schedule.hourly.interval_hours", hourly(&pb.HourlySchedule{IntervalHours: 5, WindowStart: at, WindowHours: 8})},
		{"policy.schedule.hourly.window_start", hourly(&pb.HourlySchedule{IntervalHours: 4, WindowHours: 8})},
		{"policy.schedule.hourly.window_hours", hourly(&pb.HourlySchedule{IntervalHours: 4, WindowStart: at, WindowHours: 3})},
		{"policy.schedule.hourly.window_hours", hourly(&pb.HourlySchedule{IntervalHours: 4, WindowStart: at, WindowHours: 25})},
		{"policy.schedule.weekly.days", weekly()},
		{"policy.schedule.weekly.days[1]", weekly(1, 1)},
		{"policy.schedule.weekly.days[0]", weekly(0)},
		{"policy.schedule.weekly.days[1]", weekly(1, 8)},
		{"policy.schedule.weekly.time", func(p *pb.Policy) { p.Schedule.GetWeekly().Time = nil }},
		{"policy.retention", func(p *pb.Policy) { p.Retention = &pb.Retention{} }},
		{"policy.retention.daily.days", func(p *pb.Policy) { p.Retention.Daily.Days = 0 }},
		{"policy.retention.daily.days", func(p *pb.Policy) { p.Retention.Daily.Days = 10000 }},
		{"policy.retention.weekly.days", func(p *pb.Policy) { p.Retention.Weekly.Days = nil }},
		{"policy.retention.weekly.weeks", func(p *pb.Policy) { p.Retention.Weekly.Weeks = 5164 }},
		{"policy.retention.monthly", func(p *pb.Policy) { p.Retention.Monthly.On = nil }},
		{"policy.retention.monthly.months", func(p *pb.Policy) { p.Retention.Monthly.Months = 1189 }},
		{"policy.retention.monthly.weekdays.ordinals[0]", func(p *pb.Policy) { p.Retention.Monthly.GetWeekdays().Ordinals[0] = 6 }},
		{"policy.retention.monthly.weekdays.days", func(p *pb.Policy) { p.Retention.Monthly.GetWeekdays().Days = nil }},
		{"policy.retention.yearly.months_of_year", func(p *pb.Policy) { p.Retention.Yearly.MonthsOfYear = nil }},
		{"policy.retention.yearly.months_of_year[0]", func(p *pb.Policy) { p.Retention.Yearly.MonthsOfYear = []int32{13} }},
		{"policy.retention.yearly.days.days[0]", func(p *pb.Policy) { p.Retention.Yearly.GetDays().Days = []int32{32} }},
		{"policy.retention.yearly.days.days[1]", func(p *pb.Policy) { p.Retention.Yearly.GetDays().Days = []int32{5, 5} }},
		{"policy.retention.yearly.days.days", func(p *pb.Policy) { p.Retention.Yearly.On = &pb.YearlyRetention_Days{} }},
		{"policy.retention.yearly.years", func(p *pb.Policy) { p.Retention.Yearly.Years = 100 }},
	} {
		p := fullPolicy()
		c.change(p)
		_, err := w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", Policy: p})
		wantField(t, err, c.field)
		p.Name = daily
		_, err = w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{Policy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule"}}})
		wantField(t, err, c.field)
	}
	_, err := w.policies.GetPolicy(w.ctx, &pb.GetPolicyRequest{Name: vault + "/policies/p"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND)
}
