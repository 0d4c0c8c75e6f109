package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"strings"
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
modes and times are kept. A file that exists is replaced with --force, or if a
person on the terminal says so; until its copy is complete the old one stays.`,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Recursive, "recursive", "r", false, "directories with everything below them")
	f.BoolVarP(&o.Archive, "archive", "a", false, "owners, extended attributes and special files too; implies -r")
	f.BoolVar(&o.Force, "force", false, "replace files that exist without asking")
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
			fmt.Fprintf(os.Stderr, "cairn: %s: %s\n", quoted(p), printable(err.Error()))
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
		if !o.Force && onTerminal() {
			o.Replace = askReplace(ctx, dest, &mu)
		}
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

// askReplace asks whether a file that exists may be replaced: this one, none, or
// all that come.
func askReplace(ctx context.Context, dest string, mu *sync.Mutex) func(src, name string) bool {
	in := bufio.NewReader(os.Stdin)
	all := false
	return func(_, name string) bool {
		if all {
			return true
		}
		at := path.Join(dest, name)
		if st, err := os.Lstat(dest); err == nil && !st.IsDir() {
			at = dest // DEST names the copy
		}
		was := ""
		if st, err := os.Lstat(at); err == nil {
			was = fmt.Sprintf(" (%s, of %s)", size(st.Size()), stamp(st.ModTime()))
		}
		mu.Lock() // the progress bar waits
		defer mu.Unlock()
		fmt.Fprintf(os.Stderr, "Replace %s%s by that of the point? [y/N/all] ", quoted(at), was)
		answer := make(chan string, 1)
		go func() { // cannot be interrupted; the program ends instead
			line, _ := in.ReadString('\n') // an end of input is no yes
			answer <- strings.ToLower(strings.TrimSpace(line))
		}()
		select {
		case s := <-answer:
			all = s == "a" || s == "all"
			return all || s == "y" || s == "yes"
		case <-ctx.Done():
			return false
		}
	}
}
