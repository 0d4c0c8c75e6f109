package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var pointTable = table[*cairnv1.RecoveryPoint]{
	head: []string{"POINT", "ITEM", "TIME", "CONSISTENCY", "DISKS", "NEW DATA", "STORED", "KEPT UNTIL", "BY RULE"},
	row: func(p *cairnv1.RecoveryPoint) []string {
		var disks []string
		for _, d := range p.GetDisks() {
			disks = append(disks, d.GetTarget()+" "+size(d.GetSize()))
		}
		return []string{
			short(p.GetName()), field(p.GetName(), "vaults") + "/" + field(p.GetName(), "protectedItems"), when(p.GetSnapshotTime()),
			word(p.GetConsistency(), "CONSISTENCY_CLASS_"), strings.Join(disks, ", "), size(p.GetNewBytes()), size(p.GetStoredBytes()),
			when(p.GetExpireTime()), word(p.GetRetentionRule(), "RETENTION_RULE_"),
		}
	},
}

func (a *app) pointCmd() *cobra.Command {
	return group("point", "Show and check recovery points", a.pointListCmd(), a.pointShowCmd(), a.pointExtendCmd(), a.pointVerifyCmd(), a.pointDeleteCmd(), a.diffCmd())
}

func (a *app) pointListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list ITEM", Short: "List the recovery points of an item, newest first", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			item, err := a.itemName(ctx, c, args[0])
			if err != nil {
				return err
			}
			points, err := listPoints(ctx, c, item)
			if err != nil {
				return err
			}
			return printList(a, pointTable, points)
		}),
	}
}

func (a *app) pointShowCmd() *cobra.Command {
	var definition bool
	cmd := &cobra.Command{
		Use: "show POINT", Short: "Show one recovery point, or the definition of its machine", Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().BoolVar(&definition, "definition", false, "print the machine's definition as it was saved (libvirt: XML)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		p, err := a.point(ctx, c, args[0])
		if err != nil {
			return err
		}
		if definition {
			if len(p.GetMachineDefinition()) == 0 {
				return fmt.Errorf("point %s holds no definition of its machine: its host backed up image files", short(p.GetName()))
			}
			_, err := os.Stdout.Write(p.GetMachineDefinition())
			return err
		}
		return a.printPoint(p)
	})
	return cmd
}

// printPoint prints all there is to say about a point.
func (a *app) printPoint(p *cairnv1.RecoveryPoint) error {
	if err := printOne(a, pointTable, p); err != nil || a.output != "table" {
		return err
	}
	fmt.Printf("kept %s\n", keptText(p))
	if t := p.GetRetainUntil(); t != nil {
		fmt.Printf("asked to be kept until: %s\n", when(t))
	}
	if t := p.GetScheduleTime(); t != nil {
		fmt.Printf("scheduled for: %s\n", when(t))
	} else {
		fmt.Println("scheduled for: - (asked for)")
	}
	fmt.Printf("machine: %s, guest: %s\n", orDash(p.GetMachineTitle()), orDash(p.GetGuestOs()))
	for _, d := range p.GetDisks() {
		fmt.Printf("disk %s: %s, %s, %s of data, %s\n", d.GetTarget(), orDash(d.GetSourceFormat()), size(d.GetSize()), size(d.GetDataBytes()), orDash(d.GetPath()))
	}
	for _, f := range p.GetStateFiles() {
		fmt.Printf("state file %s: %s, %s, %s\n", f.GetTarget(), word(f.GetKind(), "DISK_KIND_"), size(f.GetSize()), orDash(f.GetPath()))
	}
	if d := p.GetExcludedDisks(); len(d) > 0 {
		fmt.Printf("excluded disks: %s\n", strings.Join(d, ", "))
	}
	if n := len(p.GetMachineDefinition()); n > 0 {
		fmt.Printf("definition: %s, %s\n", orDash(p.GetMachineDefinitionType()), size(int64(n)))
	} else {
		fmt.Println("definition: -")
	}
	fmt.Printf("checkpoint: %s\n", orDash(p.GetCheckpoint()))
	printWarnings(p.GetWarnings())
	return nil
}

