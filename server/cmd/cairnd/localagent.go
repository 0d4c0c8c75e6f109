package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"

	"cairn/client/agent"
	"cairn/client/source"
)

// newAgent prepares the agent of this host, which speaks to the server as any
// other does. It is nil without --local-agent.
func (c *config) newAgent(log *slog.Logger) (runAgent, error) {
	if !c.localAgent {
		return nil, nil
	}
	src, err := source.NewImages(c.images)
	if err != nil {
		return nil, err
	}
	o := agent.Options{
		Host: c.host, Region: c.regions[0], Version: version,
		Source: src, SourceKind: "images", Log: log.With("part", "agent"),
	}
	if o.Host == "" {
		if o.Host, err = hostID(); err != nil {
			return nil, err
		}
	}
	o.Ready = func() { fmt.Printf("cairnd: host %s is connected\n", o.Host) }
	return func(ctx context.Context, address string) error {
		o.Server = address
		return agent.Run(ctx, o)
	}, nil
}

var notInID = regexp.MustCompile(`[^a-z0-9]+`)

// hostID makes an id of this host's name: "Web1.example.org" is "web1".
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
