package main

import (
	"context"
	"fmt"

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
		a.policyCreateCmd(), a.policyListCmd(), a.policyShowCmd(), a.policyUpdateCmd(), a.policyDeleteCmd(), a.policyPreviewCmd())
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
		p := &cairnv1.Policy{}
		if _, err := fl.apply(cmd, p); err != nil {
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
		return a.printPolicy(resp.GetPolicy())
	})
	return cmd
}

// printPolicy prints all there is to say about a policy.
func (a *app) printPolicy(p *cairnv1.Policy) error {
	if err := printOne(a, policyTable, p); err != nil || a.output != "table" {
		return err
	}
	if p.GetDisplayName() != "" {
		fmt.Printf("display name: %s\n", p.GetDisplayName())
	}
	if p.GetMinimumConsistency() != 0 {
		fmt.Printf("minimum consistency: %s\n", word(p.GetMinimumConsistency(), "CONSISTENCY_CLASS_"))
	}
	fmt.Printf("as flags: %s\n", flagsText(p))
	return nil
}

func (a *app) policyUpdateCmd() *cobra.Command {
	var fl policyFlags
	var vault string
	cmd := &cobra.Command{
		Use: "update POLICY --vault VAULT", Short: "Change a policy", Args: args(cobra.ExactArgs(1)),
		Long: `Change a policy. What is not named stays as it is; --keep-… 0 removes a rule.
Points that exist are kept by the changed rules from then on: see before what that
means for an item with cairn policy preview POLICY --item ITEM and the same flags.`,
	}
	fl.add(cmd)
	cmd.Flags().StringVar(&vault, "vault", "", "vault of the policy")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.policyName(args[0], vault)
		if err != nil {
			return err
		}
		if !fl.any(cmd) {
			return usagef("nothing to change: give at least one flag")
		}
		if err := fl.check(cmd); err != nil {
			return err
		}
		read, err := c.Policies.GetPolicy(ctx, &cairnv1.GetPolicyRequest{Name: name})
		if err != nil {
			return err
		}
		p := read.GetPolicy()
		paths, err := fl.apply(cmd, p)
		if err != nil {
			return err
		}
		resp, err := c.Policies.UpdatePolicy(ctx, &cairnv1.UpdatePolicyRequest{Policy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		if err != nil {
			return err
		}
		return a.printPolicy(resp.GetPolicy())
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
