package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"cairn/server/notify"
)

// observeConfig is the part of the command line about who is told of what.
type observeConfig struct {
	webhooks, secrets, commands, events []string
	try                                 bool
	logFormat                           string

	notify notify.Options // made by check
}

func (o *observeConfig) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.webhooks, "webhook", nil, "URL to which events about jobs are posted; can be given several times")
	f.StringArrayVar(&o.secrets, "webhook-secret", nil, "file with the key that signs what is posted: one for all webhooks, or one for each, in their order")
	f.StringArrayVar(&o.commands, "hook", nil, "path of a program that is run for events about jobs, with the event as its input; can be given several times")
	f.StringSliceVar(&o.events, "notify", notify.DefaultFilter, "events for webhooks and programs: started, ended (in any way), completed, warnings, failed, cancelled, skipped")
	f.BoolVar(&o.try, "notify-test", false, "send a test event to all webhooks and programs, say what came of it, and exit")
	f.StringVar(&o.logFormat, "log-format", "text", "how the log on standard error is written: text or json")
}

func (o *observeConfig) check() error {
	if o.logFormat != "text" && o.logFormat != "json" {
		return usagef("--log-format %q: must be text or json", o.logFormat)
	}
	o.notify.Filter = o.events
	if err := o.notify.Filter.Check(); err != nil {
		return usagef("--notify: %w", err)
	}
	if n := len(o.secrets); n > 1 && n != len(o.webhooks) || n > 0 && len(o.webhooks) == 0 {
		return usagef("--webhook-secret: %d files for %d webhooks; give one for all, or one for each", n, len(o.webhooks))
	}
	seen := map[string]bool{}
	add := func(flag string, h notify.Hook, err error) error {
		if err != nil {
			return usagef("--%s: %w", flag, err)
		}
		if seen[h.ID()] {
			return usagef("--%s %s: is given twice", flag, h)
		}
		seen[h.ID()] = true
		o.notify.Hooks = append(o.notify.Hooks, h)
		return nil
	}
	for i, u := range o.webhooks {
		secret := ""
		if n := len(o.secrets); n > 0 {
			secret = o.secrets[min(i, n-1)]
		}
		h, err := notify.NewWebhook(u, secret)
		if err := add("webhook", h, err); err != nil {
			return err
		}
	}
	for _, path := range o.commands {
		h, err := notify.NewCommand(path)
		if err := add("hook", h, err); err != nil {
			return err
		}
	}
	if o.try && len(o.notify.Hooks) == 0 {
		return usagef("--notify-test: there are no hooks to test; add --webhook URL or --hook PROGRAM")
	}
	return nil
}

// tryHooks is --notify-test.
func (o *observeConfig) tryHooks() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := notify.Try(ctx, "", o.notify.Hooks); err != nil {
		return err
	}
	fmt.Printf("cairnd: %d hooks took the test event\n", len(o.notify.Hooks))
	return nil
}

// logger makes the server's log.
func (c *config) logger() *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if c.verbose {
		o.Level = slog.LevelDebug
	}
	if c.observe.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}
