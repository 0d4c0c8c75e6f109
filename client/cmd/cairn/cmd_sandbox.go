package main

import (
	"os"

	"github.com/spf13/cobra"

	"cairn/bench/sandbox"
	"cairn/client/agent"
	"cairn/server/daemon"
)

// sandboxServerCmd is the server of demo and bench: cairnd in this program.
func (a *app) sandboxServerCmd() *cobra.Command {
	return &cobra.Command{
		Use: sandbox.ServerCommand, Hidden: true, DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) { os.Exit(daemon.Main(args, agent.Version, nil)) },
	}
}
