package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

func (a *app) policyPreviewCmd() *cobra.Command {
	var fl policyFlags
	var vault, item string
	var span dateRange
	var days int
	cmd := &cobra.Command{
		Use:   "preview [POLICY] [--vault VAULT] [--item ITEM]",
		Short: "Show when a policy runs, and how long each point is kept; nothing is changed",
		Args:  args(cobra.MaximumNArgs(1)),
		Long: `Show when a policy runs in a range of time, and for each point which rule keeps
it until when, given that all runs succeed. Nothing is changed.

POLICY is one that exists; with flags, as it would be if they changed it. Without
POLICY it is that of ITEM, or else a policy as create would make it. With --item
the points that the item has already are shown as well.`,
	}
	fl.add(cmd)
	f := cmd.Flags()
	f.StringVar(&vault, "vault", "", "vault of the policy")
	f.StringVar(&item, "item", "", "show what becomes of this item's points, too")
	f.StringVar(&span.from, "from", "", "begin of the range: a day, a time, 30d from now (default: now)")
	f.StringVar(&span.to, "to", "", "end of the range")
	f.IntVar(&days, "days", 30, "length of the range, instead of --to")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if f.Changed("days") && span.to != "" {
			return usagef("--days and --to exclude each other")
		}
		if days < 1 || days > 36500 {
			return usagef("--days %d: must be 1 to 36500", days)
		}
		if err := fl.check(cmd); err != nil {
			return err
		}
		start, end, err := span.times(dateAhead, dateAheadEnd)
		if err != nil {
			return err
		}
		if start == nil {
			start = timestamppb.Now()
		}
		if end == nil {
			end = timestamppb.New(start.AsTime().AddDate(0, 0, days))
		}
		if end.AsTime().Before(start.AsTime()) {
			return usagef("--to %s: the range ends before it begins, which is now unless --from says otherwise", span.to)
		}
		req := &cairnv1.PreviewPolicyRequest{StartTime: start, EndTime: end}
		p := &cairnv1.Policy{}
		var name string
		if item != "" {
			if req.ProtectedItem, err = a.itemName(ctx, c, item); err != nil {
				return err
			}
		}
		switch {
		case len(args) == 1:
			if vault == "" && item != "" { // there is only one that the policy could be of
				vault = field(req.ProtectedItem, "vaults")
			}
			if name, err = a.policyName(args[0], vault); err != nil {
				return err
			}
		case item != "":
			r, err := c.Items.GetProtectedItem(ctx, &cairnv1.GetProtectedItemRequest{Name: req.ProtectedItem})
			if err != nil {
				return err
			}
			name = r.GetProtectedItem().GetPolicy()
		}
		if name != "" {
			r, err := c.Policies.GetPolicy(ctx, &cairnv1.GetPolicyRequest{Name: name})
			if err != nil {
				return err
			}
			p = r.GetPolicy()
			req.PolicyOrName = &cairnv1.PreviewPolicyRequest_Name{Name: name}
		}
		if name == "" || fl.any(cmd) {
			if p, err = fl.trial(cmd, p); err != nil {
				return err
			}
			req.PolicyOrName = &cairnv1.PreviewPolicyRequest_Policy{Policy: p}
		}
		resp, err := c.Policies.PreviewPolicy(ctx, req)
		if err != nil {
			return err
		}
		return a.printPreview(p, req, resp)
	})
	return cmd
}

// trial is a policy that need not exist: p with what the flags change, and what
// they leave open filled in.
func (fl *policyFlags) trial(cmd *cobra.Command, p *cairnv1.Policy) (*cairnv1.Policy, error) {
	out := &cairnv1.Policy{
		DisplayName: p.GetDisplayName(), Schedule: p.GetSchedule(), Retention: p.GetRetention(), MinimumConsistency: p.GetMinimumConsistency(),
	}
	if _, err := fl.apply(cmd, out); err != nil {
		return nil, err
	}
	var err error
	if out.Schedule == nil {
		if out.Schedule, err = fl.schedule(cmd, nil); err != nil {
			return nil, err
		}
	}
	if out.Retention == nil {
		out.Retention, err = fl.retention(cmd, nil)
	}
	return out, err
}

// printPreview prints what a policy will do: a line per point, since every run
// makes one.
func (a *app) printPreview(p *cairnv1.Policy, req *cairnv1.PreviewPolicyRequest, resp *cairnv1.PreviewPolicyResponse) error {
	if a.output != "table" {
		j, err := toJSON(resp)
		if err != nil {
			return err
		}
		return printJSON(os.Stdout, a.output, j)
	}
	zone, err := time.LoadLocation(p.GetSchedule().GetTimeZone())
	if err != nil {
		zone = time.UTC // the server knows one that this machine does not
	}
	var left int
	for _, pt := range resp.GetPoints() {
		if pt.GetKeptAtEnd() {
			left++
		}
	}
	fmt.Printf("schedule: %s\nretention: %s\n", scheduleText(p.GetSchedule()), retentionText(p.GetRetention()))
	fmt.Printf("%s to %s: %s; there at the end: %s\n", when(req.GetStartTime()), when(req.GetEndTime()),
		plural(int64(len(resp.GetRuns())), "run"), plural(int64(left), "point"))
	if resp.GetTruncated() {
		fmt.Printf("that is more than is shown: the range up to %s is\n", when(last(resp.GetRuns())))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join([]string{"TIME", "IN THE POLICY'S ZONE", "POINT", "KEPT UNTIL", "BY RULE", "THERE AT THE END"}, "\t"))
	for _, pt := range resp.GetPoints() {
		point, there := "planned", "no"
		if n := pt.GetRecoveryPoint(); n != "" {
			point = short(n)
		}
		if pt.GetKeptAtEnd() {
			there = "yes"
		}
		fmt.Fprintln(w, strings.Join([]string{
			when(pt.GetTime()), pt.GetTime().AsTime().In(zone).Format("Mon 2006-01-02 15:04 MST"), point,
			when(pt.GetExpireTime()), word(pt.GetRule(), "RETENTION_RULE_"), there,
		}, "\t"))
	}
	return w.Flush()
}

// last is the last of a list; nil if there is none.
func last[T any](list []*T) *T {
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}
