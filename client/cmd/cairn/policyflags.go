package main

import (
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	cairnv1 "cairn/proto/cairn/v1"
)

// policyFlags are the settings of a policy: what create makes, update changes
// and preview tries.
type policyFlags struct {
	displayName, at, zone, weekly, every, forHours, minimum string
	daily                                                   bool
	keepDays, keepWeeks, keepMonths, keepYears              int32
	keepWeeksOn, keepMonthsOn, keepYearsOn                  string
}

// The flags by what they are about.
var (
	scheduleFlags  = []string{"at", "time-zone", "daily", "weekly", "every", "for"}
	retentionFlags = []string{"keep-days", "keep-weeks", "keep-weeks-on", "keep-months", "keep-months-on", "keep-years", "keep-years-on"}
	minimumFlags   = []string{"min-consistency", "minimum-consistency"}
)

func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.displayName, "display-name", "", "text for people")
	f.StringVar(&p.at, "at", "22:00", "time of the backup, or of the day's first")
	f.StringVar(&p.zone, "time-zone", "UTC", "IANA time zone, such as Europe/Berlin")
	f.BoolVar(&p.daily, "daily", false, "run once on every day (the default)")
	f.StringVar(&p.weekly, "weekly", "", "run on these days of the week only: mon,thu")
	f.StringVar(&p.every, "every", "", "run every 4h, 6h, 8h, 12h or 24h")
	f.StringVar(&p.forHours, "for", "24h", "with --every: length of the daily window, which begins at --at")
	f.StringVar(&p.minimum, "min-consistency", "", "backups that reach less fail: crash, file-system or application; any for no minimum")
	f.StringVar(&p.minimum, "minimum-consistency", "", "as --min-consistency")
	_ = f.MarkHidden("minimum-consistency") // it is there
	f.Int32Var(&p.keepDays, "keep-days", 30, "keep every point for this many days; 0: only as the other rules say")
	f.Int32Var(&p.keepWeeks, "keep-weeks", 0, "keep weekly points for this many weeks")
	f.StringVar(&p.keepWeeksOn, "keep-weeks-on", "sun", "days whose points are weekly ones")
	f.Int32Var(&p.keepMonths, "keep-months", 0, "keep monthly points for this many months")
	f.StringVar(&p.keepMonthsOn, "keep-months-on", "first-sun", "first-sun (also second, third, fourth, last), 15 or last-day")
	f.Int32Var(&p.keepYears, "keep-years", 0, "keep yearly points for this many years")
	f.StringVar(&p.keepYearsOn, "keep-years-on", "1:first-sun", "months and days: 1,7:first-sun, jan:last-day")
}

func changed(cmd *cobra.Command, names ...string) bool {
	for _, n := range names {
		if cmd.Flags().Changed(n) {
			return true
		}
	}
	return false
}

// any says whether a flag was given.
func (p *policyFlags) any(cmd *cobra.Command) bool {
	return changed(cmd, "display-name") || changed(cmd, scheduleFlags...) || changed(cmd, retentionFlags...) || changed(cmd, minimumFlags...)
}

// check refuses what is wrong whatever policy the flags are to change, so that no
// server need be asked for that.
func (p *policyFlags) check(cmd *cobra.Command) error {
	if _, err := p.kind(cmd); err != nil {
		return err
	}
	_, err := timeOfDay(p.at)
	for _, f := range []struct {
		name string
		read func() error
	}{
		{"every", func() error { _, err := hours("--every", p.every); return err }},
		{"for", func() error { _, err := hours("--for", p.forHours); return err }},
		{"weekly", func() error { _, err := weekdays("--weekly", p.weekly); return err }},
		{"min-consistency", func() error { _, err := p.leastConsistency(); return err }},
		{"keep-weeks-on", func() error { _, err := weekdays("--keep-weeks-on", p.keepWeeksOn); return err }},
		{"keep-months-on", func() error { _, _, err := daysOfMonth("--keep-months-on", p.keepMonthsOn); return err }},
		{"keep-years-on", func() error { return p.onOfYear(&cairnv1.YearlyRetention{}) }},
	} {
		if err == nil && changed(cmd, f.name) {
			err = f.read()
		}
	}
	return err
}

