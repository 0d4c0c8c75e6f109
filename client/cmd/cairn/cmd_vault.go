package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var vaultTable = table[*cairnv1.Vault]{
	head: []string{"VAULT", "REGION", "REDUNDANCY", "BLOCK SIZE", "ITEMS", "STATE", "CREATED"},
	row: func(v *cairnv1.Vault) []string {
		state := word(v.GetState(), "VAULT_STATE_")
		if p := v.GetProblem(); p != nil {
			state += ": " + p.GetMessage()
		}
		return []string{
			short(v.GetName()), v.GetRegion(), word(v.GetRedundancy(), "REDUNDANCY_"), size(int64(v.GetBlockSize())),
			fmt.Sprint(v.GetProtectedItemCount()), state, when(v.GetCreateTime()),
		}
	},
}

func (a *app) vaultCmd() *cobra.Command {
	return group("vault", "Manage vaults, the places that hold recovery points",
		a.vaultCreateCmd(), a.vaultListCmd(), a.vaultShowCmd(), a.vaultUpdateCmd(), a.vaultDeleteCmd(), a.vaultUsageCmd(), a.vaultReclaimCmd())
}

// vaultFlags are the settings of a vault that can be given at creation and
// changed later.
type vaultFlags struct {
	displayName, redundancy, immutability string
	softDeleteDays                        int32
	noSoftDelete                          bool
	labels                                []string
}

func (v *vaultFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&v.displayName, "display-name", "", "text for people")
	f.StringVar(&v.redundancy, "redundancy", "", "local, zone or geo; frozen once something is protected")
	f.StringVar(&v.immutability, "immutability", "", "disabled, unlocked or locked (locked is for good)")
	f.Int32Var(&v.softDeleteDays, "soft-delete-days", 14, "days to keep what was deleted, 14 to 180")
	f.BoolVar(&v.noSoftDelete, "no-soft-delete", false, "what is deleted is gone at once")
	f.StringArrayVar(&v.labels, "label", nil, `KEY=VALUE, repeatable: all labels from now on; "" alone for none`)
}

// apply sets the flags that were given and returns the fields they stand for.
func (v *vaultFlags) apply(cmd *cobra.Command, to *cairnv1.Vault) (paths []string, err error) {
	f := cmd.Flags()
	if f.Changed("display-name") {
		to.DisplayName = v.displayName
		paths = append(paths, "display_name")
	}
	if f.Changed("redundancy") {
		n, err := enum("--redundancy", v.redundancy, "REDUNDANCY_", cairnv1.Redundancy_value)
		if err != nil {
			return nil, err
		}
		to.Redundancy = cairnv1.Redundancy(n)
		paths = append(paths, "redundancy")
	}
	if f.Changed("immutability") {
		n, err := enum("--immutability", v.immutability, "IMMUTABILITY_", cairnv1.Immutability_value)
		if err != nil {
			return nil, err
		}
		to.Immutability = cairnv1.Immutability(n)
		paths = append(paths, "immutability")
	}
	if f.Changed("soft-delete-days") && v.noSoftDelete {
		return nil, usagef("--soft-delete-days and --no-soft-delete exclude each other")
	}
	if f.Changed("soft-delete-days") && v.softDeleteDays == 0 { // the API takes that for its default
		return nil, usagef("--soft-delete-days 0: must be 14 to 180; to delete at once, use --no-soft-delete")
	}
	if f.Changed("soft-delete-days") || f.Changed("no-soft-delete") {
		to.SoftDelete = &cairnv1.SoftDelete{RetentionDays: v.softDeleteDays, Disabled: v.noSoftDelete}
		paths = append(paths, "soft_delete")
	}
	if f.Changed("label") {
		to.Labels = map[string]string{}
		labels := v.labels
		if len(labels) == 1 && labels[0] == "" {
			labels = nil
		}
		for _, l := range labels {
			k, val, ok := strings.Cut(l, "=")
			if !ok {
				return nil, usagef("--label %q: must be KEY=VALUE", l)
			}
			if _, twice := to.Labels[k]; twice {
				return nil, usagef("--label %q: there is another label %s", l, k)
			}
			to.Labels[k] = val
		}
		paths = append(paths, "labels")
	}
	return paths, nil
}

