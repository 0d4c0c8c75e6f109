package main

import (
	"fmt"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cairn/bench"
)

func (a *app) benchCmd() *cobra.Command {
	return group("bench", "Measure the block store, or the whole way for one image", a.benchStoreCmd(), a.benchImageCmd())
}

func (a *app) benchStoreCmd() *cobra.Command {
	var o bench.StoreOptions
	var amount, blockSize string
	cmd := &cobra.Command{
		Use: "store", Short: "Measure the block store: ingest, reads, look-ups", Args: args(cobra.NoArgs),
		Long: `Measure the block store in a temporary vault, next to plain files on the same
disk in the same run.`,
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "", "directory on the disk to measure (default: the system's temporary directory)")
	f.StringVar(&amount, "size", "2GiB", "unique data to ingest")
	f.StringVar(&blockSize, "block-size", "64KiB", "bytes of a block")
	f.IntVar(&o.Entries, "entries", 4_000_000, "blocks in the index when look-ups are measured")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		n, err := humanize.ParseBytes(amount)
		if err != nil || n < 1<<20 || n > 1<<50 {
			return usagef("--size %q: must be a size from 1MiB", amount)
		}
		bs, err := humanize.ParseBytes(blockSize)
		if err != nil || bs < 16<<10 || bs > 4<<20 || bs&(bs-1) != 0 {
			return usagef("--block-size %q: must be a power of two from 16KiB to 4MiB", blockSize)
		}
		if o.Entries < 1 {
			return usagef("--entries %d: must be at least 1", o.Entries)
		}
		o.Bytes, o.BlockSize = int64(n), int(bs)
		o.Progress = func(what string) { fmt.Fprintln(os.Stderr, what) }
		rep, err := bench.Store(cmd.Context(), o)
		if err != nil {
			return err
		}
		return rep.Print(os.Stdout, a.output == "json")
	}
	return cmd
}

func (a *app) benchImageCmd() *cobra.Command {
	var o bench.ImageOptions
	cmd := &cobra.Command{
		Use: "image FILE", Short: "Measure backups, restore and a mount of an image", Args: args(cobra.ExactArgs(1)),
		Long: `Measure a full backup of an image, one without changes and one with 1% changed,
a restore, and reads through a mount, with a private server and agent that run
as two processes and speak gRPC. The image is copied and not changed.`,
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "directory on the disk to measure (default: the system's temporary directory)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Image = args[0]
		o.Progress = func(what string) { fmt.Fprintln(os.Stderr, what) }
		rep, err := bench.Image(cmd.Context(), o)
		if err != nil {
			return err
		}
		return rep.Print(os.Stdout, a.output == "json")
	}
	return cmd
}
