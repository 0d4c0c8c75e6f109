package main

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"cairn/client/agent"
	"cairn/client/source"
)

// version is what programs say they are.
const version = "0.1.0"

func (a *app) agentCmd() *cobra.Command {
	o := agent.Options{Version: version}
	var images string
	cmd := &cobra.Command{
		Use: "agent --images DIR", Short: "Run on a host: find its machines and back them up", Args: args(cobra.NoArgs),
		Long: `Run on a host: find its machines, tell the server about them, and back them up
when the server says so. The agent dials the server; it needs no open port.

With --images every image file in DIR is a machine, and every directory in it
is a machine with several disks. Raw images are read directly; every other
format is read through qemu-nbd (Debian: qemu-utils).`,
	}
	f := cmd.Flags()
	f.StringVar(&images, "images", "", "directory of disk images")
	f.StringVar(&o.Host, "host", "", "id of this host (default: its name)")
	f.StringVar(&o.Region, "region", "", "region of this host (default: the server's)")
	f.IntVar(&o.MaxConcurrent, "jobs", 1, "backups to run at the same time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if images == "" {
			return usagef("say where machines come from: --images DIR")
		}
		src, err := source.NewImages(images)
		if err != nil {
			return err
		}
		o.Source, o.SourceKind = src, "images"
		o.Server, o.Subscription = a.server, a.subscription
		if o.Host == "" {
			if o.Host, err = hostID(); err != nil {
				return err
			}
		}
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		o.Ready = func() { fmt.Printf("cairn agent: host %s is connected to %s\n", o.Host, o.Server) }
		return agent.Run(cmd.Context(), o)
	}
	return cmd
}

var notInID = regexp.MustCompile(`[^a-z0-9]+`)

// hostID makes an id of the host's name: "Web1.example.org" is "web1".
func hostID() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name of this host: %w", err)
	}
	name, _, _ = strings.Cut(name, ".")
	id := strings.Trim(notInID.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if id == "" || id[0] < 'a' {
		id = "host-" + id
	}
	return strings.TrimRight(id[:min(len(id), 63)], "-"), nil
}
