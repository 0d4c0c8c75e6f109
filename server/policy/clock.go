package policy

import (
	"math"
	"sync"
	"time"
	_ "time/tzdata" // zones must exist on machines without any, too

	pb "cairn/proto/cairn/v1"
)

// zones are the locations that were loaded, by name: loading one parses it.
var zones sync.Map

// Zone is the schedule's time zone; UTC if it names none or one that this program
// does not know.
func Zone(s *pb.Schedule) *time.Location {
	name := s.GetTimeZone()
	if name == "" || name == "UTC" || name == "Local" { // Local differs from server to server
		return time.UTC
	}
	if loc, ok := zones.Load(name); ok {
		return loc.(*time.Location)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return time.UTC
	}
	zones.Store(name, loc)
	return loc
}

const (
	secondsOfDay = 24 * 60 * 60
	// reach is more than any two offsets from UTC are apart, in seconds: wall times
	// this far from a change of the clocks have one reading.
	reach = 2 * secondsOfDay
)

// A clock turns wall times of a zone into instants. Both are seconds since 1970:
// an instant in UTC, a wall time as though the zone were UTC. It remembers where
// it was last, and is quick for times that follow each other.
type clock struct {
	loc *time.Location
	at  period
}

// period is the time between two changes of a zone's clocks: instants in
// [from, to), offset seconds east of UTC.
type period struct{ from, to, offset int64 }

func newClock(loc *time.Location) *clock { return &clock{loc: loc} }

// period gives the one that an instant is in.
func (c *clock) period(t int64) period {
	at := time.Unix(t, 0).In(c.loc)
	_, offset := at.Zone()
	p := period{math.MinInt64 / 2, math.MaxInt64 / 2, int64(offset)}
	from, to := at.ZoneBounds()
	if !from.IsZero() {
		p.from = from.Unix()
	}
	if !to.IsZero() {
		p.to = to.Unix()
	}
	if p.to <= t {
		// Where package time has only a zone's rule, from 2038 on, it ends years after
		// 365 days: a leap year's last day seems to be past its period's end. No rule
		// changes clocks around New Year.
		p.to = t + secondsOfDay
	}
	return p
}

// reading is what a wall time means.
type reading struct {
	first, last int64 // its first and its last coming, which are mostly the same
	// Of a time that does not come: the periods before and after the jump over it.
	skipped       bool
	before, after period
}

// read finds the instants of a wall time.
func (c *clock) read(wall int64) (r reading) {
	if t := wall - c.at.offset; t >= c.at.from+reach && t < c.at.to-reach {
		return reading{first: t, last: t}
	}
	r.skipped = true
	p := c.period(wall - reach)
	for {
		t := wall - p.offset
		if t >= p.from && t < p.to {
			if r.skipped {
				r.first, r.skipped = t, false
			}
			r.last, c.at = t, p
		}
		if p.to > wall+reach {
			return r
		}
		next := c.period(p.to)
		if r.skipped && t >= p.to && wall-next.offset < next.from {
			r.before, r.after = p, next
		}
		p = next
	}
}

// run is the instant at which what is planned for a wall time runs; false if its
// day is left out.
func (c *clock) run(wall int64) (int64, bool) {
	r := c.read(wall)
	if !r.skipped {
		return r.first, true
	}
	unset := wall - r.before.offset
	lastMinute := (r.before.to+r.before.offset-1)/60*60 - r.before.offset
	switch day := dayOf(wall); day {
	case dayOf(unset + r.after.offset):
		return unset, true
	case dayOf(lastMinute + r.before.offset):
		return lastMinute, true
	case dayOf(r.after.from + r.after.offset):
		return r.after.from, true
	}
	return 0, false
}

// end is the instant of a wall time that something lasts until: the latest
// reading that it has.
func (c *clock) end(wall int64) int64 {
	r := c.read(wall)
	if r.skipped {
		return wall - r.before.offset
	}
	return r.last
}

// wall is what the zone's clocks show at an instant.
func (c *clock) wall(t int64) int64 {
	if t < c.at.from || t >= c.at.to {
		c.at = c.period(t)
	}
	return t + c.at.offset
}

// dayOf is the number of a wall time's day; day 0 is 1 January 1970.
func dayOf(wall int64) int64 {
	d := wall / secondsOfDay
	if wall%secondsOfDay < 0 {
		d--
	}
	return d
}

// date is a day of the calendar.
type date struct {
	year        int
	month       time.Month
	day         int
	weekday     pb.DayOfWeek
	daysInMonth int
}

func dateOf(day int64) date {
	t := time.Unix(day*secondsOfDay, 0).UTC()
	y, m, d := t.Date()
	return date{y, m, d, weekdayOf(day), time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day()}
}

// weekdayOf is the day of the week of a day's number.
func weekdayOf(day int64) pb.DayOfWeek {
	const thursday = 3 // day 0 was one
	return pb.DayOfWeek(((day+thursday)%7+7)%7 + 1)
}
