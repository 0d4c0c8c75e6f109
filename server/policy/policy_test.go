package policy

import (
	"slices"
	"testing"
	"time"

	pb "cairn/proto/cairn/v1"
)

func daily(zone string, h, m int32) *pb.Schedule {
	return &pb.Schedule{TimeZone: zone, Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: h, Minutes: m}}}}
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestClockChanges has the days that mattered enough to be named in the package
// comment.
func TestClockChanges(t *testing.T) {
	for name, c := range map[string]struct {
		s            *pb.Schedule
		after, until string
		want         []string
	}{
		"skipped": {daily("Europe/Berlin", 2, 30), "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z",
			[]string{"2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"}},
		"twice": {daily("Europe/Berlin", 2, 30), "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z",
			[]string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		"the last hour of a day": {daily("America/Nuuk", 23, 30), "2024-03-29T12:00:00Z", "2024-04-01T12:00:00Z",
			[]string{"2024-03-29T23:30:00-02:00", "2024-03-30T22:59:00-02:00", "2024-03-31T23:30:00-01:00"}},
		"a whole day": {daily("Pacific/Apia", 10, 0), "2011-12-28T12:00:00Z", "2012-01-01T00:00:00Z",
			[]string{"2011-12-28T10:00:00-10:00", "2011-12-29T10:00:00-10:00", "2011-12-31T10:00:00+14:00", "2012-01-01T10:00:00+14:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			var want []time.Time
			for _, w := range c.want {
				want = append(want, at(t, w).UTC())
			}
			if got := slices.Collect(Runs(c.s, at(t, c.after), at(t, c.until))); !slices.Equal(got, want) {
				t.Errorf("runs are\n%v, not\n%v", got, want)
			}
			if got := Next(c.s, at(t, c.after)); got != want[0] {
				t.Errorf("the next run is %v, not %v", got, want[0])
			}
			if got, ok := Latest(c.s, want[1]); got != want[1] || !ok {
				t.Errorf("the latest run is %v, not %v", got, want[1])
			}
		})
	}
}

// TestLeapYearsAfter2037: package time gives the last day of such a year in most
// zones a period that has ended.
func TestLeapYearsAfter2037(t *testing.T) {
	for _, zone := range testZones {
		s := daily(zone, 2, 30)
		n := 0
		for range Runs(s, at(t, "2040-12-28T20:00:00Z"), at(t, "2041-01-02T20:00:00Z")) {
			n++
		}
		if n != 5 {
			t.Errorf("%s: %d runs in 5 days", zone, n)
		}
		Keep(&pb.Policy{Schedule: s}, Point{Snapshot: at(t, "2040-12-31T12:00:00Z"), Slot: at(t, "2040-12-31T12:00:00Z")})
	}
}

func TestKeepSpeaksForTheRuleThatLastsLongest(t *testing.T) {
	p := &pb.Policy{Schedule: daily("Europe/Berlin", 2, 30), Retention: &pb.Retention{
		Daily:   &pb.DailyRetention{Days: 7},
		Weekly:  &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 1},
		Monthly: &pb.MonthlyRetention{Months: 1, On: &pb.MonthlyRetention_Days{Days: &pb.DaysOfMonth{LastDay: true}}},
	}}
	for _, c := range []struct {
		slot, until string
		rule        pb.RetentionRule
	}{
		{"2026-03-28T02:30:00+01:00", "2026-04-04T02:30:00+02:00", pb.RetentionRule_RETENTION_RULE_DAILY},
		{"2026-03-29T03:30:00+02:00", "2026-04-05T03:30:00+02:00", pb.RetentionRule_RETENTION_RULE_WEEKLY},
		{"2026-03-31T02:30:00+02:00", "2026-05-01T02:30:00+02:00", pb.RetentionRule_RETENTION_RULE_MONTHLY},
	} {
		slot := at(t, c.slot)
		if got, want := Keep(p, Point{Snapshot: slot, Slot: slot}), (Kept{at(t, c.until).UTC(), c.rule}); got != want {
			t.Errorf("the point of %s is kept %v, not %v", c.slot, got, want)
		}
	}
}

func TestShortens(t *testing.T) {
	daily30 := &pb.Policy{Schedule: daily("Europe/Berlin", 2, 30), Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: 30}}}
	daily29 := &pb.Policy{Schedule: daily("Europe/Berlin", 2, 30), Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: 29}}}
	weekly := &pb.Policy{Schedule: daily("Europe/Berlin", 2, 30), Retention: &pb.Retention{
		Weekly: &pb.WeeklyRetention{Days: []pb.DayOfWeek{1, 2, 3, 4, 5, 6, 7}, Weeks: 5}}}
	utc := &pb.Policy{Schedule: daily("", 2, 30), Retention: daily30.Retention}
	for name, c := range map[string]struct {
		old, now *pb.Policy
		want     bool
	}{
		"the same":                    {daily30, daily30, false},
		"shorter":                     {daily30, daily29, true},
		"longer":                      {daily29, daily30, false},
		"all days by another name":    {daily30, weekly, false},
		"and back":                    {weekly, daily30, true},
		"another zone":                {daily30, utc, true},
		"another zone and far longer": {daily30, &pb.Policy{Schedule: utc.Schedule, Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: 32}}}, false},
	} {
		if got := Shortens(c.old, c.now); got != c.want {
			t.Errorf("%s: shortens is %v", name, got)
		}
	}
}
