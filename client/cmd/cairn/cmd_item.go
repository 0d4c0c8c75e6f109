package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var itemTable = table[*cairnv1.ProtectedItem]{
	head: []string{"ITEM", "VAULT", "POLICY", "PROTECTION", "LAST BACKUP STATUS", "HEALTH", "POINTS", "NEWEST POINT", "NEXT BACKUP"},
	row: func(i *cairnv1.ProtectedItem) []string {
		return []string{
			short(i.GetName()), field(i.GetName(), "vaults"), short(i.GetPolicy()), word(i.GetProtectionState(), "PROTECTION_STATE_"),
			i.GetLastBackupStatusText(), word(i.GetHealth(), "HEALTH_STATUS_"), fmt.Sprint(i.GetRecoveryPointCount()),
			orDash(short(i.GetLatestRecoveryPoint())), when(i.GetNextBackupTime()),
		}
	},
}

// deletedTable shows items that can still be undeleted.
var deletedTable = table[*cairnv1.ProtectedItem]{
	head: []string{"ITEM", "VAULT", "DELETED", "GOES FOR GOOD", "POINTS", "SIZE"},
	row: func(i *cairnv1.ProtectedItem) []string {
		return []string{
			short(i.GetName()), field(i.GetName(), "vaults"), when(i.GetDeleteTime()), when(i.GetPurgeTime()),
			fmt.Sprint(i.GetRecoveryPointCount()), size(i.GetProtectedBytes()),
		}
	},
}

// requestID makes a call repeatable: if gRPC tries it again after the answer
// was lost, nothing happens twice.
func requestID() string { return uuid.NewString() }

func (a *app) protectCmd() *cobra.Command {
	var vault, policy, item, minimum string
	var exclude []string
	cmd := &cobra.Command{
		Use: "protect MACHINE --vault VAULT --policy POLICY", Short: "Protect a machine by a policy", Args: args(cobra.ExactArgs(1)),
	}
	f := cmd.Flags()
	f.StringVar(&vault, "vault", "", "vault for its recovery points")
	f.StringVar(&policy, "policy", "", "policy of that vault")
	f.StringVar(&item, "item", "", "id of the protected item (default: the machine's)")
	f.StringArrayVar(&exclude, "exclude-disk", nil, "disk that is not backed up, repeatable")
	f.StringVar(&minimum, "min-consistency", "", "backups that reach less fail: crash, file-system or application (default: what the policy says)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if policy == "" {
			return usagef("a policy must be named: --policy POLICY")
		}
		var least cairnv1.ConsistencyClass
		if cmd.Flags().Changed("min-consistency") {
			var err error
			if least, err = consistency(minimum); err != nil {
				return err
			}
		}
		parent, err := a.vaultName(vault)
		if err != nil {
			return err
		}
		policyName, err := a.policyName(policy, vault)
		if err != nil {
			return err
		}
		machine, err := a.machineName(ctx, c, args[0])
		if err != nil {
			return err
		}
		resp, err := c.Items.ProtectMachine(ctx, &cairnv1.ProtectMachineRequest{
			Parent: parent, ProtectedItemId: item, RequestId: requestID(),
			ProtectedItem: &cairnv1.ProtectedItem{Machine: machine, Policy: policyName, ExcludedDisks: exclude, MinimumConsistency: least},
		})
		if err != nil {
			return err
		}
		return printOne(a, itemTable, resp.GetProtectedItem())
	})
	return cmd
}

func (a *app) itemCmd() *cobra.Command {
	var vault string
	var deleted bool
	list := &cobra.Command{Use: "list", Short: "List protected items", Args: args(cobra.NoArgs)}
	list.Flags().StringVar(&vault, "vault", "", "only this vault's")
	list.Flags().BoolVar(&deleted, "deleted", false, "only those that are soft-deleted, and when they go for good")
	list.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		items, err := a.listItems(ctx, c, vault, deleted)
		if err != nil {
			return err
		}
		if deleted {
			return printList(a, deletedTable, slices.DeleteFunc(items, func(i *cairnv1.ProtectedItem) bool { return i.GetDeleteTime() == nil }))
		}
		return printList(a, itemTable, items)
	})
	show := &cobra.Command{
		Use: "show ITEM", Short: "Show one protected item", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.itemName(ctx, c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.Items.GetProtectedItem(ctx, &cairnv1.GetProtectedItemRequest{Name: name})
			if err != nil {
				return err
			}
			return a.printItem(resp.GetProtectedItem())
		}),
	}
	return group("item", "Show and change protected items, stop and resume their protection", list, show, a.itemUpdateCmd(), a.itemStopCmd(), a.itemResumeCmd(), a.itemUndeleteCmd())
}

