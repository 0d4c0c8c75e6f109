//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// gate stands between an agent and the server. What they say goes through as it
// is, and a scene can hold it up, so that what it does happens at that very
// moment of a job.
type gate struct {
	address string
	server  *grpc.ClientConn

	mu       sync.Mutex
	holds    []*hold
	requests map[string]int64 // bytes that went to the server, by method
}

// hold stops one message, and whatever comes behind it in its call.
type hold struct {
	method   string
	answer   bool
	skip     int           // messages that go through before
	reached  chan struct{} // closed when the message is held
	released chan struct{}
	release  func()
}

// newGate puts a gate in front of the server. Agents that are started from now
// on go through it.
func (l *live) newGate() *gate {
	l.Helper()
	g := &gate{address: "unix:" + l.path("g"), requests: map[string]int64{}}
	var err error
	g.server, err = grpc.NewClient(l.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(64<<20)),
		// A server that comes back is found as fast as the agent itself would.
		grpc.WithIdleTimeout(0))
	l.must(err)
	lis, err := net.Listen("unix", strings.TrimPrefix(g.address, "unix:"))
	l.must(err)
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(g.pass))
	go func() { _ = s.Serve(lis) }()
	l.Cleanup(func() {
		s.Stop()
		g.server.Close()
	})
	l.gate = g
	return g
}

// hold stops a message of a method ("CommitUpload") behind skip that go through:
// one to the server, or an answer of it. It is released with the test at the latest.
func (l *live) hold(method string, answer bool, skip int) *hold {
	h := &hold{method: method, answer: answer, skip: skip, reached: make(chan struct{}), released: make(chan struct{})}
	h.release = sync.OnceFunc(func() { close(h.released) })
	l.Cleanup(h.release)
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	l.gate.holds = append(l.gate.holds, h)
	return h
}

// reach waits until a message is held.
func (l *live) reach(h *hold) {
	l.Helper()
	select {
	case <-h.reached:
	case <-time.After(liveLimit):
		l.Fatalf("no %s to hold", h.method)
	}
}

// sent is how many bytes have gone to the server by a method.
func (g *gate) sent(method string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests[method]
}

// check lets a message go through, when its time has come.
func (g *gate) check(ctx context.Context, method string, answer bool, length int) error {
	g.mu.Lock()
	if !answer {
		g.requests[method] += int64(length)
	}
	var mine *hold
	for i, h := range g.holds {
		if h.method != method || h.answer != answer {
			continue
		}
		if h.skip > 0 {
			h.skip--
			continue
		}
		mine, g.holds = h, append(g.holds[:i:i], g.holds[i+1:]...)
		break
	}
	g.mu.Unlock()
	if mine == nil {
		return nil
	}
	close(mine.reached)
	select {
	case <-mine.released:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pass handles a call of any method.
func (g *gate) pass(_ any, in grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(in)
	method := full[strings.LastIndexByte(full, '/')+1:]
	md, _ := metadata.FromIncomingContext(in.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), md.Copy()))
	defer cancel()
	out, err := g.server.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full)
	if err != nil {
		return err
	}
	go func() { // requests
		for {
			var b []byte
			if err := in.RecvMsg(&b); err != nil {
				if errors.Is(err, io.EOF) {
					_ = out.CloseSend()
				} else {
					cancel()
				}
				return
			}
			if g.check(ctx, method, false, len(b)) != nil || out.SendMsg(&b) != nil {
				return // the answers say why
			}
		}
	}()
	for first := true; ; first = false {
		var b []byte
		err := out.RecvMsg(&b)
		if first {
			if h, err := out.Header(); err == nil {
				_ = in.SetHeader(h)
			}
		}
		if err != nil {
			in.SetTrailer(out.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := g.check(ctx, method, true, len(b)); err != nil {
			return status.FromContextError(err).Err()
		}
		if err := in.SendMsg(&b); err != nil {
			return status.Error(codes.Canceled, err.Error())
		}
	}
}

// raw is the codec of messages that nobody here looks into.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a %T is not bytes", v)
	}
	*b = data.Materialize()
	return nil
}
