// Package daemon is what the program cairnd does: its command line, listeners,
// signals and the order in which it stops. It stands apart from the program so
// that cairn, too, can run a server as a process for its demo and benchmarks.
//
// The agent that runs within the server is handed in as a function, since the
// server's packages do not know the client's.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// memoryLimit is where the garbage collector begins to work harder, in bytes of
// Go's own memory: Pebble's caches, of fixed size, lie outside of it. Below the
// limit it works less than Go's default: blocks on their way through are garbage
// soon, and collecting it early cost a sixth of a block's time.
const (
	memoryLimit = 180 << 20
	gcPercent   = 400
)

// AgentOptions say what the agent within the server serves.
type AgentOptions struct {
	Images  string // directory of disk images; "" for none
	Libvirt string // URI of a libvirt daemon; "" for none
	QEMU    string // directory of descriptors of QEMU processes; "" for none
	// State is a directory for what the agent must find again after a crash, and
	// FreezeLimit the longest time that a guest is frozen; "" and 0 mean defaults.
	State       string
	FreezeLimit time.Duration
	Host        string // id of this host; "" is made of its name
	Region      string
	Log         *slog.Logger
}

// NewAgent prepares the agent of this host.
type NewAgent func(AgentOptions) (RunAgent, error)

// RunAgent runs an agent, which speaks to the server at address as any other
// does, until ctx ends.
type RunAgent func(ctx context.Context, address string) error

// usageError is a wrong command line: exit status 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// config is the command line.
type config struct {
	data, listen, socket string
	regions              []string
	localAgent           bool
	agent                AgentOptions
	grace                time.Duration
	perVault, perHost    int
	spread               time.Duration
	verbose              bool
	observe              observeConfig
	newAgent             NewAgent
}

// Main runs cairnd with its arguments and returns its exit status.
func Main(args []string, version string, newAgent NewAgent) int {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	c := config{newAgent: newAgent}
	cmd := &cobra.Command{
		Use: "cairnd --data DIR", Short: "Keep backups of virtual machines and serve them", Version: version,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unexpected argument %q: cairnd takes flags only", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			if err := c.check(); err != nil {
				return err
			}
			if c.observe.try {
				return c.observe.tryHooks()
			}
			return c.serve()
		},
	}
	cmd.SetArgs(args)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := cmd.Flags()
	f.StringVar(&c.data, "data", "", "directory of all data; made if it does not exist")
	f.StringVar(&c.listen, "listen", "", "loopback HOST:PORT to serve on, instead of the socket; port 0 takes a free one")
	f.StringVar(&c.socket, "socket", "", "unix socket to serve on (default: cairnd.sock in the data directory, unless --listen is given)")
	f.StringSliceVar(&c.regions, "region", []string{"local"}, "region that this server is in; with others after it, these exist as well")
	f.BoolVar(&c.localAgent, "local-agent", false, "run the agent of this host within the server")
	f.StringVar(&c.agent.Images, "images", "", "directory of disk images for the local agent")
	f.StringVar(&c.agent.Libvirt, "libvirt", "", "libvirt URI for the local agent, such as qemu:///system")
	f.StringVar(&c.agent.QEMU, "qemu", "", "directory of descriptors of QEMU processes for the local agent")
	f.StringVar(&c.agent.State, "state", "", "directory for what the local agent must find again after a crash")
	f.DurationVar(&c.agent.FreezeLimit, "freeze-limit", 0, "longest time that the local agent freezes a guest (default 10s)")
	f.StringVar(&c.agent.Host, "host", "", "id of this host for the local agent (default: its name)")
	f.DurationVar(&c.grace, "grace", 10*time.Second, "time that running uploads get when the server is stopped")
	f.IntVar(&c.perVault, "jobs-per-vault", 8, "backups and restores of one vault that run at a time; 0 is no limit")
	f.IntVar(&c.perHost, "jobs-per-host", 0, "backups and restores that one host runs at a time; 0 leaves it to its agent")
	f.DurationVar(&c.spread, "spread", 5*time.Minute, "time over which backups that are due at the same time start; 0 starts them at once")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "log every call")
	c.observe.flags(f)
	err := cmd.Execute()
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "cairnd: %v\nRun 'cairnd --help' for usage.\n", err)
		return 2
	}
	fmt.Fprintf(os.Stderr, "cairnd: %v\n", err)
	return 1
}

// check refuses command lines that make no sense.
func (c *config) check() error {
	switch {
	case c.data == "" && !c.observe.try:
		return usagef("say where the data is: --data DIR")
	case c.grace < 0:
		return usagef("--grace %v: must not be negative", c.grace)
	case c.perVault < 0:
		return usagef("--jobs-per-vault %d: must not be negative", c.perVault)
	case c.perHost < 0:
		return usagef("--jobs-per-host %d: must not be negative", c.perHost)
	case c.spread < 0:
		return usagef("--spread %v: must not be negative", c.spread)
	case c.agent.FreezeLimit < 0:
		return usagef("--freeze-limit %v: must not be negative", c.agent.FreezeLimit)
	case !c.localAgent && c.agent != AgentOptions{}:
		return usagef("--images, --libvirt, --qemu, --state, --freeze-limit and --host are for the agent within the server: add --local-agent")
	case c.localAgent && c.agent.Images == "" && c.agent.Libvirt == "" && c.agent.QEMU == "":
		return usagef("say where the local agent's machines come from: --libvirt URI, --qemu DIR, --images DIR, or several of them")
	}
	if len(c.regions) == 0 {
		return usagef("--region \"\": a region's name is empty")
	}
	for _, r := range c.regions {
		if strings.TrimSpace(r) == "" {
			return usagef("--region %q: a region's name is empty", strings.Join(c.regions, ","))
		}
	}
	if c.listen != "" {
		if _, err := loopback(c.listen); err != nil {
			return usageError{err}
		}
	}
	return c.observe.check()
}
