package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/mount/filesys"
	"cairn/mount/history"
)

func (a *app) versionsCmd() *cobra.Command {
	var o history.VersionOptions
	var span dateRange
	cmd := &cobra.Command{
		Use: "versions ITEM:PATH", Short: "List all versions of a file in the recovery points of an item", Args: args(cobra.ExactArgs(1)),
		Long: `List all versions of a file in the recovery points of an item, oldest first:
in which points it was like that, from the first to the last, and where it was
not there. CHANGED says in what it differs from the version before.

PATH is as for cairn ls: a path inside the guest (/etc/hosts), or with its volume
(/volumes/vda1/etc/hosts). Of a directory the versions are those of its
attributes, not of what is in it.

Only metadata is read, and of contents what cannot be told from the blocks that
hold them. Two versions with the same DIGEST have the same content; with
different ones they may have, since a digest is over places and neighbours too.
Use --sha256 to have the contents read and their SHA-256 printed.`,
		Example: `  cairn versions web1:/etc/hosts
  cairn cp web1@POINT:/etc/hosts .`,
	}
	f := cmd.Flags()
	f.BoolVar(&o.SHA256, "sha256", false, "read each version, and print the SHA-256 of its content")
	f.StringVar(&span.from, "from", "", "only points from this day or time on: 2026-11-20, or 30d for 30 days ago")
	f.StringVar(&span.to, "to", "", "only points up to this day or time")
	a.addVolumeFlags(cmd)
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		limitMemory()
		item, p, err := splitPath(args[0])
		if err != nil {
			return err
		}
		if item == args[0] || p == "/" {
			return usagef("%q: must be ITEM:PATH, such as web1:/etc/hosts", args[0])
		}
		points, _, err := a.itemPoints(ctx, c, item, span)
		if err != nil {
			return err
		}
		var list []history.Version
		o.Options = problems()
		failed := history.Versions(ctx, a.past(c, "versions").item(points), p, o, func(v history.Version) error {
			list = append(list, v)
			return nil
		})
		switch {
		case errors.Is(failed, history.ErrAmbiguous):
			return usageError{failed}
		case failed != nil && !errors.Is(failed, history.ErrIncomplete):
			return failed
		case failed == nil && len(list) == 1 && !list[0].Present():
			return hintf(fmt.Errorf("%s: no such file or directory in any point of %s", p, item), "search for its name with: cairn find %s --name NAME", item)
		}
		if err := a.printVersions(list, o.SHA256); err != nil {
			return err
		}
		return notRead(failed)
	})
	return cmd
}

// versionJSON is a version in JSON.
type versionJSON struct {
	First   history.Ref  `json:"first"`
	Last    history.Ref  `json:"last"`
	Points  int          `json:"points"`
	Present bool         `json:"present"`
	Unknown string       `json:"unknown,omitempty"`
	Path    string       `json:"path,omitempty"`
	Bytes   []byte       `json:"pathBytes,omitempty"` // of a path that is no UTF-8, in base64
	Type    string       `json:"type,omitempty"`
	Mode    string       `json:"mode,omitempty"`
	UID     *uint32      `json:"uid,omitempty"`
	GID     *uint32      `json:"gid,omitempty"`
	Size    *int64       `json:"size,omitempty"`
	Mtime   *time.Time   `json:"mtime,omitempty"`
	Ctime   *time.Time   `json:"ctime,omitempty"`
	Inode   uint64       `json:"inode,omitempty"`
	Target  string       `json:"target,omitempty"`
	Digest  string       `json:"digest,omitempty"`
	SHA256  string       `json:"sha256,omitempty"`
	Changed history.What `json:"changed"`
}

func (a *app) printVersions(list []history.Version, sha bool) error {
	if a.output != "table" {
		out := []versionJSON{}
		for _, v := range list {
			j := versionJSON{First: v.First, Last: v.Last, Points: v.Points, Present: v.Present(), Changed: v.What}
			if v.Err != nil {
				j.Unknown = v.Err.Error()
			}
			if v.Present() {
				at := v.Attr
				mtime, ctime := at.Mtime.UTC(), at.Ctime.UTC()
				j.Bytes = pathBytes(v.Path)
				j.Path, j.Type, j.Mode, j.UID, j.GID = v.Path, typeWord(at.Mode), fmt.Sprintf("%04o", at.Mode&0o7777), &at.UID, &at.GID
				j.Size, j.Mtime, j.Ctime, j.Inode = &at.Size, &mtime, &ctime, at.Ino
				j.Target, j.Digest, j.SHA256 = v.Target, v.Digest, v.SHA256
			}
			out = append(out, j)
		}
		b, err := json.Marshal(out)
		if err != nil {
			return err
		}
		return printJSON(os.Stdout, a.output, b)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	head := "DIGEST"
	if sha {
		head = "SHA256"
	}
	fmt.Fprintln(w, "FIRST POINT\tLAST POINT\tPOINTS\tSIZE\tMODIFIED\t"+head+"\tCHANGED")
	for i, v := range list {
		cells := []string{v.First.ID, v.Last.ID, fmt.Sprint(v.Points)}
		switch {
		case v.Err != nil:
			cells = append(cells, "-", "-", "-", "not known: "+strings.ReplaceAll(v.Err.Error(), "\n", "; "))
		case !v.Present():
			cells = append(cells, "-", "-", "-", "not there")
		default:
			cells = append(cells, fmt.Sprint(v.Attr.Size), stamp(v.Attr.Mtime), orDash(versionDigest(v, sha)), versionNote(list, i))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// versionDigest is what the table has to tell contents apart.
func versionDigest(v history.Version, sha bool) string {
	switch {
	case v.Target != "":
		return "-> " + quoted(v.Target)
	case sha:
		return v.SHA256
	}
	return v.Digest[:min(12, len(v.Digest))]
}

// versionNote says how a version came to be.
func versionNote(list []history.Version, i int) string {
	switch v := list[i]; {
	case v.What != 0:
		return v.What.String()
	case i > 0 && !list[i-1].Present() && list[i-1].Err == nil:
		return "came"
	case v.Attr.Mode&filesys.TypeMask == filesys.TypeDir:
		return "- (a directory)"
	}
	return "-"
}
