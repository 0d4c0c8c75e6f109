package policy

import (
	"slices"
	"time"

	pb "cairn/proto/cairn/v1"
)

// Point is what retention looks at.
type Point struct {
	Snapshot    time.Time // when its disks were as it shows them
	Slot        time.Time // the run that it was made for; zero: it was asked for, not scheduled
	RetainUntil time.Time // the date that somebody asked for; zero: none
}

// Kept says until when a point is kept, and by which rule. The rule is
// UNSPECIFIED, and the time the snapshot's, for a scheduled point that no rule
// matches.
type Kept struct {
	Until time.Time
	Rule  pb.RetentionRule
}

// defaultDays keeps points that nothing else is known about.
const defaultDays = 30

// Keep says how long a point is kept on its own account, whatever other points
// there are. A policy that is nil, or has no retention, keeps scheduled points for
// 30 days; so are points kept that were asked for without a date.
func Keep(p *pb.Policy, pt Point) Kept { return newKeeper(p).keep(pt) }

// keeper is a policy made ready for many points.
type keeper struct {
	clock *clock
	rules []rule
}

func newKeeper(p *pb.Policy) keeper { return keeper{newClock(Zone(p.GetSchedule())), rules(p)} }

func (k keeper) keep(pt Point) Kept {
	if pt.Slot.IsZero() {
		until := pt.RetainUntil.UTC()
		if pt.RetainUntil.IsZero() {
			until = span{days: defaultDays}.after(k.clock, pt.Snapshot)
		}
		return Kept{until, pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL}
	}
	kept := Kept{Until: pt.Snapshot.UTC()}
	day := dateOf(dayOf(k.clock.wall(pt.Slot.Unix())))
	for _, r := range k.rules {
		if !r.on(day) {
			continue
		}
		// Rules come shortest term first: of two that last equally long the
		// longer-term one is named.
		if t := r.span.after(k.clock, pt.Snapshot); !t.Before(kept.Until) {
			kept = Kept{t, r.rule}
		}
	}
	if pt.RetainUntil.After(kept.Until) {
		kept = Kept{pt.RetainUntil.UTC(), pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL}
	}
	return kept
}

// span is a length of time in the calendar: days, or months.
type span struct{ days, months int }

// after gives the end of the span that begins with an instant: the latest reading
// that it has, see the package comment.
func (s span) after(c *clock, t time.Time) time.Time {
	wall := time.Unix(c.wall(t.Unix()), 0).UTC().AddDate(0, s.months, s.days)
	return time.Unix(c.end(wall.Unix()), int64(t.Nanosecond())).UTC()
}

// rule is one of a policy's: the days whose points it keeps, and how long.
type rule struct {
	rule pb.RetentionRule
	on   func(date) bool
	span span
}

// rules gives those of a policy, shortest term first.
func rules(p *pb.Policy) []rule {
	r := p.GetRetention()
	if r.GetDaily() == nil && r.GetWeekly() == nil && r.GetMonthly() == nil && r.GetYearly() == nil {
		r = &pb.Retention{Daily: &pb.DailyRetention{Days: defaultDays}}
	}
	var all []rule
	if d := r.GetDaily(); d != nil {
		all = append(all, rule{pb.RetentionRule_RETENTION_RULE_DAILY,
			func(date) bool { return true }, span{days: int(d.GetDays())}})
	}
	if w := r.GetWeekly(); w != nil {
		all = append(all, rule{pb.RetentionRule_RETENTION_RULE_WEEKLY,
			func(d date) bool { return slices.Contains(w.GetDays(), d.weekday) }, span{days: 7 * int(w.GetWeeks())}})
	}
	if m := r.GetMonthly(); m != nil {
		all = append(all, rule{pb.RetentionRule_RETENTION_RULE_MONTHLY,
			func(d date) bool { return d.isOneOf(m.GetWeekdays(), m.GetDays()) }, span{months: int(m.GetMonths())}})
	}
	if y := r.GetYearly(); y != nil {
		all = append(all, rule{pb.RetentionRule_RETENTION_RULE_YEARLY,
			func(d date) bool {
				return slices.Contains(y.GetMonthsOfYear(), int32(d.month)) && d.isOneOf(y.GetWeekdays(), y.GetDays())
			}, span{months: 12 * int(y.GetYears())}})
	}
	return all
}

// isOneOf says whether a monthly choice of days has this one. One of the two
// choices is nil and has none.
func (d date) isOneOf(w *pb.WeekdaysOfMonth, n *pb.DaysOfMonth) bool {
	if slices.Contains(n.GetDays(), int32(d.day)) || n.GetLastDay() && d.day == d.daysInMonth {
		return true
	}
	if !slices.Contains(w.GetDays(), d.weekday) {
		return false
	}
	nth := pb.Ordinal((d.day-1)/7 + 1) // the fifth has no name but the last
	return nth <= pb.Ordinal_ORDINAL_FOURTH && slices.Contains(w.GetOrdinals(), nth) ||
		d.day+7 > d.daysInMonth && slices.Contains(w.GetOrdinals(), pb.Ordinal_ORDINAL_LAST)
}
