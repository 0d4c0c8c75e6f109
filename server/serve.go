package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	// The codec that this package wraps registers itself.
	_ "google.golang.org/grpc/encoding/proto"

	pb "cairn/proto/cairn/v1"
)

const (
	// maxMessage is the largest message that is taken: a batch of blocks with its
	// framing, or a single block of 4 MiB.
	maxMessage = 16 << 20
	// window is the HTTP/2 flow-control window of a stream; gRPC's own estimate
	// begins at 64 KiB and needs round trips to grow.
	window = 8 << 20
	// streamWorkers is how many goroutines stay for the next calls, with the
	// stacks that they have grown to. Calls beyond, and those that stay open, get
	// goroutines of their own.
	streamWorkers = 16
)

// NewGRPC makes a gRPC server with all services: those of the API, health,
// reflection and channelz. health says whether calls are taken.
func (s *Server) NewGRPC() (*grpc.Server, *health.Server) {
	wire := &codec{CodecV2: encoding.GetCodecV2("proto")}
	g := grpc.NewServer(
		grpc.Creds(newPeerCredentials()),
		grpc.MaxRecvMsgSize(2*maxMessage), // codec says it better
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(2*window),
		grpc.ReadBufferSize(256<<10),
		grpc.WriteBufferSize(256<<10),
		grpc.NumStreamWorkers(streamWorkers),
		// Agents ping every 30 s, also while they have no call open.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.ForceServerCodecV2(wire),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return s.stream(srv, wireStream{stream, wire}, info, handler)
		}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			m, _ := grpc.MethodFromServerStream(stream)
			return errNotImplemented(m)
		}),
	)
	s.register(wireRegistrar{g, wire})
	h := health.NewServer()
	healthpb.RegisterHealthServer(g, h)
	for name := range g.GetServiceInfo() {
		h.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	reflection.Register(g)
	channelz.RegisterChannelzServiceToServer(g)
	return g, h
}

// register adds all services of the API.
func (s *Server) register(r grpc.ServiceRegistrar) {
	pb.RegisterVaultServiceServer(r, &vaultService{Server: s})
	pb.RegisterPolicyServiceServer(r, &policyService{Server: s})
	pb.RegisterHostServiceServer(r, &hostService{Server: s})
	pb.RegisterProtectedItemServiceServer(r, &protectedItemService{Server: s})
	pb.RegisterRecoveryPointServiceServer(r, &recoveryPointService{Server: s})
	pb.RegisterJobServiceServer(r, &jobService{Server: s})
	pb.RegisterBlockServiceServer(r, &blockService{Server: s})
	pb.RegisterAuditServiceServer(r, &auditService{Server: s})
}

func errNotImplemented(method string) *Error {
	method = strings.TrimPrefix(method, "/")
	return newError(pb.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED, "this server does not implement %s yet", method).with("method", method)
}

// unary is the interceptor of all calls without streams.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	var record *pb.AuditRecord
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, panicError(p)
		}
		err = s.answered(ctx, info.FullMethod, start, err)
		if record != nil {
			s.auditEnd(record, resp, err)
		}
	}()
	a, err := s.auditBegin(ctx, info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	record = a
	return handler(ctx, req)
}

// stream is the interceptor of all streams.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = panicError(p)
		}
		err = s.answered(stream.Context(), info.FullMethod, start, err)
	}()
	return handler(srv, stream)
}

func panicError(p any) error {
	return newError(pb.ErrorReason_ERROR_REASON_INTERNAL, "internal error; the server's log says more").
		because(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
}

// answered logs a call and gives its error as the client will see it.
func (s *Server) answered(ctx context.Context, method string, start time.Time, err error) error {
	if !strings.HasPrefix(method, "/cairn.") {
		return err
	}
	attrs := []slog.Attr{slog.String("method", method), slog.Duration("took", time.Since(start))}
	if err == nil {
		s.metrics.Call(method, codes.OK.String(), time.Since(start))
		s.log.LogAttrs(ctx, slog.LevelDebug, "call", attrs...)
		return nil
	}
	e := rpcError(method, err)
	s.metrics.Call(method, e.Code.String(), time.Since(start))
	level := slog.LevelDebug
	if e.Code == codes.Internal || e.Code == codes.DataLoss || e.Code == codes.Unknown {
		level = slog.LevelError
	}
	attrs = append(attrs, slog.String("code", e.Code.String()), slog.String("reason", reasonName(e.Reason)), slog.String("message", e.Message))
	if e.cause != nil {
		attrs = append(attrs, slog.Any("cause", e.cause))
	}
	s.log.LogAttrs(ctx, level, "call failed", attrs...)
	return e
}

// rpcError is classify for errors that come out of a handler, among which are
// statuses of the gRPC library.
func rpcError(method string, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	st, ok := status.FromError(err)
	if !ok {
		return classify(err)
	}
	switch st.Code() {
	case codes.Unimplemented: // of a generated stub
		return errNotImplemented(method)
	case codes.Canceled:
		return classify(context.Canceled)
	case codes.DeadlineExceeded:
		return classify(context.DeadlineExceeded)
	}
	// A stream that broke, say: nobody is left to read this.
	return newError(pb.ErrorReason_ERROR_REASON_INTERRUPTED, "%s", st.Message()).code(st.Code()).because(err)
}
