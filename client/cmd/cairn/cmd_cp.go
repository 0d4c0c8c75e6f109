package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"sync"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/mount/extract"
	"cairn/mount/tree"
)

func (a *app) cpCmd() *cobra.Command {
	var o extract.Options
	cmd := &cobra.Command{
		Use: "cp POINT:PATH… DEST", Short: "Copy files out of a recovery point, without mounting it", Args: args(cobra.MinimumNArgs(2)),
		Long: `Copy files out of a recovery point, without FUSE and without root.

PATH is as for cairn ls. DEST is a directory, or the name of the copy; "-" writes
one file, or a directory as a tar archive, to standard output. Holes stay holes,
modes and times are kept. Nothing that exists is replaced without --force.`,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Recursive, "recursive", "r", false, "directories with everything below them")
	f.BoolVarP(&o.Archive, "archive", "a", false, "owners, extended attributes and special files too; implies -r")
	f.BoolVar(&o.Force, "force", false, "replace files that exist")
	a.addVolumeFlags(cmd)
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		limitMemory()
		dest := args[len(args)-1]
		open := map[string]*tree.Tree{} // several paths of one point share it
		defer func() {
			for _, t := range open {
				t.Close()
			}
		}()
		var sources []extract.Source
		for _, arg := range args[:len(args)-1] {
			point, p, err := splitPath(arg)
			if err != nil {
				return err
			}
			if point == arg {
				return usagef("%q: must be POINT:PATH, such as web1@latest:/etc/hosts", arg)
			}
			t := open[point]
			if t == nil {
				if t, err = a.openTree(ctx, c, point, "cp"); err != nil {
					return err
				}
				open[point] = t
			}
			if p, err = treePath(ctx, t, p); err != nil {
				return err
			}
			found, err := t.Resolve(ctx, p, !o.Archive)
			if err != nil {
				return err
			}
			name := path.Base(p)
			if path.Base(arg) == "." {
				name = "." // its entries, as with cp
			}
			sources = append(sources, extract.Source{Path: name, Node: found.Node})
		}
		var mu sync.Mutex // one line at a time
		o.Report = func(p string, err error) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(os.Stderr, "cairn: %s: %v\n", p, err)
		}
		if dest == "-" {
			if len(sources) > 1 {
				return usagef("only one file or directory fits on standard output, not %d", len(sources))
			}
			_, err := extract.Stream(ctx, sources[0], os.Stdout, o)
			return err
		}
		show := newMeter(os.Stderr)
		defer show.close()
		if show.tty {
			o.Progress = func(p extract.Progress) {
				mu.Lock()
				defer mu.Unlock()
				show.set("Copy", p.Done, p.Total)
			}
		}
		p, err := extract.Copy(ctx, sources, dest, o)
		show.close()
		if err != nil {
			return err
		}
		fmt.Printf("%d files, %s\n", p.Files, size(p.Done))
		return nil
	})
	return cmd
}
