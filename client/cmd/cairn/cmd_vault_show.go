package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

func (a *app) vaultShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show VAULT", Short: "Show how a vault is and what it holds: the dashboard", Args: args(cobra.ExactArgs(1)),
		Long: `Show a vault's settings, and what it holds and does: items by health, jobs, storage,
recovery points, charged instances. As JSON or YAML it is the vault with the field
"summary" added.`,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.vaultName(args[0])
			if err != nil {
				return err
			}
			resp, err := c.Vaults.GetVault(ctx, &cairnv1.GetVaultRequest{Name: name})
			if err != nil {
				return err
			}
			v := resp.GetVault()
			if v.GetState() == cairnv1.VaultState_VAULT_STATE_UNAVAILABLE { // it has no numbers
				return a.printVault(v)
			}
			sum, err := c.Vaults.GetVaultSummary(ctx, &cairnv1.GetVaultSummaryRequest{Name: name})
			if err != nil {
				return err
			}
			return a.printDashboard(v, sum.GetSummary())
		}),
	}
}

// printVault prints a vault with its settings.
func (a *app) printVault(v *cairnv1.Vault) error {
	if err := printOne(a, vaultTable, v); err != nil || a.output != "table" {
		return err
	}
	if v.GetDisplayName() != "" {
		fmt.Printf("display name: %s\n", v.GetDisplayName())
	}
	if len(v.GetLabels()) > 0 {
		var labels []string
		for k, val := range v.GetLabels() {
			labels = append(labels, k+"="+val)
		}
		sort.Strings(labels)
		fmt.Printf("labels: %s\n", strings.Join(labels, ", "))
	}
	soft := "off: what is deleted is gone"
	if s := v.GetSoftDelete(); !s.GetDisabled() {
		soft = plural(int64(s.GetRetentionDays()), "day")
	}
	fmt.Printf("soft delete: %s\nimmutability: %s\n", soft, word(v.GetImmutability(), "IMMUTABILITY_"))
	if r := v.GetProblem().GetRemedy(); r != "" {
		fmt.Printf("what to do: %s\n", r)
	}
	return nil
}

// printDashboard prints a vault and its numbers.
func (a *app) printDashboard(v *cairnv1.Vault, s *cairnv1.VaultSummary) error {
	if a.output != "table" {
		vj, err := toJSON(v)
		if err != nil {
			return err
		}
		sj, err := toJSON(s)
		if err != nil {
			return err
		}
		j := append(vj[:len(vj)-1:len(vj)-1], `,"summary":`...)
		return printJSON(os.Stdout, a.output, append(append(j, sj...), '}'))
	}
	if err := a.printVault(v); err != nil {
		return err
	}
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", what, fmt.Sprintf(format, args...))
	}
	items := fmt.Sprintf("%d: %d passed, %d action suggested, %d action required", s.GetItems(), s.GetItemsPassed(), s.GetItemsActionSuggested(), s.GetItemsActionRequired())
	for _, of := range []struct {
		n    int64
		what string
	}{{s.GetItemsIrPending(), "initial backup pending"}, {s.GetItemsStopped(), "stopped"}, {s.GetItemsDeleted(), "soft-deleted"}} {
		if of.n > 0 {
			items += fmt.Sprintf("; %d %s", of.n, of.what)
		}
	}
	row("items", "%s", items)
	row("jobs", "%d in progress, %d queued, %d failed in 24 h", s.GetJobsInProgress(), s.GetJobsQueued(), s.GetJobsFailed())
	row("recovery points", "%s", humanize.Comma(s.GetRecoveryPointCount()))
	row("newest", "%s", ago(s.GetNewestRecoveryPointTime()))
	row("oldest", "%s", ago(s.GetOldestRecoveryPointTime()))
	row("stored", "%s, %s free", size(s.GetStoredBytes()), size(s.GetFreeBytes()))
	row("charged", "%s, %s protected", plural(s.GetInstances(), "instance"), size(s.GetProtectedBytes()))
	row("last reclaim", "%s", ago(s.GetLastReclaimTime()))
	if s.GetJobsFailed() > 0 {
		row("see", "cairn job list --vault %s --failed", short(v.GetName()))
	} else if s.GetItemsActionRequired()+s.GetItemsActionSuggested() > 0 {
		row("see", "cairn item list --vault %s", short(v.GetName()))
	}
	return w.Flush()
}

