package policy

import (
	"iter"
	"slices"
	"time"

	pb "cairn/proto/cairn/v1"
)

// Next gives the first run strictly after t, in UTC. A validated schedule always
// has one; of another that has none the answer is the zero time.
func Next(s *pb.Schedule, after time.Time) time.Time {
	const most = 30 * 24 * time.Hour // a week, and one more for a day that is left out
	for t := range Runs(s, after, after.Add(most)) {
		return t
	}
	return time.Time{}
}

// Latest gives the last run at or before t, in UTC, and false if there was none in
// the 8 days before.
func Latest(s *pb.Schedule, at time.Time) (latest time.Time, ok bool) {
	for t := range Runs(s, at.Add(-8*24*time.Hour), at) {
		latest, ok = t, true
	}
	return latest, ok
}

// Runs gives the runs in (after, until], in order, in UTC.
func Runs(s *pb.Schedule, after, until time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		days, minutes := plan(s)
		c := newClock(Zone(s))
		// A window reaches into the next day, and a skipped time is late.
		day := dayOf(c.wall(after.Unix())) - 2
		last := dayOf(c.wall(until.Unix())) + 1
		previous := after
		for ; day <= last; day++ {
			if !days[weekdayOf(day)] {
				continue
			}
			for _, m := range minutes {
				t, ok := c.run(day*secondsOfDay + m*60)
				if !ok {
					continue
				}
				at := time.Unix(t, 0).UTC()
				if at.After(until) {
					return
				}
				if !at.After(previous) { // before the range, or one that a jump put onto another
					continue
				}
				if previous = at; !yield(at) {
					return
				}
			}
		}
	}
}

// plan gives the days of the week that a schedule runs on and its times on such a
// day, in minutes of wall time from the day's beginning.
func plan(s *pb.Schedule) (days [8]bool, minutes []int64) {
	all := [8]bool{false, true, true, true, true, true, true, true}
	switch k := s.GetKind().(type) {
	case *pb.Schedule_Hourly:
		h := k.Hourly
		step := int64(h.GetIntervalHours())
		for at := int64(0); at <= int64(h.GetWindowHours()) && at < 24; at += step {
			minutes = append(minutes, minuteOf(h.GetWindowStart())+at*60)
			if step <= 0 {
				break
			}
		}
		return all, minutes
	case *pb.Schedule_Daily:
		return all, []int64{minuteOf(k.Daily.GetTime())}
	case *pb.Schedule_Weekly:
		for d := pb.DayOfWeek_DAY_OF_WEEK_MONDAY; d <= pb.DayOfWeek_DAY_OF_WEEK_SUNDAY; d++ {
			days[d] = slices.Contains(k.Weekly.GetDays(), d)
		}
		return days, []int64{minuteOf(k.Weekly.GetTime())}
	}
	return days, nil
}

func minuteOf(t *pb.TimeOfDay) int64 { return int64(t.GetHours())*60 + int64(t.GetMinutes()) }
