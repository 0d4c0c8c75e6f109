package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cairn/client"
	"cairn/mount/filesys"
	"cairn/mount/tree"
)

func (a *app) lsCmd() *cobra.Command {
	var long, recursive bool
	cmd := &cobra.Command{
		Use: "ls POINT[:PATH]", Short: "List files in a recovery point, without mounting it", Args: args(cobra.ExactArgs(1)),
		Long: `List files in a recovery point, without mounting it.

PATH is a path inside the guest (/etc/hosts), or, when several volumes have it,
with the volume: /volumes/vda1/etc/hosts. Without a PATH the point itself is
listed: point.json, disks and volumes.`,
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "modes, owners, sizes, times")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "everything below as well")
	a.addVolumeFlags(cmd)
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		point, p, err := splitPath(args[0])
		if err != nil {
			return err
		}
		t, err := a.openTree(ctx, c, point, "ls")
		if err != nil {
			return err
		}
		defer t.Close()
		if p, err = treePath(ctx, t, p); err != nil {
			return err
		}
		l := &lister{format: a.output, long: long}
		if err := l.list(ctx, t, p, recursive); err != nil {
			return err
		}
		return l.flush()
	})
	return cmd
}

// lister prints entries as they come, but for JSON and YAML, which are arrays.
type lister struct {
	format string
	long   bool
	w      *tabwriter.Writer
	rows   int
	all    []listed
	failed error
}

// listed is an entry in JSON.
type listed struct {
	Path   string    `json:"path"`
	Bytes  []byte    `json:"pathBytes,omitempty"` // of a path that is no UTF-8, in base64
	Type   string    `json:"type"`
	Mode   string    `json:"mode"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Links  uint32    `json:"links"`
	Size   int64     `json:"size"`
	Mtime  time.Time `json:"mtime"`
	Target string    `json:"target,omitempty"`
}

func (l *lister) list(ctx context.Context, t *tree.Tree, p string, recursive bool) error {
	f, err := t.Resolve(ctx, p, true)
	if err != nil {
		return err
	}
	if f.Attr.Mode&filesys.TypeMask != filesys.TypeDir {
		return l.entry(ctx, f.Path, path.Base(f.Path), f.Node, f.Attr)
	}
	return tree.Walk(ctx, f.Path, f.Node, func(at string, n tree.Node, attr filesys.Attr, err error) error {
		if err != nil { // one bad directory does not hide the rest
			l.fail(at, err)
			return nil
		}
		if at == f.Path {
			return nil
		}
		name := path.Base(at)
		if recursive {
			name = at
		}
		if err := l.entry(ctx, at, name, n, attr); err != nil {
			return err
		}
		if !recursive && attr.Mode&filesys.TypeMask == filesys.TypeDir {
			return tree.ErrSkipDir
		}
		return nil
	})
}

func (l *lister) fail(at string, err error) {
	l.flushTable()
	fmt.Fprintf(os.Stderr, "cairn: %s: %s\n", quoted(at), printable(err.Error()))
	l.failed = errors.New("not everything could be listed")
}

func (l *lister) entry(ctx context.Context, at, name string, n tree.Node, a filesys.Attr) error {
	target := ""
	if a.Mode&filesys.TypeMask == filesys.TypeSymlink && (l.long || l.format != "table") {
		var err error
		if target, err = n.Readlink(ctx); err != nil {
			l.fail(at, err)
		}
	}
	if l.format != "table" {
		l.all = append(l.all, listed{
			Path: at, Bytes: pathBytes(at), Type: typeWord(a.Mode), Mode: fmt.Sprintf("%04o", a.Mode&0o7777), UID: a.UID, GID: a.GID, Links: a.Nlink,
			Size: a.Size, Mtime: a.Mtime.UTC(), Target: target,
		})
		return nil
	}
	if !l.long {
		_, err := fmt.Println(quoted(name))
		return err
	}
	if l.w == nil {
		l.w = tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', tabwriter.AlignRight)
	}
	sz := fmt.Sprint(a.Size)
	if t := a.Mode & filesys.TypeMask; t == filesys.TypeChar || t == filesys.TypeBlock {
		sz = fmt.Sprintf("%d,%d", unix.Major(a.Rdev), unix.Minor(a.Rdev))
	}
	arrow := ""
	if target != "" {
		arrow = " -> " + quoted(target)
	}
	fmt.Fprintf(l.w, "%s\t%d\t%d\t%d\t%s\t %s %s%s\n", goMode(a.Mode), a.Nlink, a.UID, a.GID, sz,
		a.Mtime.UTC().Format("2006-01-02 15:04:05"), quoted(name), arrow)
	if l.rows++; l.rows%200 == 0 { // a long listing appears as it goes
		l.flushTable()
	}
	return nil
}

func (l *lister) flushTable() {
	if l.w != nil {
		l.w.Flush()
	}
}

func (l *lister) flush() error {
	l.flushTable()
	if l.format != "table" {
		if l.all == nil {
			l.all = []listed{}
		}
		j, err := json.Marshal(l.all)
		if err != nil {
			return err
		}
		if err := printJSON(os.Stdout, l.format, j); err != nil {
			return err
		}
	}
	return l.failed
}

func goMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for _, b := range []struct {
		bit  uint32
		flag fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if m&b.bit != 0 {
			mode |= b.flag
		}
	}
	switch m & filesys.TypeMask {
	case filesys.TypeDir:
		mode |= fs.ModeDir
	case filesys.TypeSymlink:
		mode |= fs.ModeSymlink
	case filesys.TypeChar:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case filesys.TypeBlock:
		mode |= fs.ModeDevice
	case filesys.TypeFIFO:
		mode |= fs.ModeNamedPipe
	case filesys.TypeSocket:
		mode |= fs.ModeSocket
	}
	return mode
}

func typeWord(m uint32) string {
	switch m & filesys.TypeMask {
	case filesys.TypeDir:
		return "directory"
	case filesys.TypeSymlink:
		return "symlink"
	case filesys.TypeRegular:
		return "file"
	case filesys.TypeChar:
		return "character device"
	case filesys.TypeBlock:
		return "block device"
	case filesys.TypeFIFO:
		return "fifo"
	case filesys.TypeSocket:
		return "socket"
	}
	return "unknown"
}
