package policy

import (
	"slices"
	"time"

	pb "cairn/proto/cairn/v1"
)

// Shortens says whether some point, existing or to come, may be kept shorter under
// a policy than it was under the one before. It compares the rules on every kind
// of day that there is, so that rules may be recut freely as long as each day
// keeps what it had. It errs on the side of true where
//
//   - the zone changes: days and the ends of terms move with it. Only terms that
//     are longer by more than a zone can move them are no shortening;
//   - terms in days and terms in months replace each other and are about equal.
//
// A schedule that no longer runs on a weekday whose points a weekly, monthly or
// yearly rule kept takes them from that rule, and shortens as well.
func Shortens(old, now *pb.Policy) bool {
	was, is := rules(old), rules(now)
	margin := 0 // days that now's terms must be longer by
	if Zone(old.GetSchedule()).String() != Zone(now.GetSchedule()).String() {
		// Days of the old zone are others of the new one: only a rule for all days
		// is sure to have them.
		is = slices.DeleteFunc(is, func(r rule) bool { return r.rule != pb.RetentionRule_RETENTION_RULE_DAILY })
		margin = 2
	}
	ranOn, _ := plan(old.GetSchedule())
	runsOn, _ := plan(now.GetSchedule())
	for day := range kindsOfDay {
		gone := ranOn[day.weekday] && !runsOn[day.weekday]
		for _, o := range was {
			if !o.on(day) {
				continue
			}
			if gone && o.rule != pb.RetentionRule_RETENTION_RULE_DAILY {
				return true
			}
			if !slices.ContainsFunc(is, func(n rule) bool { return n.on(day) && n.span.reaches(o.span, margin) }) {
				return true
			}
		}
	}
	return false
}

// kindsOfDay gives a date of every month, day of it, weekday and length of year
// that come together: whatever a rule can see.
func kindsOfDay(yield func(date) bool) {
	for _, year := range []int{2023, 2024} { // one of either length
		for t := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC); t.Year() == year; t = t.AddDate(0, 0, 1) {
			d := dateOf(t.Unix() / secondsOfDay)
			for d.weekday = pb.DayOfWeek_DAY_OF_WEEK_MONDAY; d.weekday <= pb.DayOfWeek_DAY_OF_WEEK_SUNDAY; d.weekday++ {
				if !yield(d) {
					return
				}
			}
		}
	}
}

// reaches says whether a span lasts at least as long as another, and margin days
// more, from whatever day.
func (s span) reaches(other span, margin int) bool {
	if margin == 0 && s.days == 0 && other.days == 0 {
		return s.months >= other.months
	}
	return s.least() >= other.most()+margin
}

// A month has 146097/4800 days on average; any number of them in a row is within
// 4 days of that many averages, and a month that lacks the day ends 3 days later
// at most.
func (s span) least() int { return s.days + max(0, s.months*146097/4800-4) }
func (s span) most() int {
	if s.months == 0 {
		return s.days
	}
	return s.days + s.months*146097/4800 + 8
}