// kind is the flag that says what kind of schedule it is; "" if none does.
func (p *policyFlags) kind(cmd *cobra.Command) (string, error) {
	var kinds []string
	for _, name := range []string{"daily", "weekly", "every"} {
		if changed(cmd, name) && (name != "daily" || p.daily) {
			kinds = append(kinds, name)
		}
	}
	if len(kinds) > 1 {
		return "", usagef("--%s and --%s exclude each other", kinds[0], kinds[1])
	}
	return strings.Join(kinds, ""), nil
}

func (p *policyFlags) leastConsistency() (cairnv1.ConsistencyClass, error) {
	if p.minimum == "any" {
		return 0, nil
	}
	return consistency(p.minimum)
}

// apply changes a policy, which may be an empty one, as the flags say, and returns
// the fields that they stand for. A schedule or a retention that the flags do not
// touch stays, also unset.
func (p *policyFlags) apply(cmd *cobra.Command, to *cairnv1.Policy) (paths []string, err error) {
	if changed(cmd, "display-name") {
		to.DisplayName = p.displayName
		paths = append(paths, "display_name")
	}
	if changed(cmd, minimumFlags...) {
		if to.MinimumConsistency, err = p.leastConsistency(); err != nil {
			return nil, err
		}
		paths = append(paths, "minimum_consistency")
	}
	if changed(cmd, scheduleFlags...) {
		if to.Schedule, err = p.schedule(cmd, to.GetSchedule()); err != nil {
			return nil, err
		}
		paths = append(paths, "schedule")
	}
	if changed(cmd, retentionFlags...) {
		if to.Retention, err = p.retention(cmd, to.GetRetention()); err != nil {
			return nil, err
		}
		paths = append(paths, "retention")
	}
	return paths, nil
}

// schedule is the one there was, nil for none, with what the flags change.
func (p *policyFlags) schedule(cmd *cobra.Command, was *cairnv1.Schedule) (*cairnv1.Schedule, error) {
	at, err := timeOfDay(p.at)
	if err != nil {
		return nil, err
	}
	s := &cairnv1.Schedule{TimeZone: p.zone}
	if was != nil && !changed(cmd, "time-zone") {
		s.TimeZone = was.TimeZone
	}
	if was != nil && !changed(cmd, "at") {
		for _, t := range []*cairnv1.TimeOfDay{was.GetDaily().GetTime(), was.GetWeekly().GetTime(), was.GetHourly().GetWindowStart()} {
			if t != nil {
				at = t
			}
		}
	}
	kind, err := p.kind(cmd)
	if err != nil {
		return nil, err
	}
	switch {
	case kind != "":
	case was.GetHourly() != nil:
		kind = "every"
	case was.GetWeekly() != nil:
		kind = "weekly"
	}
	if kind != "every" && changed(cmd, "for") {
		return nil, usagef("--for is the length of the window in which --every repeats a backup: add --every, or leave it out")
	}
	switch kind {
	case "every":
		h := &cairnv1.HourlySchedule{IntervalHours: was.GetHourly().GetIntervalHours(), WindowHours: was.GetHourly().GetWindowHours(), WindowStart: at}
		if changed(cmd, "every") {
			if h.IntervalHours, err = hours("--every", p.every); err != nil {
				return nil, err
			}
		}
		if changed(cmd, "for") || was.GetHourly() == nil {
			if h.WindowHours, err = hours("--for", p.forHours); err != nil {
				return nil, err
			}
		}
		s.Kind = &cairnv1.Schedule_Hourly{Hourly: h}
	case "weekly":
		w := &cairnv1.WeeklySchedule{Days: was.GetWeekly().GetDays(), Time: at}
		if changed(cmd, "weekly") {
			if w.Days, err = weekdays("--weekly", p.weekly); err != nil {
				return nil, err
			}
		}
		s.Kind = &cairnv1.Schedule_Weekly{Weekly: w}
	default:
		s.Kind = &cairnv1.Schedule_Daily{Daily: &cairnv1.DailySchedule{Time: at}}
	}
	return s, nil
}

