package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

// vmFlags are the flags of cairn restore vm.
type vmFlags struct {
	name, to, host                     string
	inPlace, stop, instant, start, yes bool
	wait                               bool
}

func (a *app) restoreVMCmd() *cobra.Command {
	var v vmFlags
	cmd := &cobra.Command{
		Use: "vm POINT [--name NAME | --in-place]", Short: "Bring a whole machine back, on its host or another one", Args: args(cobra.ExactArgs(1)),
		Long: `Bring a whole machine back: its definition with every network card, its disks,
and the state of its firmware. The agent of its host does it, or that of --host.

Without --in-place it becomes a new machine beside the old one, with an identity
of its own, called NAME or, without --name, what it was called and "-restored".
With --instant it runs within seconds, from the vault, while its data is moved in
behind it.

With --in-place the machine itself gets the disks of the point. What it holds now
is kept as a recovery point for 30 days, and its old disks until the new ones are
complete. It must be off, or be allowed to be stopped with --stop.`,
	}
	f := cmd.Flags()
	f.StringVar(&v.name, "name", "", "name of the new machine")
	f.BoolVar(&v.inPlace, "in-place", false, "replace the disks of the machine itself")
	f.BoolVar(&v.stop, "stop", false, "with --in-place: stop the machine if it runs; it is started again afterwards")
	f.BoolVar(&v.instant, "instant", false, "start the new machine at once, and move its data in while it runs")
	f.BoolVar(&v.start, "start", false, "start the machine when its disks are complete")
	f.StringVar(&v.to, "to", "", "directory on the host for the disks of the new machine (default: where the old ones were)")
	f.StringVar(&v.host, "host", "", "host that restores (default: the machine's)")
	f.BoolVar(&v.yes, "yes", false, "do not ask before --in-place replaces disks")
	f.BoolVar(&v.wait, "wait", false, "wait for the end; exit with 1 if the job failed")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		if err := v.check(cmd.Flags().Changed("name")); err != nil {
			return err
		}
		p, err := a.point(ctx, c, args[0])
		if err != nil {
			return err
		}
		if v.inPlace {
			if err := confirm(ctx, v.yes, "Replace the disks of machine %s with those of %s? What they hold now is kept as a recovery point.",
				short(p.GetMachine()), args[0]); err != nil {
				return err
			}
		}
		resp, err := c.Points.Restore(ctx, v.request(a, p))
		if err != nil {
			return err
		}
		return a.started(ctx, c, resp.GetJob(), v.wait)
	})
	return cmd
}

// check refuses flags that do not go together.
func (v *vmFlags) check(named bool) error {
	switch {
	case named && strings.TrimSpace(v.name) == "":
		return usagef("--name %q: must not be empty", v.name)
	case v.inPlace && named:
		return usagef("--name and --in-place exclude each other")
	case v.inPlace && v.instant:
		return usagef("--instant and --in-place exclude each other: only a new machine can start from the vault")
	case v.inPlace && v.to != "":
		return usagef("--to and --in-place exclude each other: in place the disks stay where they are")
	case v.stop && !v.inPlace:
		return usagef("--stop is for --in-place: a new machine leaves the old one alone")
	case v.to != "" && !strings.HasPrefix(v.to, "/"):
		return usagef("--to %q: must be an absolute path, as it is one of the host's", v.to)
	}
	if v.inPlace {
		return askable(v.yes)
	}
	return nil
}

// request is the call that the flags stand for.
func (v *vmFlags) request(a *app, p *cairnv1.RecoveryPoint) *cairnv1.RestoreRequest {
	r := &cairnv1.RestoreRequest{Name: p.GetName(), RequestId: requestID(), Host: v.host}
	if v.host != "" && !strings.HasPrefix(v.host, "subscriptions/") {
		r.Host = a.parent() + "/hosts/" + v.host
	}
	if v.inPlace {
		r.Target = &cairnv1.RestoreRequest_InPlace{InPlace: &cairnv1.RestoreInPlace{StopMachine: v.stop, Start: v.start}}
		return r
	}
	name := v.name
	if name == "" {
		name = p.GetMachineTitle()
		if name == "" {
			name = short(p.GetMachine())
		}
		name += "-restored"
	}
	r.Target = &cairnv1.RestoreRequest_NewMachine{NewMachine: &cairnv1.RestoreNewMachine{
		Title: name, Instant: v.instant, Start: v.start, Directory: v.to,
	}}
	return r
}
