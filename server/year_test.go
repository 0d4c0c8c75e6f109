package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// years are policies that somebody could have, in zones whose clocks are set at
// other times of the year and by other amounts: Lord Howe's by half an hour.
var years = map[string]struct {
	first  time.Time
	months int
	runs   int
	policy *pb.Policy
}{
	"gfs": {time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), 12, 365, &pb.Policy{
		Schedule: &pb.Schedule{TimeZone: "Europe/Berlin", Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: 2, Minutes: 30}}}},
		Retention: &pb.Retention{
			Daily:  &pb.DailyRetention{Days: 30},
			Weekly: &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 12},
			Monthly: &pb.MonthlyRetention{Months: 12, On: &pb.MonthlyRetention_Weekdays{Weekdays: &pb.WeekdaysOfMonth{
				Ordinals: []pb.Ordinal{pb.Ordinal_ORDINAL_LAST}, Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY},
			}}},
			Yearly: &pb.YearlyRetention{Years: 3, MonthsOfYear: []int32{1}, On: &pb.YearlyRetention_Weekdays{Weekdays: &pb.WeekdaysOfMonth{
				Ordinals: []pb.Ordinal{pb.Ordinal_ORDINAL_FIRST}, Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY},
			}}},
		},
	}},
	"hours": {time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC), 4, 2 * (30 + 31 + 30 + 31), &pb.Policy{
		Schedule: &pb.Schedule{TimeZone: "Australia/Lord_Howe", Kind: &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{
			IntervalHours: 12, WindowStart: &pb.TimeOfDay{Hours: 1, Minutes: 45}, WindowHours: 24,
		}}},
		Retention: &pb.Retention{
			Daily:  &pb.DailyRetention{Days: 10},
			Weekly: &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_WEDNESDAY, pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}, Weeks: 5},
			Monthly: &pb.MonthlyRetention{Months: 2, On: &pb.MonthlyRetention_Days{Days: &pb.DaysOfMonth{
				Days: []int32{15}, LastDay: true,
			}}},
		},
	}},
}

// TestYear lets a year pass (and a third of one, for a machine that is backed up
// twice a day) in which a machine is backed up by its policy and nothing goes wrong.
// At the end of each month exactly those points are left, for exactly as long and
// for the reasons, that the preview said on the first day.
func TestYear(t *testing.T) {
	for id, y := range years {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			c := newClock(y.first)
			opts := inMemory()
			opts.Now, opts.Unattended, opts.Spread = c.Now, true, -1
			opts.Jobs = job.Options{Lease: 30 * 24 * time.Hour, Keep: 48 * time.Hour}
			w := newWorld(t, opts)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			w.ctx = ctx
			w.setUp()
			p := must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: id, Policy: y.policy})).Policy
			must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
				Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: p.Name},
			}))
			var said []*pb.PreviewPolicyResponse
			for month := range y.months {
				said = append(said, must[*pb.PreviewPolicyResponse](t)(w.policies.PreviewPolicy(w.ctx, &pb.PreviewPolicyRequest{
					PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: p.Name}, StartTime: timestamppb.New(y.first), EndTime: timestamppb.New(y.first.AddDate(0, month+1, 0)),
				})))
			}
			a, made := w.claim("one"), 0
			for month, preview := range said {
				made += w.passUntil(c, a, y.first.AddDate(0, month+1, 0))
				w.comparePreview(preview)
				if made != len(preview.Runs) {
					t.Errorf("%d backups until %v, %d were planned", made, c.Now(), len(preview.Runs))
				}
			}
			if made != y.runs {
				t.Errorf("%d backups, want %d", made, y.runs)
			}
		})
	}
}

// comparePreview compares the points of web1 with what a preview said of this
// moment.
func (w *world) comparePreview(preview *pb.PreviewPolicyResponse) {
	w.t.Helper()
	var got, want []string
	for i, p := range w.pointsOf(item1) {
		got = append(got, kept(p.SnapshotTime, p.ExpireTime, p.RetentionRule))
		if i%4 == 0 {
			w.checkGuest(p)
		}
	}
	for _, p := range preview.Points {
		if p.KeptAtEnd {
			want = append(want, kept(p.Time, p.ExpireTime, p.Rule))
		}
	}
	if len(got) == 0 || !slices.Equal(got, want) {
		w.t.Fatalf("there is\n%s\nand there should be\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// passUntil lets time pass until end, run by run of web1's schedule, and makes the
// backups that are to be made then.
func (w *world) passUntil(c *clock, a *agent, end time.Time) (made int) {
	w.t.Helper()
	for {
		next := w.item(item1).NextBackupTime.AsTime()
		if next.After(end) {
			c.Set(end)
			w.s.Tend(w.ctx)
			return made
		}
		c.Set(next)
		w.s.Tend(w.ctx)
		as := a.assignment()
		must[*pb.RecoveryPoint](w.t)(w.backUpGuest(as, next))
		must[*pb.ReportJobResponse](w.t)(w.reportJob(as, completed))
		made++
	}
}

// kept tells of one point all that a preview promises.
func kept(at, expires *timestamppb.Timestamp, rule pb.RetentionRule) string {
	until := "no end"
	if expires != nil {
		until = expires.AsTime().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s until %s by %s", at.AsTime().Format(time.RFC3339), until, rule.String()[len("RETENTION_RULE_"):])
}
