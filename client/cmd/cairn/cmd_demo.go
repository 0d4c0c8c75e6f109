package main

import (
	"os"

	"github.com/spf13/cobra"
)

func (a *app) demoCmd() *cobra.Command {
	d := &demo{out: os.Stdout}
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the whole way, from a disk image to a file brought back", Args: args(cobra.NoArgs),
		Long: `Show the whole way on a small real image, in a private temporary server: back it
up, delete a file in it, back up again, mount the first point and bring the
file back. Every command that a person would type is shown and really run.
Everything is removed at the end, also when interrupted.`,
	}
	cmd.Flags().StringVar(&d.image, "image", "", "a disk image with an ext2/3/4 file system to work on (a copy of it), instead of one made of this machine's files")
	cmd.Flags().Int64Var(&d.megabytes, "size", 300, "how many MB of this machine's files to take")
	cmd.Flags().BoolVar(&d.keep, "keep", false, "leave the temporary directory in place")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if d.megabytes < 1 || d.megabytes > 100_000 {
			return usagef("--size %d: must be 1 to 100000", d.megabytes)
		}
		return d.run(cmd.Context())
	}
	return cmd
}