// enum finds an enum value by its word in lower case.
func enum(flag, s, prefix string, values map[string]int32) (int32, error) {
	if n, ok := values[prefix+strings.ToUpper(strings.ReplaceAll(s, "-", "_"))]; ok && n != 0 {
		return n, nil
	}
	var words []string
	for i := int32(1); len(words) < len(values)-1; i++ {
		for name, n := range values {
			if n == i {
				words = append(words, strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-")))
			}
		}
	}
	return 0, usagef("%s %q: must be %s", flag, s, strings.Join(words, ", "))
}

func (a *app) vaultCreateCmd() *cobra.Command {
	var fl vaultFlags
	var region, blockSize string
	cmd := &cobra.Command{
		Use: "create VAULT", Short: "Make an empty vault", Args: args(cobra.ExactArgs(1)),
	}
	fl.add(cmd)
	cmd.Flags().StringVar(&region, "region", "", "region (default: the server's)")
	cmd.Flags().StringVar(&blockSize, "block-size", "", "power of two from 16KiB to 4MiB (default 64KiB)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		v := &cairnv1.Vault{Region: region}
		if blockSize != "" {
			n, err := humanize.ParseBytes(blockSize)
			if err != nil || n > 1<<30 {
				return usagef("--block-size %q: must be a size such as 64KiB", blockSize)
			}
			v.BlockSize = int32(n)
		}
		if _, err := fl.apply(cmd, v); err != nil {
			return err
		}
		resp, err := c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: a.parent(), VaultId: args[0], Vault: v, RequestId: requestID()})
		if err != nil {
			return err
		}
		return a.printVault(resp.GetVault())
	})
	return cmd
}

func (a *app) vaultListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List vaults", Args: args(cobra.NoArgs),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := all(func(token string) ([]*cairnv1.Vault, string, error) {
				r, err := c.Vaults.ListVaults(ctx, &cairnv1.ListVaultsRequest{Parent: a.parent(), PageSize: pageSize, PageToken: token})
				return r.GetVaults(), r.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return printList(a, vaultTable, list)
		}),
	}
}

func (a *app) vaultUpdateCmd() *cobra.Command {
	var fl vaultFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "update VAULT", Short: "Change a vault's settings", Args: args(cobra.ExactArgs(1)),
		Long: `Change a vault's settings. What is not named stays as it is.

Immutability "unlocked" forbids to delete data or to keep it shorter, until it is
disabled again; "locked" forbids that for good: nobody can take it back.`,
	}
	fl.add(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "lock without asking")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		name, err := a.vaultName(args[0])
		if err != nil {
			return err
		}
		v := &cairnv1.Vault{Name: name}
		paths, err := fl.apply(cmd, v)
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			return usagef("nothing to change: give at least one flag")
		}
		if v.GetImmutability() == cairnv1.Immutability_IMMUTABILITY_LOCKED {
			if err := confirm(ctx, yes, "Lock the immutability of vault %s? Nobody can ever delete its data early again, or unlock it.", short(name)); err != nil {
				return err
			}
		}
		resp, err := c.Vaults.UpdateVault(ctx, &cairnv1.UpdateVaultRequest{Vault: v, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		if err != nil {
			return err
		}
		return a.printVault(resp.GetVault())
	})
	return cmd
}

func (a *app) vaultDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete VAULT", Short: "Delete a vault that holds nothing any more", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.vaultName(args[0])
			if err != nil {
				return err
			}
			_, err = c.Vaults.DeleteVault(ctx, &cairnv1.DeleteVaultRequest{Name: name})
			if client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY {
				err = hintf(err, "see what it holds with: cairn item list --vault %[1]s, and cairn item list --vault %[1]s --deleted", short(name))
			}
			return err
		}),
	}
}
