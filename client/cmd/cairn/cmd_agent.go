package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"cairn/client/agent"
	"cairn/client/source"
)

func (a *app) agentCmd() *cobra.Command {
	var o agent.Options
	var images string
	cmd := &cobra.Command{
		Use: "agent --images DIR", Short: "Run on a host: find its machines and back them up", Args: args(cobra.NoArgs),
		Long: `Run on a host: find its machines, tell the server about them, and back them up
when the server says so. The agent dials the server; it needs no open port.

With --images every image file in DIR is a machine, and every directory in it
is a machine with several disks. Raw images are read directly; every other
format is read through qemu-nbd (Debian: qemu-utils).`,
	}
	f := cmd.Flags()
	f.StringVar(&images, "images", "", "directory of disk images")
	f.StringVar(&o.Host, "host", "", "id of this host (default: its name)")
	f.StringVar(&o.Region, "region", "", "region of this host (default: the server's)")
	f.IntVar(&o.MaxConcurrent, "jobs", 1, "backups to run at the same time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		limitMemory()
		if images == "" {
			return usagef("say where machines come from: --images DIR")
		}
		src, err := source.NewImages(images)
		if err != nil {
			return err
		}
		o.Source, o.SourceKind = src, "images"
		o.Server, o.Subscription = a.server, a.subscription
		if o.Host == "" {
			if o.Host, err = agent.HostID(); err != nil {
				return err
			}
		}
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		o.Ready = func() { fmt.Printf("cairn agent: host %s is connected to %s\n", o.Host, o.Server) }
		return agent.Run(cmd.Context(), o)
	}
	return cmd
}
