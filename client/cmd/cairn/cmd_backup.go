package main

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

func (a *app) backupCmd() *cobra.Command {
	var until string
	var wait bool
	cmd := &cobra.Command{
		Use: "backup ITEM", Short: "Back up now", Args: args(cobra.ExactArgs(1)),
		Long: "Start a backup of a protected item now. Its point is kept for 30 days, or through the day given.",
	}
	cmd.Flags().StringVar(&until, "retain-until", "", "last day to keep the point: 2027-01-31, 90d, or a time in RFC 3339")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		req := &cairnv1.BackUpRequest{RequestId: requestID()}
		if until != "" {
			t, err := retainUntil(until)
			if err != nil {
				return err
			}
			req.RetainUntil = timestamppb.New(t)
		}
		var err error
		if req.Name, err = a.itemName(ctx, c, args[0]); err != nil {
			return err
		}
		resp, err := c.Items.BackUp(ctx, req)
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), wait)
	})
	return cmd
}
