package policy

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "cairn/proto/cairn/v1"
)

// testZones have all that clocks do: change by an hour, by half of one, by three, at
// midnight, over the end of a day, for Ramadan, by a day, and not at all.
var testZones = []string{
	"UTC", "Europe/Berlin", "Europe/London", "Europe/Dublin", "America/New_York", "America/Sao_Paulo", "America/St_Johns", "America/Nuuk",
	"America/Scoresbysund", "Atlantic/Azores", "America/Caracas", "Asia/Tehran", "Asia/Kathmandu", "Asia/Pyongyang", "Asia/Gaza",
	"Africa/Casablanca", "Africa/Cairo", "Asia/Beirut", "Australia/Lord_Howe", "Australia/Adelaide", "Pacific/Chatham", "Pacific/Apia",
	"Pacific/Kwajalein", "Pacific/Kiritimati", "Pacific/Norfolk", "Antarctica/Casey", "Antarctica/Troll", "America/Santiago",
}

// drawMoment gives a moment from 1970 to 2070, mostly one near a change of the
// zone's clocks.
func drawMoment(t *rapid.T, loc *time.Location) time.Time {
	at := time.Unix(rapid.Int64Range(0, 100*365*24*3600).Draw(t, "moment"), 0).In(loc)
	if _, end := at.ZoneBounds(); !end.IsZero() && rapid.IntRange(0, 3).Draw(t, "near") > 0 {
		return end.Add(time.Duration(rapid.IntRange(-48*60, 48*60).Draw(t, "minutes")) * time.Minute)
	}
	return at
}

func drawTime(t *rapid.T) *pb.TimeOfDay {
	h := rapid.OneOf(rapid.Int32Range(0, 23), rapid.SampledFrom([]int32{0, 1, 2, 3, 23})).Draw(t, "hour")
	return &pb.TimeOfDay{Hours: h, Minutes: rapid.SampledFrom([]int32{0, 1, 15, 30, 45, 59}).Draw(t, "minute")}
}

func drawDays(t *rapid.T) []pb.DayOfWeek {
	return rapid.SliceOfNDistinct(rapid.Map(rapid.Int32Range(1, 7), func(d int32) pb.DayOfWeek { return pb.DayOfWeek(d) }), 1, 7, rapid.ID).Draw(t, "days")
}

func drawSchedule(t *rapid.T) *pb.Schedule {
	s := &pb.Schedule{TimeZone: rapid.SampledFrom(testZones).Draw(t, "zone")}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		s.Kind = &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{IntervalHours: rapid.SampledFrom([]int32{4, 6, 8, 12, 24}).Draw(t, "interval"),
			WindowStart: drawTime(t), WindowHours: rapid.Int32Range(4, 24).Draw(t, "window")}}
	case 1:
		s.Kind = &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: drawTime(t)}}
	case 2:
		s.Kind = &pb.Schedule_Weekly{Weekly: &pb.WeeklySchedule{Days: drawDays(t), Time: drawTime(t)}}
	}
	return s
}

func drawMonthly(t *rapid.T) (*pb.WeekdaysOfMonth, *pb.DaysOfMonth) {
	if rapid.Bool().Draw(t, "weekdays") {
		return &pb.WeekdaysOfMonth{Days: drawDays(t), Ordinals: rapid.SliceOfNDistinct(
			rapid.Map(rapid.Int32Range(1, 5), func(o int32) pb.Ordinal { return pb.Ordinal(o) }), 1, 5, rapid.ID).Draw(t, "ordinals")}, nil
	}
	return nil, &pb.DaysOfMonth{Days: rapid.SliceOfNDistinct(rapid.Int32Range(1, 31), 1, 31, rapid.ID).Draw(t, "numbers"), LastDay: rapid.Bool().Draw(t, "last")}
}