// keptText says how long a point is kept, and why.
func keptText(p *cairnv1.RecoveryPoint) string {
	until := "until " + when(p.GetExpireTime())
	if p.GetExpireTime() == nil {
		until = "without an end"
	}
	switch r := p.GetRetentionRule(); r {
	case cairnv1.RetentionRule_RETENTION_RULE_NEWEST:
		return until + ": it is the newest point of its item, which stays until there is a newer one"
	case cairnv1.RetentionRule_RETENTION_RULE_PROTECTION_STOPPED:
		return until + ": the item's protection is stopped"
	case cairnv1.RetentionRule_RETENTION_RULE_RETAIN_UNTIL:
		return until + ", as it was asked for"
	case cairnv1.RetentionRule_RETENTION_RULE_UNSPECIFIED:
		return until
	default:
		return until + " by the " + strings.ToLower(word(r, "RETENTION_RULE_")) + " rule"
	}
}

// printWarnings prints warnings, and what to do about them.
func printWarnings(ws []*cairnv1.Warning) {
	for _, w := range ws {
		fmt.Printf("warning: %s (%s)\n", w.GetMessage(), word(w.GetReason(), "ERROR_REASON_"))
		if w.GetRemedy() != "" {
			fmt.Printf("what to do: %s\n", w.GetRemedy())
		}
	}
}

func (a *app) pointExtendCmd() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use: "extend POINT --retain-until DATE", Short: "Keep a point longer", Args: args(cobra.ExactArgs(1)),
		Long: "Keep a point at least until the end of a day. The policy's rules may keep it longer.",
	}
	cmd.Flags().StringVar(&until, "retain-until", "", "last day to keep the point: 2027-01-31, 90d, or a time in RFC 3339")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if until == "" {
			return usagef("say how long the point is to be kept: --retain-until DATE")
		}
		t, err := retainUntil(until)
		if err != nil {
			return err
		}
		p, err := a.point(ctx, c, args[0])
		if err != nil {
			return err
		}
		resp, err := c.Points.ExtendRecoveryPoint(ctx, &cairnv1.ExtendRecoveryPointRequest{Name: p.GetName(), RetainUntil: timestamppb.New(t)})
		if err != nil {
			return err
		}
		return a.printPoint(resp.GetRecoveryPoint())
	})
	return cmd
}

func (a *app) pointVerifyCmd() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use: "verify POINT|ITEM", Short: "Read and re-hash every block of a point, or of every point of an item", Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the end")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		points, err := a.points(ctx, c, args[0])
		if err != nil {
			return err
		}
		var failed error
		for _, p := range points {
			resp, err := c.Points.Verify(ctx, &cairnv1.VerifyRequest{Name: p.GetName(), RequestId: requestID()})
			if err != nil {
				return err
			}
			if err := a.started(ctx, c, resp.GetJob(), !noWait); err != nil {
				failed = err // the other points are looked at all the same
				if len(points) > 1 && ctx.Err() == nil {
					fmt.Printf("point %s: %s\n", short(p.GetName()), text(err))
					continue
				}
				return err
			}
		}
		return failed
	})
	return cmd
}

// points finds the point, or all points of the item, that a short form means.
func (a *app) points(ctx context.Context, c *client.Client, s string) ([]*cairnv1.RecoveryPoint, error) {
	if isPoint(s) {
		p, err := a.point(ctx, c, s)
		return []*cairnv1.RecoveryPoint{p}, err
	}
	item, err := a.itemName(ctx, c, s)
	if err != nil {
		return nil, err
	}
	points, err := listPoints(ctx, c, item)
	if err == nil && len(points) == 0 {
		err = hintf(fmt.Errorf("item %s has no recovery points yet", s), "make one with: cairn backup %s --wait", s)
	}
	return points, err
}

// isPoint tells a name of a point from one of an item.
func isPoint(s string) bool {
	return strings.Contains(s, "@") || strings.Contains(s, "/recoveryPoints/")
}

func (a *app) pointDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete POINT", Short: "Delete a recovery point (never the newest of its item)", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := a.point(ctx, c, args[0])
			if err != nil {
				return err
			}
			_, err = c.Points.DeleteRecoveryPoint(ctx, &cairnv1.DeleteRecoveryPointRequest{Name: p.GetName()})
			return err
		}),
	}
}
