package server

import (
	"fmt"
	"slices"
	"time"

	pb "cairn/proto/cairn/v1"
)

// scheduleOr fills in what a schedule leaves open: daily at 22:00, UTC.
func scheduleOr(in *pb.Schedule) *pb.Schedule {
	if in == nil {
		in = &pb.Schedule{Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: 22}}}}
	}
	if in.TimeZone == "" {
		in.TimeZone = "UTC"
	}
	return in
}

// retentionOr gives the default for a retention that is not set: daily points
// for 30 days.
func retentionOr(in *pb.Retention) *pb.Retention {
	if in == nil {
		return &pb.Retention{Daily: &pb.DailyRetention{Days: 30}}
	}
	return in
}

// policyFields checks what CreatePolicy and UpdatePolicy have in common.
func (f *fields) policyFields(in *pb.Policy) {
	f.text("policy.display_name", in.GetDisplayName(), 200)
	enum(f, "policy.minimum_consistency", in.GetMinimumConsistency(), pb.ConsistencyClass_name)
	if in.GetSchedule() != nil {
		f.schedule("policy.schedule", in.Schedule)
	}
	if in.GetRetention() != nil {
		f.retention("policy.retention", in.Retention)
	}
}

func (f *fields) schedule(path string, s *pb.Schedule) {
	f.zone(path+".time_zone", s.TimeZone)
	switch k := s.Kind.(type) {
	case *pb.Schedule_Hourly:
		h := k.Hourly
		if !slices.Contains([]int32{4, 6, 8, 12, 24}, h.GetIntervalHours()) {
			f.add(path+".hourly.interval_hours", "is %d; it must be 4, 6, 8, 12 or 24", h.GetIntervalHours())
		}
		f.timeOfDay(path+".hourly.window_start", h.GetWindowStart())
		f.between(path+".hourly.window_hours", int64(h.GetWindowHours()), 4, 24)
	case *pb.Schedule_Daily:
		f.timeOfDay(path+".daily.time", k.Daily.GetTime())
	case *pb.Schedule_Weekly:
		f.weekdays(path+".weekly.days", k.Weekly.GetDays())
		f.timeOfDay(path+".weekly.time", k.Weekly.GetTime())
	default:
		f.add(path, "must be hourly, daily or weekly")
	}
}

// zone checks the name of a time zone; empty is UTC.
func (f *fields) zone(path, name string) {
	if len(name) > 64 {
		f.add(path, "has %d bytes; at most 64 are allowed", len(name))
		return
	}
	// "Local" would mean something else on every server.
	if _, err := time.LoadLocation(name); err != nil || name == "Local" {
		f.add(path, `%s is no time zone of the IANA database; an example of one is "Europe/Berlin"`, quote(name))
	}
}

func (f *fields) timeOfDay(path string, t *pb.TimeOfDay) {
	if t == nil {
		f.add(path, "must be given")
		return
	}
	f.between(path+".hours", int64(t.Hours), 0, 23)
	f.between(path+".minutes", int64(t.Minutes), 0, 59)
}

// weekdays checks that there is at least one day, and each once.
func (f *fields) weekdays(path string, days []pb.DayOfWeek) {
	some(f, path, days, 1, 7, "day of the week, 1 (Monday) to 7 (Sunday)")
}

// some checks that a list has at least one value, each from low to high, and
// none twice.
func some[E ~int32](f *fields, path string, values []E, low, high E, what string) {
	if len(values) == 0 {
		f.add(path, "must name at least one %s", what)
	}
	seen := map[E]bool{}
	for i, v := range values {
		switch at := fmt.Sprintf("%s[%d]", path, i); {
		case len(f.violations) >= maxViolations:
			return
		case v < low || v > high:
			f.add(at, "%d is no %s", int32(v), what)
		case seen[v]:
			f.add(at, "%d is there twice", int32(v))
		}
		seen[v] = true
	}
}

func (f *fields) retention(path string, r *pb.Retention) {
	if r.Daily == nil && r.Weekly == nil && r.Monthly == nil && r.Yearly == nil {
		f.add(path, "must have at least one rule: daily, weekly, monthly or yearly")
	}
	if d := r.Daily; d != nil {
		f.between(path+".daily.days", int64(d.Days), 1, 9999)
	}
	if w := r.Weekly; w != nil {
		f.weekdays(path+".weekly.days", w.Days)
		f.between(path+".weekly.weeks", int64(w.Weeks), 1, 5163)
	}
	if m := r.Monthly; m != nil {
		switch on := m.On.(type) {
		case *pb.MonthlyRetention_Weekdays:
			f.weekdaysOfMonth(path+".monthly.weekdays", on.Weekdays)
		case *pb.MonthlyRetention_Days:
			f.daysOfMonth(path+".monthly.days", on.Days)
		default:
			f.add(path+".monthly", "must have weekdays or days")
		}
		f.between(path+".monthly.months", int64(m.Months), 1, 1188)
	}
	if y := r.Yearly; y != nil {
		some(f, path+".yearly.months_of_year", y.MonthsOfYear, 1, 12, "month, 1 to 12")
		switch on := y.On.(type) {
		case *pb.YearlyRetention_Weekdays:
			f.weekdaysOfMonth(path+".yearly.weekdays", on.Weekdays)
		case *pb.YearlyRetention_Days:
			f.daysOfMonth(path+".yearly.days", on.Days)
		default:
			f.add(path+".yearly", "must have weekdays or days")
		}
		f.between(path+".yearly.years", int64(y.Years), 1, 99)
	}
}

func (f *fields) weekdaysOfMonth(path string, w *pb.WeekdaysOfMonth) {
	some(f, path+".ordinals", w.GetOrdinals(), pb.Ordinal_ORDINAL_FIRST, pb.Ordinal_ORDINAL_LAST, "position in the month, 1 (first) to 5 (last)")
	f.weekdays(path+".days", w.GetDays())
}

func (f *fields) daysOfMonth(path string, d *pb.DaysOfMonth) {
	if len(d.GetDays()) > 0 || !d.GetLastDay() {
		some(f, path+".days", d.GetDays(), 1, 31, "day of the month, 1 to 31")
	}
}
