package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	cairnv1 "cairn/proto/cairn/v1"
)

// applied is a policy changed by flags as a person types them.
func applied(p *cairnv1.Policy, args ...string) (*cairnv1.Policy, error) {
	var fl policyFlags
	cmd := &cobra.Command{}
	fl.add(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return nil, err
	}
	if err := fl.check(cmd); err != nil {
		return nil, err
	}
	out := proto.CloneOf(p)
	_, err := fl.apply(cmd, out)
	return out, err
}

// Whatever policy there is, show prints flags that make it: out of nothing, and
// out of any other.
func TestEveryPolicyHasFlags(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	before := &cairnv1.Policy{}
	for range 2000 {
		p := randomPolicy(r)
		words := flagsText(p)
		got, err := applied(&cairnv1.Policy{}, strings.Fields(words)...)
		if err != nil {
			t.Fatalf("%s: %v", words, err)
		}
		if !proto.Equal(got, p) {
			t.Fatalf("%s\nmakes %v\nof    %v", words, got, p)
		}
		// The flags of a policy say nothing of rules that it does not have, so that
		// these must be taken away to make it of another.
		all := strings.Fields(words)
		for _, rule := range []string{"weeks", "months", "years"} {
			if !strings.Contains(words, "--keep-"+rule+" ") {
				all = append(all, "--keep-"+rule, "0")
			}
		}
		if p.MinimumConsistency == 0 {
			all = append(all, "--min-consistency", "any")
		}
		if got, err := applied(before, all...); err != nil || !proto.Equal(got, p) {
			t.Fatalf("%v\nmakes %v, %v\nof    %v\nout of %v", all, got, err, p, before)
		}
		before = p
	}
}

func randomPolicy(r *rand.Rand) *cairnv1.Policy {
	p := &cairnv1.Policy{
		Schedule:           &cairnv1.Schedule{TimeZone: []string{"UTC", "Europe/Berlin", "America/Argentina/Ushuaia"}[r.IntN(3)]},
		Retention:          &cairnv1.Retention{},
		MinimumConsistency: cairnv1.ConsistencyClass(r.IntN(4)),
	}
	at := &cairnv1.TimeOfDay{Hours: r.Int32N(24), Minutes: r.Int32N(60)}
	switch s := p.Schedule; r.IntN(3) {
	case 0:
		every := []int32{4, 6, 8, 12, 24}[r.IntN(5)]
		s.Kind = &cairnv1.Schedule_Hourly{Hourly: &cairnv1.HourlySchedule{IntervalHours: every, WindowHours: 4 + r.Int32N(21), WindowStart: at}}
	case 1:
		s.Kind = &cairnv1.Schedule_Daily{Daily: &cairnv1.DailySchedule{Time: at}}
	case 2:
		s.Kind = &cairnv1.Schedule_Weekly{Weekly: &cairnv1.WeeklySchedule{Days: someOf[cairnv1.DayOfWeek](r, 7), Time: at}}
	}
	rules := 1 + r.IntN(15) // at least one
	if rules&1 != 0 {
		p.Retention.Daily = &cairnv1.DailyRetention{Days: 1 + r.Int32N(9999)}
	}
	if rules&2 != 0 {
		p.Retention.Weekly = &cairnv1.WeeklyRetention{Days: someOf[cairnv1.DayOfWeek](r, 7), Weeks: 1 + r.Int32N(5163)}
	}
	if rules&4 != 0 {
		m := &cairnv1.MonthlyRetention{Months: 1 + r.Int32N(1188)}
		if w, d := randomDays(r); w != nil {
			m.On = &cairnv1.MonthlyRetention_Weekdays{Weekdays: w}
		} else {
			m.On = &cairnv1.MonthlyRetention_Days{Days: d}
		}
		p.Retention.Monthly = m
	}
	if rules&8 != 0 {
		y := &cairnv1.YearlyRetention{MonthsOfYear: someOf[int32](r, 12), Years: 1 + r.Int32N(99)}
		if w, d := randomDays(r); w != nil {
			y.On = &cairnv1.YearlyRetention_Weekdays{Weekdays: w}
		} else {
			y.On = &cairnv1.YearlyRetention_Days{Days: d}
		}
		p.Retention.Yearly = y
	}
	return p
}

func randomDays(r *rand.Rand) (*cairnv1.WeekdaysOfMonth, *cairnv1.DaysOfMonth) {
	switch r.IntN(3) {
	case 0:
		return &cairnv1.WeekdaysOfMonth{Ordinals: someOf[cairnv1.Ordinal](r, 5), Days: someOf[cairnv1.DayOfWeek](r, 7)}, nil
	case 1:
		return nil, &cairnv1.DaysOfMonth{LastDay: true}
	}
	return nil, &cairnv1.DaysOfMonth{Days: someOf[int32](r, 31), LastDay: r.IntN(2) == 0}
}

