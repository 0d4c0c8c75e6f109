package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	cairnv1 "cairn/proto/cairn/v1"
)

// This file translates between the policy messages and the words for them on
// the command line and in tables.

func timeOfDay(s string) (*cairnv1.TimeOfDay, error) {
	t, err := time.Parse("15:04", s)
	if err != nil {
		return nil, usagef("--at %q: must be HH:MM", s)
	}
	return &cairnv1.TimeOfDay{Hours: int32(t.Hour()), Minutes: int32(t.Minute())}, nil
}

func hours(flag, s string) (int32, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d%time.Hour != 0 || d <= 0 || d > 1000*time.Hour {
		return 0, usagef("%s %q: must be whole hours, such as 4h", flag, s)
	}
	return int32(d / time.Hour), nil
}

var dayWords = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"} // DayOfWeek 1 …

func weekday(s string) (cairnv1.DayOfWeek, bool) {
	s = strings.ToLower(s)
	for i, w := range dayWords {
		if len(s) >= 3 && strings.HasPrefix(strings.ToLower(time.Weekday((i+1)%7).String()), s) && s[:3] == w {
			return cairnv1.DayOfWeek(i + 1), true
		}
	}
	return 0, false
}

func weekdays(flag, s string) ([]cairnv1.DayOfWeek, error) {
	var out []cairnv1.DayOfWeek
	for _, w := range strings.Split(s, ",") {
		d, ok := weekday(w)
		if !ok {
			return nil, usagef("%s %q: %q is not a day of the week (mon, tue, …)", flag, s, w)
		}
		out = append(out, d)
	}
	return out, nil
}

var ordinalWords = []string{"first", "second", "third", "fourth", "last"} // Ordinal 1 …

// daysOfMonth reads "first-sun,last-fri" or "1,15,last-day".
func daysOfMonth(flag, s string) (*cairnv1.WeekdaysOfMonth, *cairnv1.DaysOfMonth, error) {
	var w *cairnv1.WeekdaysOfMonth
	var d *cairnv1.DaysOfMonth
	numbers := func() *cairnv1.DaysOfMonth {
		if d == nil {
			d = &cairnv1.DaysOfMonth{}
		}
		return d
	}
	for _, one := range strings.Split(s, ",") {
		if one == "last-day" {
			numbers().LastDay = true
			continue
		}
		if n, err := strconv.ParseInt(one, 10, 32); err == nil {
			numbers().Days = append(numbers().Days, int32(n))
			continue
		}
		ord, day, _ := strings.Cut(one, "-")
		wd, ok := weekday(day)
		o := 0
		for i, word := range ordinalWords {
			if word == ord {
				o = i + 1
			}
		}
		if !ok || o == 0 {
			return nil, nil, usagef("%s %q: %q must be such as first-sun, 15 or last-day", flag, s, one)
		}
		if w == nil {
			w = &cairnv1.WeekdaysOfMonth{}
		}
		w.Ordinals = addOnce(w.Ordinals, cairnv1.Ordinal(o))
		w.Days = addOnce(w.Days, wd)
	}
	if w != nil && d != nil {
		return nil, nil, usagef("%s %q: weekdays and days of the month cannot be mixed", flag, s)
	}
	if w != nil && len(w.Ordinals)*len(w.Days) != strings.Count(s, ",")+1 {
		return nil, nil, usagef("%s %q: weekdays must be all combinations of their ordinals and days", flag, s)
	}
	return w, d, nil
}

func addOnce[T comparable](s []T, v T) []T {
	for _, x := range s {
		if x == v {
			return s
		}
	}
	return append(s, v)
}

func clock(t *cairnv1.TimeOfDay) string {
	return fmt.Sprintf("%02d:%02d", t.GetHours(), t.GetMinutes())
}

func daysText(days []cairnv1.DayOfWeek) string {
	var out []string
	for _, d := range days {
		if d >= 1 && int(d) <= len(dayWords) {
			out = append(out, dayWords[d-1])
		}
	}
	return strings.Join(out, ",")
}

func scheduleText(s *cairnv1.Schedule) string {
	zone := s.GetTimeZone()
	if zone == "" {
		zone = "UTC"
	}
	switch k := s.GetKind().(type) {
	case *cairnv1.Schedule_Hourly:
		return fmt.Sprintf("every %dh from %s for %dh %s", k.Hourly.GetIntervalHours(), clock(k.Hourly.GetWindowStart()), k.Hourly.GetWindowHours(), zone)
	case *cairnv1.Schedule_Daily:
		return fmt.Sprintf("daily at %s %s", clock(k.Daily.GetTime()), zone)
	case *cairnv1.Schedule_Weekly:
		return fmt.Sprintf("%s at %s %s", daysText(k.Weekly.GetDays()), clock(k.Weekly.GetTime()), zone)
	}
	return "-"
}

func retentionText(r *cairnv1.Retention) string {
	var out []string
	if d := r.GetDaily(); d != nil {
		out = append(out, fmt.Sprintf("%d days", d.GetDays()))
	}
	if w := r.GetWeekly(); w != nil {
		out = append(out, fmt.Sprintf("%d weeks (%s)", w.GetWeeks(), daysText(w.GetDays())))
	}
	if m := r.GetMonthly(); m != nil {
		out = append(out, fmt.Sprintf("%d months (%s)", m.GetMonths(), onText(m.GetWeekdays(), m.GetDays())))
	}
	if y := r.GetYearly(); y != nil {
		var months []string
		for _, m := range y.GetMonthsOfYear() {
			months = append(months, time.Month(m).String()[:3])
		}
		out = append(out, fmt.Sprintf("%d years (%s: %s)", y.GetYears(), strings.Join(months, ","), onText(y.GetWeekdays(), y.GetDays())))
	}
	return orDash(strings.Join(out, ", "))
}

func onText(w *cairnv1.WeekdaysOfMonth, d *cairnv1.DaysOfMonth) string {
	var out []string
	for _, o := range w.GetOrdinals() {
		if o >= 1 && int(o) <= len(ordinalWords) {
			out = append(out, ordinalWords[o-1])
		}
	}
	if w != nil {
		return strings.Join(out, ",") + " " + daysText(w.GetDays())
	}
	for _, n := range d.GetDays() {
		out = append(out, fmt.Sprint(n))
	}
	if d.GetLastDay() {
		out = append(out, "last day")
	}
	return strings.Join(out, ",")
}
