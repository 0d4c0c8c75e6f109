package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var policyTable = table[*cairnv1.Policy]{
	head: []string{"POLICY", "VAULT", "SCHEDULE", "RETENTION", "ITEMS"},
	row: func(p *cairnv1.Policy) []string {
		return []string{
			short(p.GetName()), field(p.GetName(), "vaults"), scheduleText(p.GetSchedule()), retentionText(p.GetRetention()),
			fmt.Sprint(p.GetProtectedItemCount()),
		}
	},
}

func (a *app) policyCmd() *cobra.Command {
	return group("policy", "Manage policies: when backups run and how long points are kept",
		a.policyCreateCmd(), a.policyListCmd(), a.policyShowCmd(), a.policyUpdateCmd(), a.policyDeleteCmd())
}

// policyFlags are the settings of a policy.
type policyFlags struct {
	displayName, at, zone, weekly, every, forHours, minimum string
	keepDays, keepWeeks, keepMonths, keepYears              int32
	keepWeeksOn, keepMonthsOn, keepYearsOn                  string
}

func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.displayName, "display-name", "", "text for people")
	f.StringVar(&p.at, "at", "22:00", "time of the backup, or of the day's first")
	f.StringVar(&p.zone, "time-zone", "UTC", "IANA time zone, such as Europe/Berlin")
	f.StringVar(&p.weekly, "weekly", "", "run on these days of the week only: mon,thu")
	f.StringVar(&p.every, "every", "", "run every 4h, 6h, 8h, 12h or 24h")
	f.StringVar(&p.forHours, "for", "24h", "with --every: length of the daily window")
	f.StringVar(&p.minimum, "min-consistency", "", "backups that reach less fail: crash, file-system or application")
	f.StringVar(&p.minimum, "minimum-consistency", "", "as --min-consistency")
	_ = f.MarkHidden("minimum-consistency") // it is there
	f.Int32Var(&p.keepDays, "keep-days", 30, "keep daily points for this many days")
	f.Int32Var(&p.keepWeeks, "keep-weeks", 0, "keep weekly points for this many weeks")
	f.StringVar(&p.keepWeeksOn, "keep-weeks-on", "sun", "days whose points are weekly ones")
	f.Int32Var(&p.keepMonths, "keep-months", 0, "keep monthly points for this many months")
	f.StringVar(&p.keepMonthsOn, "keep-months-on", "first-sun", "first-sun (also second, third, fourth, last), 15 or last-day")
	f.Int32Var(&p.keepYears, "keep-years", 0, "keep yearly points for this many years")
	f.StringVar(&p.keepYearsOn, "keep-years-on", "1:first-sun", "months and days: 1,7:first-sun")
}

// policy makes the messages from the flags, and the fields that they stand for.
func (p *policyFlags) policy(cmd *cobra.Command) (*cairnv1.Policy, []string, error) {
	out := &cairnv1.Policy{DisplayName: p.displayName}
	var paths []string
	changed := func(names ...string) bool {
		for _, n := range names {
			if cmd.Flags().Changed(n) {
				return true
			}
		}
		return false
	}
	if changed("display-name") {
		paths = append(paths, "display_name")
	}
	if changed("min-consistency", "minimum-consistency") {
		least, err := consistency(p.minimum)
		if err != nil {
			return nil, nil, err
		}
		out.MinimumConsistency = least
		paths = append(paths, "minimum_consistency")
	}
	if changed("at", "time-zone", "weekly", "every", "for") {
		s, err := p.schedule()
		if err != nil {
			return nil, nil, err
		}
		out.Schedule = s
		paths = append(paths, "schedule")
	}
	if changed("keep-days", "keep-weeks", "keep-weeks-on", "keep-months", "keep-months-on", "keep-years", "keep-years-on") {
		r, err := p.retention()
		if err != nil {
			return nil, nil, err
		}
		out.Retention = r
		paths = append(paths, "retention")
	}
	return out, paths, nil
}

func (p *policyFlags) schedule() (*cairnv1.Schedule, error) {
	at, err := timeOfDay(p.at)
	if err != nil {
		return nil, err
	}
	s := &cairnv1.Schedule{TimeZone: p.zone}
	switch {
	case p.every != "" && p.weekly != "":
		return nil, usagef("--every and --weekly exclude each other")
	case p.every != "":
		every, err := hours("--every", p.every)
		if err != nil {
			return nil, err
		}
		window, err := hours("--for", p.forHours)
		if err != nil {
			return nil, err
		}
		s.Kind = &cairnv1.Schedule_Hourly{Hourly: &cairnv1.HourlySchedule{IntervalHours: every, WindowStart: at, WindowHours: window}}
	case p.weekly != "":
		days, err := weekdays("--weekly", p.weekly)
		if err != nil {
			return nil, err
		}
		s.Kind = &cairnv1.Schedule_Weekly{Weekly: &cairnv1.WeeklySchedule{Days: days, Time: at}}
	default:
		s.Kind = &cairnv1.Schedule_Daily{Daily: &cairnv1.DailySchedule{Time: at}}
	}
	return s, nil
}

