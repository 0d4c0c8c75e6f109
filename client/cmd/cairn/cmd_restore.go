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
	return group("restore", "Bring whole disks back", a.restoreDiskCmd())
}

func (a *app) restoreDiskCmd() *cobra.Command {
	var to, format string
	cmd := &cobra.Command{
		Use: "disk POINT [DISK…] --to DIR", Short: "Write the disks of a point to image files", Args: args(cobra.MinimumNArgs(1)),
		Long: `Write the disks of a recovery point, or those named, to DIR/DISK.raw or
DIR/DISK.qcow2. Every block is verified. A file gets its name when it is complete;
a file that is there already is not touched.`,
	}
	cmd.Flags().StringVar(&to, "to", "", "directory; made if it is not there")
	cmd.Flags().StringVar(&format, "format", "raw", "raw (sparse) or qcow2")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		limitMemory()
		if to == "" {
			return usagef("say where to write the disks: --to DIR")
		}
		if format != "raw" && format != "qcow2" {
			return usagef("--format %q: must be raw or qcow2", format)
		}
		p, err := a.point(ctx, c, args[0])
		if err != nil {
			return err
		}
		disks, err := pickDisks(p, args[1:])
		if err != nil {
			return err
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		release, err := c.HoldPoint(ctx, p.GetName(), client.Holder("restore"))
		if err != nil {
			return err
		}
		defer release()
		for _, d := range disks {
			path := filepath.Join(to, d.GetTarget()+"."+format)
			start := time.Now()
			if err := restoreDisk(ctx, c, p, d, path, format); err != nil {
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

func restoreDisk(ctx context.Context, c *client.Client, p *cairnv1.RecoveryPoint, d *cairnv1.RecoveryPointDisk, path, format string) error {
	m, err := client.Map(d)
	if err != nil {
		return err
	}
	create := source.CreateRaw
	if format == "qcow2" {
		create = source.CreateQCOW2
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