// drawRetention gives terms of about the same length for all rules, so that each has
// its say.
func drawRetention(t *rapid.T) *pb.Retention {
	r := &pb.Retention{}
	some := rapid.IntRange(1, 15).Draw(t, "rules")
	if some&1 != 0 {
		r.Daily = &pb.DailyRetention{Days: rapid.Int32Range(1, 800).Draw(t, "for days")}
	}
	if some&2 != 0 {
		r.Weekly = &pb.WeeklyRetention{Days: drawDays(t), Weeks: rapid.Int32Range(1, 110).Draw(t, "for weeks")}
	}
	if some&4 != 0 {
		r.Monthly = &pb.MonthlyRetention{Months: rapid.Int32Range(1, 26).Draw(t, "for months")}
		if w, d := drawMonthly(t); w != nil {
			r.Monthly.On = &pb.MonthlyRetention_Weekdays{Weekdays: w}
		} else {
			r.Monthly.On = &pb.MonthlyRetention_Days{Days: d}
		}
	}
	if some&8 != 0 {
		r.Yearly = &pb.YearlyRetention{Years: rapid.Int32Range(1, 3).Draw(t, "for years"),
			MonthsOfYear: rapid.SliceOfNDistinct(rapid.Int32Range(1, 12), 1, 12, rapid.ID).Draw(t, "months")}
		if w, d := drawMonthly(t); w != nil {
			r.Yearly.On = &pb.YearlyRetention_Weekdays{Weekdays: w}
		} else {
			r.Yearly.On = &pb.YearlyRetention_Days{Days: d}
		}
	}
	return r
}

// TestDailyRunsOnceOnEachDay compares with clocks looked at minute by minute.
func TestDailyRunsOnceOnEachDay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(testZones).Draw(t, "zone")
		tod := drawTime(t)
		s := &pb.Schedule{TimeZone: zone, Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: tod}}}
		loc := Zone(s)
		y, m, d := drawMoment(t, loc).In(loc).Date()
		var want []time.Time
		for day := d - 2; day <= d+2; day++ {
			date := time.Date(y, m, day, 0, 0, 0, 0, time.UTC)
			run := bruteDaily(loc, date.Year(), date.Month(), date.Day(), int(tod.Hours), int(tod.Minutes))
			if run.IsZero() {
				continue
			}
			if l := run.In(loc); l.Day() != date.Day() {
				t.Fatalf("the test is wrong: %v is not on %v", l, date)
			}
			want = append(want, run)
		}
		if got := slices.Collect(Runs(s, want[0].Add(-1), want[len(want)-1])); !slices.Equal(got, want) {
			t.Fatalf("in %s daily at %02d:%02d runs at\n%v, not\n%v", zone, tod.Hours, tod.Minutes, got, want)
		}
	})
}

// TestHourlyIsDailyManyTimes: its runs are those of as many daily schedules.
func TestHourlyIsDailyManyTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &pb.HourlySchedule{IntervalHours: rapid.SampledFrom([]int32{4, 6, 8, 12, 24}).Draw(t, "interval"),
			WindowStart: drawTime(t), WindowHours: rapid.Int32Range(4, 24).Draw(t, "window")}
		s := &pb.Schedule{TimeZone: rapid.SampledFrom(testZones).Draw(t, "zone"), Kind: &pb.Schedule_Hourly{Hourly: h}}
		from := drawMoment(t, Zone(s)).AddDate(0, 0, -5)
		to := from.AddDate(0, 0, 10)
		var want []time.Time
		for at := h.WindowStart.Hours; at <= h.WindowStart.Hours+h.WindowHours && at < h.WindowStart.Hours+24; at += h.IntervalHours {
			daily := &pb.Schedule{TimeZone: s.TimeZone, Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{
				Time: &pb.TimeOfDay{Hours: at % 24, Minutes: h.WindowStart.Minutes}}}}
			want = slices.AppendSeq(want, Runs(daily, from, to))
		}
		slices.SortFunc(want, time.Time.Compare)
		want = slices.Compact(want)
		if got := slices.Collect(Runs(s, from, to)); !slices.Equal(got, want) {
			t.Fatalf("%v runs at\n%v, not\n%v", s, got, want)
		}
	})
}