// someOf is at least one of 1 … n, each once, in any order.
func someOf[E ~int32](r *rand.Rand, n int) []E {
	var out []E
	for _, v := range r.Perm(n)[:1+r.IntN(n)] {
		out = append(out, E(v+1))
	}
	return out
}

// What update does with flags that say only a part of a schedule or retention.
func TestFlagsChangeWhatTheyName(t *testing.T) {
	const full = "--every 6h --for 12h --at 08:00 --time-zone Asia/Tokyo --keep-days 7 --keep-weeks 4 --keep-weeks-on sat --keep-months 12 --keep-months-on last-day"
	for _, c := range []struct{ from, flags, want string }{
		{full, "--at 09:30", strings.Replace(full, "08:00", "09:30", 1)},
		{full, "--every 4h", strings.Replace(full, "6h", "4h", 1)},
		{full, "--daily", strings.Replace(full, "--every 6h --for 12h", "--daily", 1)},
		{full, "--weekly mon,fri", strings.Replace(full, "--every 6h --for 12h", "--weekly mon,fri", 1)},
		{full, "--keep-weeks 0", strings.Replace(full, " --keep-weeks 4 --keep-weeks-on sat", "", 1)},
		{full, "--keep-weeks 5", strings.Replace(full, "weeks 4", "weeks 5", 1)},
		{full, "--keep-months-on third-wed", strings.Replace(full, "last-day", "third-wed", 1)},
		{"", "--keep-weeks 5", "--keep-days 30 --keep-weeks 5 --keep-weeks-on sun"},
		{"", "--keep-years 2 --keep-years-on jan,July:last-day", "--keep-days 30 --keep-years 2 --keep-years-on 1,7:last-day"},
		{"--weekly mon --at 01:00", "--time-zone Europe/Rome", "--weekly mon --at 01:00 --time-zone Europe/Rome --keep-days 0"},
	} {
		was, err := applied(&cairnv1.Policy{}, strings.Fields(c.from)...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := applied(was, strings.Fields(c.flags)...)
		if err != nil {
			t.Errorf("%s with %s: %v", c.from, c.flags, err)
			continue
		}
		if text := flagsText(got); text != c.want {
			t.Errorf("%s with %s is\n%s, want\n%s", c.from, c.flags, text, c.want)
		}
	}
}

func TestFlagsThatContradict(t *testing.T) {
	for flags, want := range map[string]string{
		"--daily --weekly mon":                                "--daily and --weekly exclude each other",
		"--every 4h --weekly mon":                             "--weekly and --every exclude each other",
		"--for 4h":                                            "add --every",
		"--weekly mon,":                                       `"" is not a day of the week`,
		"--keep-days 0":                                       "no rule is left",
		"--keep-weeks-on mon":                                 "add --keep-weeks N",
		"--keep-months 0 --keep-months-on 3":                  "add --keep-months N",
		"--keep-months 3 --keep-months-on first-day":          `"first-day" must be such as`,
		"--keep-months 3 --keep-months-on 1,first-sun":        "cannot be mixed",
		"--keep-months 3 --keep-months-on first-sun,last-mon": "first-sun,first-mon,last-sun,last-mon",
		"--keep-years 3 --keep-years-on first-sun":            "must be MONTHS:DAYS",
		"--keep-years 3 --keep-years-on 13:first-sun":         `"13" is not a month`,
		"--keep-years 3 --keep-years-on ma:first-sun":         `"ma" is not a month`,
		"--min-consistency none":                              "crash, file-system or application",
	} {
		_, err := applied(&cairnv1.Policy{}, strings.Fields(flags)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", flags, err, want)
		}
	}
}

func TestDates(t *testing.T) {
	now := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"2030-02-03":                time.Date(2030, 2, 3, 23, 59, 59, 0, time.Local),
		"2030-02-03T04:05:06+02:00": time.Date(2030, 2, 3, 2, 5, 6, 0, time.UTC),
		"10d":                       now.AddDate(0, 0, 10),
		"2w":                        now.AddDate(0, 0, 14),
		"36h":                       now.Add(36 * time.Hour),
		"now":                       now,
	} {
		got, err := dateFrom(now, "--x", s, dateAheadEnd)
		if err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v, want %v", s, got, err, want)
		}
	}
	if got, err := dateFrom(now, "--x", "10d", dateBack); err != nil || !got.Equal(now.AddDate(0, 0, -10)) {
		t.Errorf("10d ago is %v, %v", got, err)
	}
	for _, s := range []string{"", "d", "-1d", "1.5d", "999999d", "10", "10y", "tomorrow", "2030-02-30", "2030-02-03T04:05"} {
		if got, err := date("--x", s, dateAhead); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}
