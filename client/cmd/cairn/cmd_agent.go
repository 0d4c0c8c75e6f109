package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"cairn/client/agent"
	"cairn/client/source/open"
)

func (a *app) agentCmd() *cobra.Command {
	var o agent.Options
	var from open.Options
	cmd := &cobra.Command{
		Use: "agent --libvirt URI | --qemu DIR | --images DIR", Short: "Run on a host: find its machines and back them up", Args: args(cobra.NoArgs),
		Long: `Run on a host: find its machines, tell the server about them, and back them up
when the server says so. The agent dials the server; it needs no open port.

With --libvirt the domains of a libvirt daemon are the machines, and with --qemu
the QEMU processes that descriptors in DIR tell of. Running machines are frozen by
their guest agents for a moment, snapshotted, and read while they run; the guest
is thawed after --freeze-limit at the latest. What must be found again after a
crash, and what guests overwrite while they are read, is in the --state directory.

With --images every image file in DIR is a machine, and every directory in it
is a machine with several disks. Raw images are read directly; every other
format is read through qemu-nbd (Debian: qemu-utils).

Several of them together are one host. Their machines must have different names.`,
	}
	f := cmd.Flags()
	f.StringVar(&from.Libvirt, "libvirt", "", "libvirt URI, such as qemu:///system")
	f.StringVar(&from.QEMU, "qemu", "", "directory of descriptors of QEMU processes")
	f.StringVar(&from.Images, "images", "", "directory of disk images")
	f.StringVar(&from.State, "state", "", "directory for what must be found again after a crash (default: /var/lib/cairn-agent)")
	f.DurationVar(&from.FreezeLimit, "freeze-limit", 0, "longest time that a guest is frozen (default 10s)")
	f.StringVar(&o.Host, "host", "", "id of this host (default: its name)")
	f.StringVar(&o.Region, "region", "", "region of this host (default: the server's)")
	f.IntVar(&o.MaxConcurrent, "jobs", 2, "jobs to run at the same time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		limitMemory()
		if from.FreezeLimit < 0 {
			return usagef("--freeze-limit %v: must not be negative", from.FreezeLimit)
		}
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		from.Log = o.Log
		src, err := open.Sources(from)
		if errors.Is(err, open.ErrNothing) {
			return usagef("say where machines come from: --libvirt URI, --qemu DIR, --images DIR, or several of them")
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, src.Close()) }()
		o.Source, o.SourceKind = src.Source, src.Kinds
		o.Server, o.Subscription = a.server, a.subscription
		if o.Host == "" {
			if o.Host, err = agent.HostID(); err != nil {
				return err
			}
		}
		o.Ready = func() { fmt.Printf("cairn agent: host %s is connected to %s\n", o.Host, o.Server) }
		return agent.Run(cmd.Context(), o)
	}
	return cmd
}
