package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"cairn/server/notify"
)

// observeConfig is the part of the command line about who is told of what.
type observeConfig struct {
	webhooks, secrets, commands, events []string
	try                                 bool
	logFormat, metrics                  string

	notify notify.Options // made by check
}

func (o *observeConfig) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.webhooks, "webhook", nil, "URL to which events about jobs are posted; can be given several times")
	f.StringArrayVar(&o.secrets, "webhook-secret", nil, "file with the key that signs what is posted: one for all webhooks, or one for each, in their order")
	f.StringArrayVar(&o.commands, "hook", nil, "path of a program that is run for events about jobs, with the event as its input; can be given several times")
	f.StringSliceVar(&o.events, "notify", notify.DefaultFilter, "events for webhooks and programs: started, ended (in any way), completed, warnings, failed, cancelled, skipped")
	f.BoolVar(&o.try, "notify-test", false, "send a test event to all webhooks and programs, say what came of it, and exit")
	f.StringVar(&o.metrics, "metrics", "", "HOST:PORT on which /metrics, for Prometheus, and /healthz are served to everybody who reaches it; port 0 takes a free one")
	f.StringVar(&o.logFormat, "log-format", "text", "how the log on standard error is written: text or json")
}

func (o *observeConfig) check() error {
	if o.logFormat != "text" && o.logFormat != "json" {
		return usagef("--log-format %q: must be text or json", o.logFormat)
	}
	if o.metrics != "" {
		_, port, err := net.SplitHostPort(o.metrics)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return usagef("--metrics %q: must be HOST:PORT, such as 127.0.0.1:9477", o.metrics)
		}
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

// serveMetrics serves --metrics until stop is called. Without encryption and
// passwords, but for reading only: so, unlike --listen, on any address.
func (o *observeConfig) serveMetrics(h http.Handler, failed chan<- error) (stop func(), err error) {
	if o.metrics == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", o.metrics)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	srv := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve metrics: %w", err)
		}
	}()
	fmt.Printf("cairnd: metrics on http://%s/metrics\n", l.Addr())
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx) // it waits for scrapes that run
		_ = srv.Close()
		<-done
	}, nil
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
