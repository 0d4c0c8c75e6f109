// Command cairn is the command line of Cairn: everything that the API offers,
// the agent that runs on hypervisor hosts, mounts of recovery points, the demo
// and the benchmarks.
//
// One file per command, cmd_*.go, holds flags and output; what a command does
// lies in the packages it calls. Exit status: 0 done, 1 failed, 2 wrong usage.
//
// testdata/*.txt are scripts that run the real programs; they double as
// documentation of how the commands behave.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/client/agent"
	"cairn/client/source/open"
)

func main() {
	open.Guard()
	os.Exit(run())
}

func run() int {
	// The first signal asks everything to end in order; a second one ends it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	cmd := newRoot()
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var usage usageError
	var unknown bool
	if strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") {
		unknown = true
	}
	if errors.As(err, &quietError{}) {
		return 1
	}
	printError(os.Stderr, err)
	if errors.As(err, &usage) || unknown {
		return 2
	}
	return 1
}

// app is what all commands share.
type app struct {
	server       string
	subscription string
	output       string
	volumes      volumeFlags
	wait         time.Duration // for a server that is gone, while files are read
}

// usageError is a wrong command line: exit status 2.
type usageError struct{ error }

// quietError makes the exit status 1 and says no more: the output did.
type quietError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// defaultServer is where cairnd puts its socket when it is run as README says.
const defaultServer = "unix:/var/lib/cairn/cairnd.sock"

func newRoot() *cobra.Command {
	a := &app{wait: patience}
	root := &cobra.Command{
		Use:           "cairn",
		Short:         "Back up virtual machines, and get them, or one file of theirs, back",
		Version:       agent.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch a.output {
			case "table", "json", "yaml":
				return nil
			}
			return usagef("-o %q: must be table, json or yaml", a.output)
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	server := os.Getenv("CAIRN_SERVER")
	if server == "" {
		server = defaultServer
	}
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", server, "server, unix:PATH or HOST:PORT (or set CAIRN_SERVER)")
	f.StringVar(&a.subscription, "subscription", "default", "subscription that owns the vaults")
	f.StringVarP(&a.output, "output", "o", "table", "output: table, json or yaml")
	root.AddCommand(
		a.demoCmd(),
		a.vaultCmd(), a.policyCmd(),
		a.hostCmd(), a.machineCmd(),
		a.protectCmd(), a.itemCmd(), a.backupCmd(),
		a.jobCmd(), a.pointCmd(), a.auditCmd(),
		a.mountCmd(), a.lsCmd(), a.cpCmd(),
		a.versionsCmd(), a.findCmd(), a.diffCmd(),
		a.restoreCmd(),
		a.agentCmd(), a.benchCmd(), a.sandboxServerCmd(),
	)
	return root
}

// dial connects to the server. The caller closes.
func (a *app) dial() (*client.Client, error) {
	c, err := client.Dial(a.server)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// withClient wraps a command that talks to the server.
func (a *app) withClient(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(cmd.Context(), c, args)
	}
}

// args wraps cobra's checks of the number of arguments: wrong ones are usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w (usage: %s)", err, cmd.UseLine())}
		}
		return nil
	}
}

// group makes a command that only has others below it.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q; see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

func (a *app) parent() string { return "subscriptions/" + a.subscription }
