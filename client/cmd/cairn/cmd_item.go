package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var itemTable = table[*cairnv1.ProtectedItem]{
	head: []string{"ITEM", "VAULT", "POLICY", "PROTECTION", "LAST BACKUP STATUS", "HEALTH", "POINTS", "NEWEST POINT"},
	row: func(i *cairnv1.ProtectedItem) []string {
		return []string{
			short(i.GetName()), field(i.GetName(), "vaults"), short(i.GetPolicy()), word(i.GetProtectionState(), "PROTECTION_STATE_"),
			i.GetLastBackupStatusText(), word(i.GetHealth(), "HEALTH_STATUS_"), fmt.Sprint(i.GetRecoveryPointCount()),
			orDash(short(i.GetLatestRecoveryPoint())),
		}
	},
}

// requestID makes a call repeatable: if gRPC tries it again after the answer
// was lost, nothing happens twice.
func requestID() string { return uuid.NewString() }

func (a *app) protectCmd() *cobra.Command {
	var vault, policy, item string
	var exclude []string
	cmd := &cobra.Command{
		Use: "protect MACHINE --vault VAULT --policy POLICY", Short: "Protect a machine by a policy", Args: args(cobra.ExactArgs(1)),
	}
	f := cmd.Flags()
	f.StringVar(&vault, "vault", "", "vault for its recovery points")
	f.StringVar(&policy, "policy", "", "policy of that vault")
	f.StringVar(&item, "item", "", "id of the protected item (default: the machine's)")
	f.StringArrayVar(&exclude, "exclude-disk", nil, "disk that is not backed up, repeatable")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if policy == "" {
			return usagef("a policy must be named: --policy POLICY")
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
			ProtectedItem: &cairnv1.ProtectedItem{Machine: machine, Policy: policyName, ExcludedDisks: exclude},
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
	list := &cobra.Command{Use: "list", Short: "List protected items", Args: args(cobra.NoArgs)}
	list.Flags().StringVar(&vault, "vault", "", "only this vault's")
	list.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		items, err := a.listItems(ctx, c, vault)
		if err != nil {
			return err
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
			if err := printOne(a, itemTable, resp.GetProtectedItem()); err != nil {
				return err
			}
			if d := resp.GetProtectedItem().GetHealthDetail(); d != "" && a.output == "table" {
				fmt.Println(d)
			}
			return nil
		}),
	}
	return group("item", "Show protected items", list, show)
}
