// Package policy knows when backups run and how long their points are kept: pure
// functions of a policy and of time. They read no clock and no store, so that a
// preview, the scheduler and the clean-up cannot disagree.
//
// # Runs
//
// A schedule gives every day of its zone's calendar some wall times: one (daily,
// weekly on its days), or those of a window (hourly: its start, and every
// interval after that within the window's length and within 24 hours; a window
// that reaches past midnight gives times of the next day). A wall time becomes
// an instant thus:
//
//   - A time that comes twice, because clocks are set back, is its first coming.
//   - A time that does not come, because clocks are set forward, is when a clock
//     that nobody set would show it: 02:30 is 03:30 on the day without 02:30.
//   - Where that would be on another day (23:30, in a zone that jumps from 23:00
//     to midnight), it is the last minute that the day has.
//   - A day that a zone leaves out altogether (30 December 2011 in Apia) has
//     none.
//
// So the day of a run, in the zone, is always the day it was planned for, and a
// daily schedule has one run on each day that there is.
//
// # Retention
//
// Rules look at the local day of the run that a point was made for (its slot),
// durations count from its snapshot, in the calendar of the zone: 7 days after
// 02:30 it is 02:30, whatever the clocks did between. Where calendars leave a
// choice the later reading is taken, as a point must not go early: a month after
// 31 January is 3 March (or the 2nd), and a time that comes twice is its second
// coming. A point expires when the last of its matching rules, and of the date
// that somebody asked for, lets go of it.
//
// A scheduled point whose day no rule matches expires at once: it is kept until
// the next one, since the newest point of an item is always kept. That rule is
// not in here, nor is any that needs more than one point; see [Foresee] for what
// becomes of all the points of a schedule.
//
// Package server and its tests call it; it imports nothing of Cairn but the
// messages. It embeds the zone database for machines that have none of their own.
package policy