var usageTable = table[*cairnv1.VaultUsage]{
	head: []string{"POINTS", "BLOCKS", "STORED", "BEFORE COMPRESSION", "FREE"},
	row: func(u *cairnv1.VaultUsage) []string {
		return []string{
			fmt.Sprint(u.GetRecoveryPointCount()), humanize.Comma(u.GetBlockCount()), size(u.GetStoredBytes()),
			size(u.GetPlainBytes()), size(u.GetFreeBytes()),
		}
	},
}

var itemUsageTable = table[*cairnv1.ProtectedItemUsage]{
	head: []string{"ITEM", "BILLING", "SIZE", "INSTANCES", "RATE", "UNIQUE", "SHARED", "POINTS", "CHARGED SINCE", "UNTIL"},
	row: func(u *cairnv1.ProtectedItemUsage) []string {
		rate := "-"
		switch {
		case u.GetSmallRate():
			rate = "small"
		case u.GetInstances() > 0:
			rate = "full"
		}
		return []string{
			short(u.GetProtectedItem()), word(u.GetBillingState(), "BILLING_STATE_"), size(u.GetProtectedBytes()), fmt.Sprint(u.GetInstances()), rate,
			size(u.GetUniqueStoredBytes()), size(u.GetSharedStoredBytes()), fmt.Sprint(u.GetRecoveryPointCount()),
			when(u.GetBillingStartTime()), when(u.GetBillingEndTime()),
		}
	},
}

var usageDayTable = table[*cairnv1.VaultUsageDay]{
	head: []string{"DAY (UTC)", "STORED", "POINTS", "CHARGED ITEMS", "INSTANCES", "SIZE"},
	row: func(d *cairnv1.VaultUsageDay) []string {
		var charged, instances, protected int64
		for _, u := range d.GetItems() {
			if u.GetInstances() > 0 {
				charged++
				instances += u.GetInstances()
				protected += u.GetProtectedBytes()
			}
		}
		return []string{
			d.GetTime().AsTime().UTC().Format("2006-01-02"), size(d.GetStoredBytes()), fmt.Sprint(d.GetRecoveryPointCount()),
			fmt.Sprint(charged), fmt.Sprint(instances), size(protected),
		}
	},
}

func (a *app) vaultUsageCmd() *cobra.Command {
	var span dateRange
	cmd := &cobra.Command{
		Use: "usage VAULT [--from DATE [--to DATE]]", Short: "Show what a vault takes, and what of it is charged", Args: args(cobra.ExactArgs(1)),
		Long: `Show what a vault's storage takes, and for each item the size and the instances that
are charged, the stored bytes that only it needs (UNIQUE) and those that other items
need as well (SHARED). With --from, also what it was on each day since.`,
	}
	cmd.Flags().StringVar(&span.from, "from", "", "first day of the past to show: a day, a time, 30d ago")
	cmd.Flags().StringVar(&span.to, "to", "", "last day of the past to show (default: today)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if span.to != "" && span.from == "" {
			return usagef("--to is the end of a range: add --from")
		}
		start, end, err := span.times(dateBack, dateBackEnd)
		if err != nil {
			return err
		}
		name, err := a.vaultName(args[0])
		if err != nil {
			return err
		}
		resp, err := c.Vaults.GetVaultUsage(ctx, &cairnv1.GetVaultUsageRequest{Name: name, StartTime: start, EndTime: end})
		if err != nil {
			return err
		}
		u := resp.GetUsage()
		if err := printOne(a, usageTable, u); err != nil || a.output != "table" {
			return err
		}
		if len(u.GetItems()) > 0 {
			fmt.Println()
			if err := printList(a, itemUsageTable, u.GetItems()); err != nil {
				return err
			}
		}
		if start == nil {
			return nil
		}
		fmt.Println()
		return printList(a, usageDayTable, u.GetDays())
	})
	return cmd
}

func (a *app) vaultReclaimCmd() *cobra.Command {
	var dry, wait bool
	cmd := &cobra.Command{
		Use: "reclaim VAULT", Short: "Give back the space of what no recovery point needs", Args: args(cobra.ExactArgs(1)),
		Long: `Give back the space of blocks that no recovery point needs any more, while backups,
mounts and restores go on. Vaults are reclaimed by themselves as well.`,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say how much would come back")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.vaultName(args[0])
		if err != nil {
			return err
		}
		resp, err := c.Vaults.ReclaimVault(ctx, &cairnv1.ReclaimVaultRequest{Name: name, DryRun: dry, RequestId: requestID()})
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), wait)
	})
	return cmd
}
