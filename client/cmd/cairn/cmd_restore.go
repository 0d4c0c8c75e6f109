package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/client/agent"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

func (a *app) restoreCmd() *cobra.Command {
	return group("restore", "Bring whole disks and machines back", a.restoreDiskCmd(), a.restoreVMCmd())
}

func (a *app) restoreDiskCmd() *cobra.Command {
	var to, onto, format string
	var yes bool
	cmd := &cobra.Command{
		Use: "disk POINT [DISK…] --to DIR | --onto PATH", Short: "Write the disks of a point to image files, or one over a volume", Args: args(cobra.MinimumNArgs(1)),
		Long: `Write the disks of a recovery point, or those named, to DIR/DISK.raw or
DIR/DISK.qcow2. Every block is verified. A file gets its name when it is complete;
a file that is there already is not touched.

With --onto one disk is written over a block device, or a raw image file, that is
there already and large enough. What it holds is lost from the first moment on; a
device that is mounted is refused.`,
	}
	cmd.Flags().StringVar(&onto, "onto", "", "block device or raw image file whose contents are replaced")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before --onto replaces something")
	cmd.Flags().StringVar(&to, "to", "", "directory; made if it is not there")
	cmd.Flags().StringVar(&format, "format", "raw", "raw (sparse) or qcow2")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		limitMemory()
		switch {
		case to == "" && onto == "":
			return usagef("say where to write the disks: --to DIR, or --onto PATH for one disk")
		case to != "" && onto != "":
			return usagef("--to and --onto exclude each other")
		case format != "raw" && format != "qcow2":
			return usagef("--format %q: must be raw or qcow2", format)
		case onto != "" && format != "raw":
			return usagef("--format %s: what --onto replaces is always raw", format)
		case onto != "" && len(args) > 2:
			return usagef("--onto %s takes one disk, not %d", onto, len(args)-1)
		case onto != "":
			if err := askable(yes); err != nil {
				return err
			}
		}
		p, err := a.point(ctx, c, args[0])
		if err != nil {
			return err
		}
		disks, err := pickDisks(p, args[1:])
		if err != nil {
			return err
		}
		if onto != "" {
			if len(disks) > 1 {
				return usagef("--onto %s takes one disk, and the point has %d: name one", onto, len(disks))
			}
			if err := confirm(ctx, yes, "Replace what %s holds with disk %s of %s? It cannot be brought back.", onto, disks[0].GetTarget(), args[0]); err != nil {
				return err
			}
		} else if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		release, err := c.HoldPoint(ctx, p.GetName(), client.Holder("restore"))
		if err != nil {
			return err
		}
		defer release()
		for _, d := range disks {
			path, create := filepath.Join(to, d.GetTarget()+"."+format), source.CreateRaw
			switch {
			case onto != "":
				path, create = onto, func(ctx context.Context, path string, size, _ int64) (source.DiskWriter, error) {
					return source.OpenVolume(ctx, path, size)
				}
			case format == "qcow2":
				create = source.CreateQCOW2
			}
			start := time.Now()
			if err := restoreDisk(ctx, c, p, d, path, create); err != nil {
				if errors.Is(err, source.ErrTargetExists) {
					err = hintf(err, "remove it, or restore to another directory")
				}
				return fmt.Errorf("restore disk %s: %w", d.GetTarget(), err)
			}
			fmt.Printf("%s: %s of %s, %s\n", path, size(d.GetDataBytes()), size(d.GetSize()), time.Since(start).Round(time.Millisecond))
		}
		return nil
	})
	return cmd
}

// pickDisks finds the disks named, or all.
func pickDisks(p *cairnv1.RecoveryPoint, targets []string) ([]*cairnv1.RecoveryPointDisk, error) {
	if len(targets) == 0 {
		return p.GetDisks(), nil
	}
	var out []*cairnv1.RecoveryPointDisk
	for _, t := range targets {
		i := slices.IndexFunc(p.GetDisks(), func(d *cairnv1.RecoveryPointDisk) bool { return d.GetTarget() == t })
		if i < 0 {
			var have []string
			for _, d := range p.GetDisks() {
				have = append(have, d.GetTarget())
			}
			return nil, fmt.Errorf("the point has no disk %q: its disks are %v", t, have)
		}
		out = append(out, p.GetDisks()[i])
	}
	return out, nil
}

func restoreDisk(ctx context.Context, c *client.Client, p *cairnv1.RecoveryPoint, d *cairnv1.RecoveryPointDisk, path string,
	create func(ctx context.Context, path string, size, data int64) (source.DiskWriter, error)) error {
	m, err := client.Map(d)
	if err != nil {
		return err
	}
	w, err := create(ctx, path, d.GetSize(), d.GetDataBytes())
	if err != nil {
		return err
	}
	defer w.Abort()
	r := c.Reader(p.GetName())
	r.RetryFor = time.Minute
	show := newMeter(os.Stderr)
	defer show.close()
	var done atomic.Int64
	ticks := make(chan struct{}, 1)
	shown := make(chan struct{})
	go func() { // the meter is for one goroutine
		defer close(shown)
		for range ticks {
			show.set("Restore "+d.GetTarget(), done.Load(), d.GetDataBytes())
		}
	}()
	err = agent.RestoreDisk(ctx, r, m, w, func(n int64) {
		done.Add(n)
		select {
		case ticks <- struct{}{}:
		default:
		}
	})
	close(ticks)
	<-shown
	if err != nil {
		return err
	}
	return w.Commit(ctx)
}
