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
		out = addOnce(out, d)
	}
	return out, nil
}

var ordinalWords = []string{"first", "second", "third", "fourth", "last"} // Ordinal 1 …

func ordinalWord(o cairnv1.Ordinal) string {
	if o < 1 || int(o) > len(ordinalWords) {
		return o.String()
	}
	return ordinalWords[o-1]
}

// monthsOfYear reads "1,7" or "jan,jul".
func monthsOfYear(flag, s string) ([]int32, error) {
	var out []int32
	for _, w := range strings.Split(s, ",") {
		n, err := strconv.ParseInt(w, 10, 32)
		for m := time.January; err != nil && m <= time.December; m++ {
			if len(w) >= 3 && strings.HasPrefix(strings.ToLower(m.String()), strings.ToLower(w)) {
				n, err = int64(m), nil
			}
		}
		if err != nil || n < 1 || n > 12 {
			return nil, usagef("%s %q: %q is not a month, 1 to 12 or jan to dec", flag, s, w)
		}
		out = addOnce(out, int32(n))
	}
	return out, nil
}

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
	pairs := map[string]bool{}
	for _, one := range strings.Split(s, ",") {
		if one == "last-day" {
			numbers().LastDay = true
			continue
		}
		if n, err := strconv.ParseInt(one, 10, 32); err == nil {
			numbers().Days = addOnce(numbers().Days, int32(n))
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
		pairs[fmt.Sprint(o, wd)] = true
	}
	if w != nil && d != nil {
		return nil, nil, usagef("%s %q: weekdays and days of the month cannot be mixed", flag, s)
	}
	if w != nil && len(w.Ordinals)*len(w.Days) != len(pairs) {
		return nil, nil, usagef("%s %q: must be all combinations of the positions and days that it names: %s", flag, s, onFlag(w, nil))
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
		out = append(out, ordinalWord(o))
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

// flagsText is schedule, retention and minimum of a policy as the flags that make
// it.
func flagsText(p *cairnv1.Policy) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch k := p.GetSchedule().GetKind().(type) {
	case *cairnv1.Schedule_Hourly:
		add("--every %dh --for %dh --at %s", k.Hourly.GetIntervalHours(), k.Hourly.GetWindowHours(), clock(k.Hourly.GetWindowStart()))
	case *cairnv1.Schedule_Daily:
		add("--daily --at %s", clock(k.Daily.GetTime()))
	case *cairnv1.Schedule_Weekly:
		add("--weekly %s --at %s", daysText(k.Weekly.GetDays()), clock(k.Weekly.GetTime()))
	}
	if z := p.GetSchedule().GetTimeZone(); z != "" {
		add("--time-zone %s", z)
	}
	r := p.GetRetention()
	add("--keep-days %d", r.GetDaily().GetDays()) // 0 is said as well: it is not the default
	if w := r.GetWeekly(); w != nil {
		add("--keep-weeks %d --keep-weeks-on %s", w.GetWeeks(), daysText(w.GetDays()))
	}
	if m := r.GetMonthly(); m != nil {
		add("--keep-months %d --keep-months-on %s", m.GetMonths(), onFlag(m.GetWeekdays(), m.GetDays()))
	}
	if y := r.GetYearly(); y != nil {
		var months []string
		for _, m := range y.GetMonthsOfYear() {
			months = append(months, fmt.Sprint(m))
		}
		add("--keep-years %d --keep-years-on %s:%s", y.GetYears(), strings.Join(months, ","), onFlag(y.GetWeekdays(), y.GetDays()))
	}
	if m := p.GetMinimumConsistency(); m != 0 {
		word := strings.TrimSuffix(word(m, "CONSISTENCY_CLASS_"), "_CONSISTENT")
		add("--min-consistency %s", strings.ToLower(strings.ReplaceAll(word, "_", "-")))
	}
	return strings.Join(out, " ")
}

// onFlag is what daysOfMonth reads.
func onFlag(w *cairnv1.WeekdaysOfMonth, d *cairnv1.DaysOfMonth) string {
	var out []string
	for _, o := range w.GetOrdinals() {
		for _, day := range w.GetDays() {
			out = append(out, ordinalWord(o)+"-"+daysText([]cairnv1.DayOfWeek{day}))
		}
	}
	for _, n := range d.GetDays() {
		out = append(out, fmt.Sprint(n))
	}
	if d.GetLastDay() {
		out = append(out, "last-day")
	}
	return strings.Join(out, ",")
}
