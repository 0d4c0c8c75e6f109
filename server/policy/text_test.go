package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "cairn/proto/cairn/v1"
)

// parsePolicy reads one line of a policy into it:
//
//	hourly 4 08:00 12                 every 4 hours, in a window of 12 from 08:00 on
//	daily 02:30
//	weekly Mon,Thu 22:00
//	keep daily 7
//	keep weekly Sun 4
//	keep monthly first,last Sun 12    or 1,15,last: days
//	keep yearly Jan,Jul last 10       or weekdays as above
func parsePolicy(p *pb.Policy, line string) error {
	r := words{left: strings.Fields(line)}
	if r.next() != "keep" {
		parseSchedule(p.Schedule, strings.Fields(line)[0], &r)
		return r.end(line)
	}
	if p.Retention == nil {
		p.Retention = &pb.Retention{}
	}
	switch r.next() {
	case "daily":
		p.Retention.Daily = &pb.DailyRetention{Days: r.number()}
	case "weekly":
		p.Retention.Weekly = &pb.WeeklyRetention{Days: r.weekdays(), Weeks: r.number()}
	case "monthly":
		m := &pb.MonthlyRetention{}
		if len(r.left) == 3 {
			m.On = &pb.MonthlyRetention_Weekdays{Weekdays: r.weekdaysOfMonth()}
		} else {
			m.On = &pb.MonthlyRetention_Days{Days: r.daysOfMonth()}
		}
		m.Months = r.number()
		p.Retention.Monthly = m
	case "yearly":
		y := &pb.YearlyRetention{MonthsOfYear: pick[int32](&r, "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec")}
		if len(r.left) == 3 {
			y.On = &pb.YearlyRetention_Weekdays{Weekdays: r.weekdaysOfMonth()}
		} else {
			y.On = &pb.YearlyRetention_Days{Days: r.daysOfMonth()}
		}
		y.Years = r.number()
		p.Retention.Yearly = y
	default:
		r.bad = true
	}
	return r.end(line)
}

func parseSchedule(s *pb.Schedule, kind string, r *words) {
	switch kind {
	case "hourly":
		s.Kind = &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{IntervalHours: r.number(), WindowStart: r.clock(), WindowHours: r.number()}}
	case "daily":
		s.Kind = &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: r.clock()}}
	case "weekly":
		s.Kind = &pb.Schedule_Weekly{Weekly: &pb.WeeklySchedule{Days: r.weekdays(), Time: r.clock()}}
	default:
		r.bad = true
	}
}

// words are what is left of a line.
type words struct {
	left []string
	bad  bool
}

func (r *words) end(line string) error {
	if r.bad || len(r.left) > 0 {
		return fmt.Errorf("%q is no line of a policy", line)
	}
	return nil
}

func (r *words) next() (w string) {
	if len(r.left) == 0 {
		r.bad = true
		return ""
	}
	w, r.left = r.left[0], r.left[1:]
	return w
}

func (r *words) number() int32 {
	n, err := strconv.Atoi(r.next())
	r.bad = r.bad || err != nil
	return int32(n)
}

func (r *words) clock() *pb.TimeOfDay {
	t, err := time.Parse("15:04", r.next())
	r.bad = r.bad || err != nil
	return &pb.TimeOfDay{Hours: int32(t.Hour()), Minutes: int32(t.Minute())}
}

// pick reads words of a list, with commas between them, as their positions in it
// from 1 on.
func pick[E ~int32](r *words, list string) (out []E) {
	for w := range strings.SplitSeq(r.next(), ",") {
		i := slices.Index(strings.Fields(list), w)
		r.bad = r.bad || i < 0
		out = append(out, E(i+1))
	}
	return out
}

func (r *words) weekdays() []pb.DayOfWeek {
	return pick[pb.DayOfWeek](r, "Mon Tue Wed Thu Fri Sat Sun")
}

func (r *words) weekdaysOfMonth() *pb.WeekdaysOfMonth {
	return &pb.WeekdaysOfMonth{Ordinals: pick[pb.Ordinal](r, "first second third fourth last"), Days: r.weekdays()}
}

func (r *words) daysOfMonth() *pb.DaysOfMonth {
	d := &pb.DaysOfMonth{}
	for w := range strings.SplitSeq(r.next(), ",") {
		if w == "last" {
			d.LastDay = true
			continue
		}
		n, err := strconv.Atoi(w)
		r.bad = r.bad || err != nil
		d.Days = append(d.Days, int32(n))
	}
	return d
}