// printItem prints all there is to say about an item.
func (a *app) printItem(it *cairnv1.ProtectedItem) error {
	if err := printOne(a, itemTable, it); err != nil || a.output != "table" {
		return err
	}
	fmt.Printf("machine: %s/%s\n", field(it.GetMachine(), "hosts"), short(it.GetMachine()))
	fmt.Printf("protected since: %s, size: %s\n", when(it.GetCreateTime()), size(it.GetProtectedBytes()))
	fmt.Printf("last success: %s", ago(it.GetLastBackupTime()))
	if j := it.GetLastBackupJob(); j != "" {
		fmt.Printf(", last job: %s", short(j))
	}
	fmt.Println()
	if it.GetDeleteTime() != nil {
		fmt.Printf("deleted: %s; its data goes for good at %s, until then: cairn item undelete %s\n",
			when(it.GetDeleteTime()), when(it.GetPurgeTime()), field(it.GetName(), "vaults")+"/"+short(it.GetName()))
	}
	if d := it.GetExcludedDisks(); len(d) > 0 {
		fmt.Printf("excluded disks: %s\n", strings.Join(d, ", "))
	}
	if it.GetMinimumConsistency() != 0 {
		fmt.Printf("minimum consistency: %s\n", word(it.GetMinimumConsistency(), "CONSISTENCY_CLASS_"))
	}
	if d := it.GetHealthDetail(); d != "" {
		fmt.Printf("health: %s\n", d)
	}
	return nil
}

func (a *app) itemUpdateCmd() *cobra.Command {
	var policy, minimum string
	var exclude []string
	cmd := &cobra.Command{
		Use: "update ITEM", Short: "Change how a machine is protected", Args: args(cobra.ExactArgs(1)),
		Long: `Change how a machine is protected. What is not named stays as it is; --exclude-disk
names all disks that are left out from now on, and "" alone none.`,
	}
	f := cmd.Flags()
	f.StringVar(&policy, "policy", "", "another policy of the item's vault")
	f.StringArrayVar(&exclude, "exclude-disk", nil, "disk that is not backed up, repeatable")
	f.StringVar(&minimum, "min-consistency", "", "backups that reach less fail: crash, file-system or application; policy for what the policy says")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		it := &cairnv1.ProtectedItem{}
		var paths []string
		if f.Changed("policy") {
			if policy == "" {
				return usagef("--policy %q: must name a policy", policy)
			}
			paths = append(paths, "policy")
		}
		if f.Changed("exclude-disk") {
			if len(exclude) != 1 || exclude[0] != "" {
				it.ExcludedDisks = exclude
			}
			paths = append(paths, "excluded_disks")
		}
		if f.Changed("min-consistency") {
			if minimum != "policy" {
				var err error
				if it.MinimumConsistency, err = consistency(minimum); err != nil {
					return err
				}
			}
			paths = append(paths, "minimum_consistency")
		}
		if len(paths) == 0 {
			return usagef("say what to change: at least one flag is needed (see cairn item update --help)")
		}
		var err error
		if it.Name, err = a.itemName(ctx, c, args[0]); err != nil {
			return err
		}
		if policy != "" {
			if it.Policy, err = a.policyName(policy, field(it.Name, "vaults")); err != nil {
				return err
			}
		}
		resp, err := c.Items.UpdateProtectedItem(ctx, &cairnv1.UpdateProtectedItemRequest{
			ProtectedItem: it, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
		})
		if err != nil {
			return err
		}
		return a.printItem(resp.GetProtectedItem())
	})
	return cmd
}

// consistency reads --min-consistency: a class, with or without its last word.
func consistency(s string) (cairnv1.ConsistencyClass, error) {
	switch strings.ToLower(strings.TrimSuffix(s, "-consistent")) {
	case "crash":
		return cairnv1.ConsistencyClass_CONSISTENCY_CLASS_CRASH_CONSISTENT, nil
	case "file-system":
		return cairnv1.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT, nil
	case "application":
		return cairnv1.ConsistencyClass_CONSISTENCY_CLASS_APPLICATION_CONSISTENT, nil
	}
	return 0, usagef("--min-consistency %q: must be crash, file-system or application", s)
}