// retention is the one there was, nil for none, with what the flags change.
func (p *policyFlags) retention(cmd *cobra.Command, was *cairnv1.Retention) (*cairnv1.Retention, error) {
	r := &cairnv1.Retention{Daily: &cairnv1.DailyRetention{Days: p.keepDays}}
	if was != nil {
		r = proto.CloneOf(was)
	}
	if changed(cmd, "keep-days") {
		r.Daily = &cairnv1.DailyRetention{Days: p.keepDays}
		if p.keepDays == 0 {
			r.Daily = nil
		}
	}
	if err := p.weeks(cmd, r); err != nil {
		return nil, err
	}
	if err := p.months(cmd, r); err != nil {
		return nil, err
	}
	if err := p.years(cmd, r); err != nil {
		return nil, err
	}
	if r.Daily == nil && r.Weekly == nil && r.Monthly == nil && r.Yearly == nil {
		return nil, usagef("no rule is left to keep a point: give one of --keep-days, --keep-weeks, --keep-months and --keep-years")
	}
	return r, nil
}

// lone refuses a flag --keep-…-on without the rule that it belongs to.
func lone(cmd *cobra.Command, rule string) error {
	if changed(cmd, "keep-"+rule+"-on") {
		return usagef("--keep-%s-on says which points --keep-%s is for: add --keep-%s N, or leave it out", rule, rule, rule)
	}
	return nil
}

func (p *policyFlags) weeks(cmd *cobra.Command, r *cairnv1.Retention) (err error) {
	if changed(cmd, "keep-weeks") {
		days := r.GetWeekly().GetDays()
		r.Weekly = &cairnv1.WeeklyRetention{Days: days, Weeks: p.keepWeeks}
		if p.keepWeeks == 0 {
			r.Weekly = nil
		}
	}
	if r.Weekly == nil {
		return lone(cmd, "weeks")
	}
	if changed(cmd, "keep-weeks-on") || len(r.Weekly.Days) == 0 {
		r.Weekly.Days, err = weekdays("--keep-weeks-on", p.keepWeeksOn)
	}
	return err
}

func (p *policyFlags) months(cmd *cobra.Command, r *cairnv1.Retention) error {
	if changed(cmd, "keep-months") {
		on := r.GetMonthly().GetOn()
		r.Monthly = &cairnv1.MonthlyRetention{On: on, Months: p.keepMonths}
		if p.keepMonths == 0 {
			r.Monthly = nil
		}
	}
	if r.Monthly == nil {
		return lone(cmd, "months")
	}
	if !changed(cmd, "keep-months-on") && r.Monthly.On != nil {
		return nil
	}
	w, d, err := daysOfMonth("--keep-months-on", p.keepMonthsOn)
	if w != nil {
		r.Monthly.On = &cairnv1.MonthlyRetention_Weekdays{Weekdays: w}
	} else {
		r.Monthly.On = &cairnv1.MonthlyRetention_Days{Days: d}
	}
	return err
}

func (p *policyFlags) years(cmd *cobra.Command, r *cairnv1.Retention) error {
	if changed(cmd, "keep-years") {
		was := r.GetYearly()
		r.Yearly = &cairnv1.YearlyRetention{MonthsOfYear: was.GetMonthsOfYear(), On: was.GetOn(), Years: p.keepYears}
		if p.keepYears == 0 {
			r.Yearly = nil
		}
	}
	if r.Yearly == nil {
		return lone(cmd, "years")
	}
	if !changed(cmd, "keep-years-on") && r.Yearly.On != nil {
		return nil
	}
	return p.onOfYear(r.Yearly)
}

// onOfYear reads --keep-years-on into a rule.
func (p *policyFlags) onOfYear(to *cairnv1.YearlyRetention) (err error) {
	months, on, ok := strings.Cut(p.keepYearsOn, ":")
	if !ok {
		return usagef("--keep-years-on %q: must be MONTHS:DAYS, such as 1,7:first-sun", p.keepYearsOn)
	}
	if to.MonthsOfYear, err = monthsOfYear("--keep-years-on", months); err != nil {
		return err
	}
	w, d, err := daysOfMonth("--keep-years-on", on)
	if w != nil {
		to.On = &cairnv1.YearlyRetention_Weekdays{Weekdays: w}
	} else {
		to.On = &cairnv1.YearlyRetention_Days{Days: d}
	}
	return err
}