// TestNextLatestAndRunsAgree, at runs, between them, and a nanosecond beside them.
func TestNextLatestAndRunsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedule(t)
		from := drawMoment(t, Zone(s)).AddDate(0, 0, -20).Add(time.Duration(rapid.Int64Range(0, 1e9-1).Draw(t, "ns")))
		to := from.AddDate(0, 0, 40)
		runs := slices.Collect(Runs(s, from, to))
		if len(runs) < 4 || runs[0] != Next(s, from) {
			t.Fatalf("%v: the next after %v is %v; runs: %v", s, from, Next(s, from), runs)
		}
		for i, r := range runs {
			if i > 0 && !r.After(runs[i-1]) {
				t.Fatalf("%v: %v comes after %v", s, r, runs[i-1])
			}
			if got := Next(s, r.Add(-1)); got != r {
				t.Fatalf("%v: just before %v the next is %v", s, r, got)
			}
			if got, ok := Latest(s, r); got != r || !ok {
				t.Fatalf("%v: at %v the latest is %v", s, r, got)
			}
			if i+1 == len(runs) {
				continue
			}
			next := runs[i+1]
			if got := Next(s, r); got != next {
				t.Fatalf("%v: at %v the next is %v, not %v", s, r, got, next)
			}
			got, ok := Latest(s, next.Add(-1))
			if near := next.Add(-1).Sub(r) < 8*24*time.Hour; ok != near || near && got != r {
				t.Fatalf("%v: just before %v the latest is %v (%v), not %v", s, next, got, ok, r)
			}
		}
		middle := from.Add(time.Duration(rapid.Int64Range(0, int64(to.Sub(from))).Draw(t, "middle")))
		if parts := slices.AppendSeq(slices.Collect(Runs(s, from, middle)), Runs(s, middle, to)); !slices.Equal(parts, runs) {
			t.Fatalf("%v: in two parts, at %v: %v, in one %v", s, middle, parts, runs)
		}
	})
}

// TestNeverEarly: no matching rule, by any reading, would have kept a point longer;
// and none is kept much longer than one of them says, which is the one named.
func TestNeverEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pb.Policy{Schedule: drawSchedule(t), Retention: drawRetention(t)}
		slot := Next(p.Schedule, drawMoment(t, Zone(p.Schedule)))
		for range 60 {
			pt := Point{Slot: slot, Snapshot: slot.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Hour)).Draw(t, "late")))}
			if rapid.Bool().Draw(t, "given") {
				pt.RetainUntil = slot.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "until")) * 24 * time.Hour)
			}
			k := Keep(p, pt)
			least, named := pt.Snapshot, false
			if pt.RetainUntil.After(least) {
				least = pt.RetainUntil
				named = k.Rule == pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL && k.Until.Equal(least)
			}
			rules := bruteRules(p, pt)
			for _, r := range rules {
				for _, end := range r.ends {
					if least.Before(end) {
						least = end
					}
					named = named || r.rule == k.Rule && k.Until.Sub(end) >= 0 && k.Until.Sub(end) <= 25*time.Hour
				}
			}
			if len(rules) == 0 && least.Equal(pt.Snapshot) {
				named = k.Rule == pb.RetentionRule_RETENTION_RULE_UNSPECIFIED
			}
			if k.Until.Before(least) || k.Until.Sub(least) > 25*time.Hour || !named {
				t.Fatalf("%v:\n%+v is kept until %v by %v; it should be %v, of %v", p, pt, k.Until, k.Rule, least, rules)
			}
			slot = Next(p.Schedule, slot)
		}
	})
}

// TestForeseeIsWhatHappens plays the time run by run.
func TestForeseeIsWhatHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pb.Policy{Schedule: drawSchedule(t), Retention: drawRetention(t)}
		p.Retention.Daily = &pb.DailyRetention{Days: rapid.Int32Range(1, 20).Draw(t, "few days")}
		start := drawMoment(t, Zone(p.Schedule))
		end := start.AddDate(0, 0, 60)
		var have []Point
		at := start.AddDate(0, 0, -100)
		for range rapid.IntRange(0, 5).Draw(t, "points") {
			at = at.Add(time.Duration(rapid.IntRange(0, 20*24).Draw(t, "hours")) * time.Hour)
			pt := Point{Snapshot: at}
			if rapid.Bool().Draw(t, "scheduled") {
				pt.Slot = at
			} else {
				pt.RetainUntil = at.AddDate(0, 0, rapid.IntRange(0, 300).Draw(t, "kept for"))
			}
			have = append(have, pt)
		}
		runs := slices.Collect(Runs(p.Schedule, start, end))
		var there []Point
		prune := func(now time.Time) {
			if len(there) == 0 {
				return
			}
			newest := there[len(there)-1]
			older := slices.DeleteFunc(there[:len(there)-1], func(pt Point) bool { return !Keep(p, pt).Until.After(now) })
			there = append(older, newest)
		}
		there = append(there, have...)
		for _, r := range runs {
			if slices.ContainsFunc(have, func(pt Point) bool { return pt.Slot.Equal(r) }) {
				continue
			}
			there = append(there, Point{Snapshot: r, Slot: r})
			slices.SortStableFunc(there, func(a, b Point) int { return a.Snapshot.Compare(b.Snapshot) })
			prune(r)
		}
		prune(end)
		var foreseen []Point
		fates := Foresee(p, have, runs, end)
		for i, f := range fates {
			if f.KeptAtEnd {
				foreseen = append(foreseen, f.Point)
			} else if i == len(fates)-1 {
				t.Fatal("the newest is gone")
			}
		}
		if !slices.Equal(foreseen, there) {
			t.Fatalf("%v: left are\n%v, and foreseen\n%v", p, there, foreseen)
		}
	})
}

