package policy

import (
	"slices"
	"time"

	pb "cairn/proto/cairn/v1"
)

// What follows says again what the package does, as slowly and plainly as can be:
// by looking at clocks and calendars minute by minute and day by day.

// bruteDaily gives the one run that a daily schedule has on the day that an instant
// is on; zero if the zone has no such day.
func bruteDaily(loc *time.Location, year int, month time.Month, day, hour, minute int) time.Time {
	noon := time.Date(year, month, day, 12, 0, 0, 0, time.UTC)
	target := time.Date(year, month, day, hour, minute, 0, 0, time.UTC)
	shown := func(t time.Time) time.Time { // what a clock on the wall shows, as though it were UTC
		l := t.In(loc)
		return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC)
	}
	var before, last time.Time // the last minute that shows less than target, and the last of the day
	for t := noon.Add(-40 * time.Hour); t.Before(noon.Add(40 * time.Hour)); t = t.Add(time.Minute) {
		s := shown(t)
		if s.Equal(target) {
			return t
		}
		if s.Before(target) {
			before = t
		}
		if s.YearDay() == target.YearDay() && s.Year() == target.Year() {
			last = t
		}
	}
	if last.IsZero() {
		return last
	}
	run := before.Add(target.Sub(shown(before)))
	if s := shown(run); s.YearDay() != target.YearDay() {
		return last
	}
	return run
}

// bruteRule is a rule of a policy that keeps a point, and the ends that its term may
// be said to have.
type bruteRule struct {
	rule pb.RetentionRule
	ends []time.Time
}

// bruteRules gives the rules that match a scheduled point.
func bruteRules(p *pb.Policy, pt Point) (out []bruteRule) {
	loc := Zone(p.Schedule)
	slot := pt.Slot.In(loc)
	taken := pt.Snapshot.In(loc)
	r := p.Retention
	if r.Daily != nil {
		out = append(out, bruteRule{pb.RetentionRule_RETENTION_RULE_DAILY, []time.Time{taken.AddDate(0, 0, int(r.Daily.Days))}})
	}
	if r.Weekly != nil && slices.Contains(r.Weekly.Days, isoWeekday(slot)) {
		out = append(out, bruteRule{pb.RetentionRule_RETENTION_RULE_WEEKLY, []time.Time{taken.AddDate(0, 0, 7*int(r.Weekly.Weeks))}})
	}
	if m := r.Monthly; m != nil && bruteDay(slot, m.GetWeekdays(), m.GetDays()) {
		out = append(out, bruteRule{pb.RetentionRule_RETENTION_RULE_MONTHLY, monthsLater(taken, int(m.Months))})
	}
	if y := r.Yearly; y != nil && slices.Contains(y.MonthsOfYear, int32(slot.Month())) && bruteDay(slot, y.GetWeekdays(), y.GetDays()) {
		out = append(out, bruteRule{pb.RetentionRule_RETENTION_RULE_YEARLY, monthsLater(taken, 12*int(y.Years))})
	}
	return out
}

// monthsLater gives the ends of a term of months: as though days that are too many
// went on into the next month, and at the end of a month that is too short.
func monthsLater(t time.Time, n int) []time.Time {
	over := t.AddDate(0, n, 0)
	y, m := t.Year(), t.Month()+time.Month(n)
	last := time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day()
	cut := time.Date(y, m, min(t.Day(), last), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	return []time.Time{over, cut}
}

// bruteDay says whether a day is one of those chosen, by going through its month.
func bruteDay(t time.Time, w *pb.WeekdaysOfMonth, d *pb.DaysOfMonth) bool {
	var same []int // days of the month with this weekday
	last := 0
	for day := time.Date(t.Year(), t.Month(), 1, 12, 0, 0, 0, time.UTC); day.Month() == t.Month(); day = day.AddDate(0, 0, 1) {
		if day.Weekday() == t.Weekday() {
			same = append(same, day.Day())
		}
		last = day.Day()
	}
	if d != nil {
		return slices.Contains(d.Days, int32(t.Day())) || d.LastDay && t.Day() == last
	}
	if !slices.Contains(w.GetDays(), isoWeekday(t)) {
		return false
	}
	for _, o := range w.GetOrdinals() {
		i := int(o) - 1
		if o == pb.Ordinal_ORDINAL_LAST {
			i = len(same) - 1
		}
		if same[i] == t.Day() {
			return true
		}
	}
	return false
}

func isoWeekday(t time.Time) pb.DayOfWeek {
	if t.Weekday() == time.Sunday {
		return pb.DayOfWeek_DAY_OF_WEEK_SUNDAY
	}
	return pb.DayOfWeek(t.Weekday())
}
