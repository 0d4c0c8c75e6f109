package main

import (
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// A DATE on the command line is one of
//
//	2026-12-31             a day, in this machine's time zone
//	2026-12-31T12:00:00Z   a moment, in RFC 3339
//	30d, 4w, 12h           so far from now: ahead, or back where the past is meant
//	now

// dateKind is what a DATE stands for.
type dateKind struct {
	end  bool // a day counts to its last second, not from its first
	back bool // distances go into the past
}

var (
	dateAhead    = dateKind{}
	dateAheadEnd = dateKind{end: true}
	dateBack     = dateKind{back: true}
	dateBackEnd  = dateKind{back: true, end: true}
)

// date reads a DATE that a flag was given.
func date(flag, s string, kind dateKind) (time.Time, error) {
	return dateFrom(time.Now(), flag, s, kind)
}

func dateFrom(now time.Time, flag, s string, kind dateKind) (time.Time, error) {
	if s == "now" {
		return now, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		if kind.end {
			t = t.AddDate(0, 0, 1).Add(-time.Second)
		}
		return t, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if n, unit, ok := distance(s); ok {
		if kind.back {
			n = -n
		}
		switch unit {
		case 'h':
			return now.Add(time.Duration(n) * time.Hour), nil
		case 'd':
			return now.AddDate(0, 0, n), nil
		case 'w':
			return now.AddDate(0, 0, 7*n), nil
		}
	}
	way := "from now"
	if kind.back {
		way = "ago"
	}
	return time.Time{}, usagef("%s %q: must be a day such as 2027-01-31, a time such as 2027-01-31T12:00:00Z, or 30d for 30 days %s", flag, s, way)
}

// distance reads a number of up to five digits and its unit.
func distance(s string) (n int, unit byte, ok bool) {
	if len(s) < 2 || len(s) > 6 {
		return 0, 0, false
	}
	digits, unit := s[:len(s)-1], s[len(s)-1]
	n64, err := strconv.ParseUint(digits, 10, 31)
	return int(n64), unit, err == nil && (unit == 'h' || unit == 'd' || unit == 'w')
}

// retainUntil reads the last day, or the moment, to keep a point.
func retainUntil(s string) (time.Time, error) { return date("--retain-until", s, dateAheadEnd) }

// dateRange is the flags --from and --to.
type dateRange struct{ from, to string }

// times reads the range; what was not given is nil.
func (r dateRange) times(from, to dateKind) (start, end *timestamppb.Timestamp, err error) {
	if r.from != "" {
		t, err := date("--from", r.from, from)
		if err != nil {
			return nil, nil, err
		}
		start = timestamppb.New(t)
	}
	if r.to != "" {
		t, err := date("--to", r.to, to)
		if err != nil {
			return nil, nil, err
		}
		end = timestamppb.New(t)
	}
	if start != nil && end != nil && end.AsTime().Before(start.AsTime()) {
		return nil, nil, usagef("--from %s --to %s: the range ends before it begins", r.from, r.to)
	}
	return start, end, nil
}

// ago is a time in words: "3 h ago", for what somebody wants to judge at a glance.
func ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	d := time.Since(t.AsTime())
	switch {
	case d < 0:
		return when(t)
	case d < time.Minute:
		return when(t) + " (just now)"
	case d < time.Hour:
		return fmt.Sprintf("%s (%d min ago)", when(t), int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%s (%d h ago)", when(t), int(d.Hours()))
	}
	return fmt.Sprintf("%s (%d days ago)", when(t), int(d.Hours()/24))
}
