package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"cairn/server"
)

// serve runs the server until it is told to stop, or fails.
func (c *config) serve() (err error) {
	log := c.logger()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)

	var agent RunAgent
	if c.localAgent {
		o := c.agent
		o.Region, o.Log = c.regions[0], log.With("part", "agent")
		agent, err = c.newAgent(o)
		if err != nil {
			return err
		}
	}
	s, err := server.Open(server.Options{
		Dir: c.data, Regions: c.regions, Logger: log,
		JobsPerVault: orNone(c.perVault), JobsPerHost: orNone(c.perHost), Spread: orNone(c.spread),
		Notify: c.observe.notify,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	listeners, err := c.listenAll()
	if err != nil {
		return err
	}
	g, h := s.NewGRPC()
	failed := make(chan error, len(listeners)+2)
	for _, l := range listeners {
		go func() { failed <- g.Serve(l) }()
	}
	defer g.Stop()
	for _, l := range listeners {
		fmt.Printf("cairnd: serving on %s\n", addressOf(l))
	}
	stopMetrics, err := c.observe.serveMetrics(s.MetricsHandler(), failed)
	if err != nil {
		return err
	}
	defer stopMetrics()

	agentCtx, stopAgent := context.WithCancel(context.Background())
	defer stopAgent()
	agentDone := make(chan struct{})
	go func() {
		defer close(agentDone)
		if agent == nil {
			return
		}
		if err := agent(agentCtx, addressOf(listeners[0])); err != nil {
			failed <- fmt.Errorf("local agent: %w", err)
		}
	}()

	select {
	case err = <-failed:
	case sig := <-signals:
		log.Info("stopping", "signal", sig.String(), "grace", c.grace)
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.grace)
	defer cancel()
	if err != nil {
		cancel()
	}
	go func() {
		select {
		case <-signals:
			log.Info("second signal: stopping at once")
			cancel()
		case <-ctx.Done():
		}
	}()
	stop(ctx, s, g, h, func() {
		stopAgent()
		select {
		case <-agentDone:
		case <-time.After(2 * time.Second):
			log.Warn("local agent did not stop in time")
		}
	})
	return err
}

// stop ends serving: gently until ctx ends.
func stop(ctx context.Context, s *server.Server, g *grpc.Server, h *health.Server, stopAgent func()) {
	h.Shutdown()
	s.Drain(ctx)
	stopAgent()
	s.EndStreams()
	done := make(chan struct{})
	go func() { g.GracefulStop(); close(done) }()
	select { // what is left is short, or hangs
	case <-done:
	case <-time.After(time.Second):
		g.Stop()
		<-done
	}
}

// listenAll makes the listeners that the command line asks for.
func (c *config) listenAll() (ls []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range ls {
				l.Close()
			}
		}
	}()
	socket := c.socket
	if socket == "" && c.listen == "" {
		socket = filepath.Join(c.data, "cairnd.sock")
	}
	if socket != "" {
		l, err := listenUnix(socket)
		if err != nil {
			return ls, err
		}
		ls = append(ls, l)
	}
	if c.listen != "" {
		addr, err := loopback(c.listen)
		if err != nil {
			return ls, usageError{err}
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return ls, fmt.Errorf("listen on %s: %w", addr, err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// addressOf is a listener's address, as clients give it.
func addressOf(l net.Listener) string {
	if s, ok := l.(*socketListener); ok {
		return "unix:" + s.path
	}
	return l.Addr().String()
}

// orNone gives a limit in which 0 is none as the server's options have it.
func orNone[T int | time.Duration](n T) T {
	if n == 0 {
		return -1
	}
	return n
}