// TestShortensSeesWhatIsShortened: it must be true if any of the points of some years
// would be kept shorter, and false if all terms are longer.
func TestShortensSeesWhatIsShortened(t *testing.T) {
	shortened, not := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		old := &pb.Policy{Schedule: drawSchedule(t), Retention: drawRetention(t)}
		now := proto.CloneOf(old)
		longer := func(r *pb.Retention) {
			if r.Daily != nil {
				r.Daily.Days += rapid.Int32Range(0, 100).Draw(t, "more days")
			}
			if r.Weekly != nil {
				r.Weekly.Weeks += rapid.Int32Range(0, 10).Draw(t, "more weeks")
			}
			if r.Monthly != nil {
				r.Monthly.Months += rapid.Int32Range(0, 3).Draw(t, "more months")
			}
		}
		kind := rapid.IntRange(0, 4).Draw(t, "change")
		switch kind {
		case 0: // longer
			longer(now.Retention)
		case 1: // all anew
			now.Retention = drawRetention(t)
		case 2: // one rule less, and perhaps another that does for it
			longer(now.Retention)
			now.Retention.Weekly = nil
		case 3:
			longer(now.Retention)
			now.Schedule.TimeZone = rapid.SampledFrom(testZones).Draw(t, "new zone")
		case 4:
			now.Retention.Daily = &pb.DailyRetention{Days: rapid.Int32Range(1, 1200).Draw(t, "new days")}
			now.Retention.Monthly = nil
		}
		says := Shortens(old, now)
		if says && kind == 0 {
			t.Fatalf("%v\nis said to be shorter than\n%v", now, old)
		}
		for day := range 400 {
			for slot := range Runs(old.Schedule, time.Unix(int64(day)*secondsOfDay+1e9, 0), time.Unix(int64(day+1)*secondsOfDay+1e9, 0)) {
				pt := Point{Slot: slot, Snapshot: slot.Add(time.Duration(day%25) * time.Hour)}
				was, is := Keep(old, pt), Keep(now, pt)
				if is.Until.Before(was.Until) {
					shortened++
					if !says {
						t.Fatalf("the point %v was kept until %v, and is until %v; that is said not to be shorter:\n%v\n%v", pt, was.Until, is.Until, old, now)
					}
					return
				}
			}
		}
		not++
	})
	if !t.Failed() && (shortened == 0 || not == 0) {
		t.Errorf("%d changes took something from a point, %d did not: this tests nothing", shortened, not)
	}
}

// TestTermsInDays: the bounds with which terms in months are compared to terms in
// days hold from every day of the calendar's 400 years.
func TestTermsInDays(t *testing.T) {
	for months := 1; months <= 1188; months = months*5/4 + 1 {
		s := span{months: months}
		for day := int64(0); day < 146097; day += 1 + day%3 {
			d := time.Unix(day*secondsOfDay, 0).UTC()
			if n := int((d.AddDate(0, months, 0).Unix() - d.Unix()) / secondsOfDay); n < s.least() || n > s.most() {
				t.Fatalf("%d months from %v are %d days; the bounds are %d and %d", months, d, n, s.least(), s.most())
			}
		}
	}
}

func BenchmarkRuns(b *testing.B) {
	s := &pb.Schedule{TimeZone: "Europe/Berlin", Kind: &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{
		IntervalHours: 4, WindowStart: &pb.TimeOfDay{}, WindowHours: 24}}}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for b.Loop() {
		n := 0
		for range Runs(s, from, from.AddDate(10, 0, 0)) {
			n++
		}
		if n != 21912 {
			b.Fatalf("%d runs", n)
		}
	}
}
