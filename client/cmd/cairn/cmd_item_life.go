package main

import (
	"context"

	"github.com/spf13/cobra"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

func (a *app) itemStopCmd() *cobra.Command {
	var retain, remove, yes, wait bool
	cmd := &cobra.Command{
		Use: "stop ITEM --retain-data|--delete-data", Short: "Stop protecting a machine", Args: args(cobra.ExactArgs(1)),
		Long: `Stop protecting a machine. A backup that is under way is cancelled.

With --retain-data the recovery points stay, all of them and for as long as nothing
else is said, and go on being charged; cairn item resume takes the machine up again.
With --delete-data they are soft-deleted: for the vault's soft-delete days they can
be brought back by cairn item undelete, then they go for good. Of a vault without
soft delete they go at once. An item that was stopped with its data retained can be
stopped again to delete them.`,
	}
	f := cmd.Flags()
	f.BoolVar(&retain, "retain-data", false, "keep the recovery points")
	f.BoolVar(&remove, "delete-data", false, "delete the recovery points")
	f.BoolVarP(&yes, "yes", "y", false, "delete without asking")
	f.BoolVar(&wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		mode := cairnv1.StopProtectionMode_STOP_PROTECTION_MODE_RETAIN_DATA
		switch {
		case retain == remove && retain:
			return usagef("--retain-data and --delete-data exclude each other")
		case !retain && !remove:
			return usagef("say what happens to the recovery points: --retain-data or --delete-data")
		case remove:
			mode = cairnv1.StopProtectionMode_STOP_PROTECTION_MODE_DELETE_DATA
			if err := askable(yes); err != nil {
				return err
			}
		}
		name, err := a.itemName(ctx, c, args[0])
		if err != nil {
			return err
		}
		if remove {
			if err := confirmDelete(ctx, c, yes, name); err != nil {
				return err
			}
		}
		resp, err := c.Items.StopProtection(ctx, &cairnv1.StopProtectionRequest{Name: name, Mode: mode, RequestId: requestID()})
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), wait)
	})
	return cmd
}

// confirmDelete asks whether the points of an item are to go, and says how many
// they are and whether they could come back.
func confirmDelete(ctx context.Context, c *client.Client, yes bool, item string) error {
	if yes {
		return nil
	}
	it, err := c.Items.GetProtectedItem(ctx, &cairnv1.GetProtectedItemRequest{Name: item})
	if err != nil {
		return err
	}
	v, err := c.Vaults.GetVault(ctx, &cairnv1.GetVaultRequest{Name: vaultOf(item)})
	if err != nil {
		return err
	}
	after := "They go at once and cannot be brought back."
	if s := v.GetVault().GetSoftDelete(); !s.GetDisabled() {
		after = "They can be undeleted for " + plural(int64(s.GetRetentionDays()), "day") + "."
	}
	return confirm(ctx, yes, "Stop protecting %s and delete its %s? %s",
		short(item), plural(it.GetProtectedItem().GetRecoveryPointCount(), "recovery point"), after)
}

func (a *app) itemResumeCmd() *cobra.Command {
	var policy string
	var wait bool
	cmd := &cobra.Command{
		Use: "resume ITEM [--policy POLICY]", Short: "Take up the protection of a stopped item again", Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringVar(&policy, "policy", "", "policy to go on with (default: the one it had)")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if cmd.Flags().Changed("policy") && policy == "" {
			return usagef("--policy %q: must name a policy", policy)
		}
		req := &cairnv1.ResumeProtectionRequest{RequestId: requestID()}
		var err error
		if req.Name, err = a.itemName(ctx, c, args[0]); err != nil {
			return err
		}
		if policy != "" {
			if req.Policy, err = a.policyName(policy, field(req.Name, "vaults")); err != nil {
				return err
			}
		}
		resp, err := c.Items.ResumeProtection(ctx, req)
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), wait)
	})
	return cmd
}

func (a *app) itemUndeleteCmd() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: "undelete ITEM", Short: "Bring the data of a soft-deleted item back", Args: args(cobra.ExactArgs(1)),
		Long: `Bring the data of a soft-deleted item back. Its protection stays stopped:
cairn item resume takes it up again.`,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.itemName(ctx, c, args[0])
		if err != nil {
			return err
		}
		resp, err := c.Items.UndeleteProtectedItem(ctx, &cairnv1.UndeleteProtectedItemRequest{Name: name, RequestId: requestID()})
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), wait)
	})
	return cmd
}