func (p *policyFlags) retention() (*cairnv1.Retention, error) {
	r := &cairnv1.Retention{}
	if p.keepDays != 0 {
		r.Daily = &cairnv1.DailyRetention{Days: p.keepDays}
	}
	if p.keepWeeks != 0 {
		days, err := weekdays("--keep-weeks-on", p.keepWeeksOn)
		if err != nil {
			return nil, err
		}
		r.Weekly = &cairnv1.WeeklyRetention{Days: days, Weeks: p.keepWeeks}
	}
	if p.keepMonths != 0 {
		r.Monthly = &cairnv1.MonthlyRetention{Months: p.keepMonths}
		w, d, err := daysOfMonth("--keep-months-on", p.keepMonthsOn)
		if err != nil {
			return nil, err
		}
		if w != nil {
			r.Monthly.On = &cairnv1.MonthlyRetention_Weekdays{Weekdays: w}
		} else {
			r.Monthly.On = &cairnv1.MonthlyRetention_Days{Days: d}
		}
	}
	if p.keepYears != 0 {
		r.Yearly = &cairnv1.YearlyRetention{Years: p.keepYears}
		months, on, ok := strings.Cut(p.keepYearsOn, ":")
		if !ok {
			return nil, usagef("--keep-years-on %q: must be MONTHS:DAYS, such as 1,7:first-sun", p.keepYearsOn)
		}
		for _, m := range strings.Split(months, ",") {
			n, err := strconv.ParseInt(m, 10, 32)
			if err != nil {
				return nil, usagef("--keep-years-on %q: %q is not the number of a month", p.keepYearsOn, m)
			}
			r.Yearly.MonthsOfYear = append(r.Yearly.MonthsOfYear, int32(n))
		}
		w, d, err := daysOfMonth("--keep-years-on", on)
		if err != nil {
			return nil, err
		}
		if w != nil {
			r.Yearly.On = &cairnv1.YearlyRetention_Weekdays{Weekdays: w}
		} else {
			r.Yearly.On = &cairnv1.YearlyRetention_Days{Days: d}
		}
	}
	return r, nil
}

func (a *app) policyCreateCmd() *cobra.Command {
	var fl policyFlags
	var vault string
	cmd := &cobra.Command{
		Use: "create POLICY --vault VAULT", Short: "Make a policy (by default daily at 22:00 UTC, kept 30 days)", Args: args(cobra.ExactArgs(1)),
	}
	fl.add(cmd)
	cmd.Flags().StringVar(&vault, "vault", "", "vault of the policy")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		parent, err := a.vaultName(vault)
		if err != nil {
			return err
		}
		p, _, err := fl.policy(cmd)
		if err != nil {
			return err
		}
		resp, err := c.Policies.CreatePolicy(ctx, &cairnv1.CreatePolicyRequest{Parent: parent, PolicyId: args[0], Policy: p, RequestId: requestID()})
		if err != nil {
			return err
		}
		return printOne(a, policyTable, resp.GetPolicy())
	})
	return cmd
}

func (a *app) policyListCmd() *cobra.Command {
	var vault string
	cmd := &cobra.Command{Use: "list --vault VAULT", Short: "List the policies of a vault", Args: args(cobra.NoArgs)}
	cmd.Flags().StringVar(&vault, "vault", "", "vault")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		parent, err := a.vaultName(vault)
		if err != nil {
			return err
		}
		list, err := all(func(token string) ([]*cairnv1.Policy, string, error) {
			r, err := c.Policies.ListPolicies(ctx, &cairnv1.ListPoliciesRequest{Parent: parent, PageSize: pageSize, PageToken: token})
			return r.GetPolicies(), r.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printList(a, policyTable, list)
	})
	return cmd
}

func (a *app) policyShowCmd() *cobra.Command {
	var vault string
	cmd := &cobra.Command{Use: "show POLICY --vault VAULT", Short: "Show one policy", Args: args(cobra.ExactArgs(1))}
	cmd.Flags().StringVar(&vault, "vault", "", "vault of the policy")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.policyName(args[0], vault)
		if err != nil {
			return err
		}
		resp, err := c.Policies.GetPolicy(ctx, &cairnv1.GetPolicyRequest{Name: name})
		if err != nil {
			return err
		}
		return printOne(a, policyTable, resp.GetPolicy())
	})
	return cmd
}

func (a *app) policyUpdateCmd() *cobra.Command {
	var fl policyFlags
	var vault string
	cmd := &cobra.Command{
		Use: "update POLICY --vault VAULT", Short: "Change a policy", Args: args(cobra.ExactArgs(1)),
		Long: "Change a policy. Schedule and retention are replaced as a whole by the flags given for them.",
	}
	fl.add(cmd)
	cmd.Flags().StringVar(&vault, "vault", "", "vault of the policy")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.policyName(args[0], vault)
		if err != nil {
			return err
		}
		p, paths, err := fl.policy(cmd)
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			return usagef("nothing to change: give at least one flag")
		}
		p.Name = name
		resp, err := c.Policies.UpdatePolicy(ctx, &cairnv1.UpdatePolicyRequest{Policy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		if err != nil {
			return err
		}
		return printOne(a, policyTable, resp.GetPolicy())
	})
	return cmd
}

func (a *app) policyDeleteCmd() *cobra.Command {
	var vault string
	cmd := &cobra.Command{Use: "delete POLICY --vault VAULT", Short: "Delete a policy that serves nothing", Args: args(cobra.ExactArgs(1))}
	cmd.Flags().StringVar(&vault, "vault", "", "vault of the policy")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.policyName(args[0], vault)
		if err != nil {
			return err
		}
		_, err = c.Policies.DeletePolicy(ctx, &cairnv1.DeletePolicyRequest{Name: name})
		return err
	})
	return cmd
}
