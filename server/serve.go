package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
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
)

// NewGRPC makes a gRPC server with all services: those of the API, health,
// reflection and channelz. health says whether calls are taken.
func (s *Server) NewGRPC() (*grpc.Server, *health.Server) {
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(2*window),
		grpc.ReadBufferSize(256<<10),
		grpc.WriteBufferSize(256<<10),
		// Agents ping every 30 s, also while they have no call open.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			m, _ := grpc.MethodFromServerStream(stream)
			return errNotImplemented(m)
		}),
	)
	s.register(wireErrors{g})
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
}

func errNotImplemented(method string) *Error {
	method = strings.TrimPrefix(method, "/")
	return newError(pb.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED, "this server does not implement %s yet", method).with("method", method)
}

// unary is the interceptor of all calls without streams.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, panicError(p)
		}
		err = s.answered(ctx, info.FullMethod, start, err)
	}()
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
	return handler(srv, wireStream{stream})
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
		s.log.LogAttrs(ctx, slog.LevelDebug, "call", attrs...)
		return nil
	}
	e := rpcError(method, err)
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

// malformed marks the errors of messages that cannot be decoded, which the gRPC
// library wraps in a status INTERNAL.
const malformed = "malformed message: "

// codec marks decoding errors.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if err := c.CodecV2.Unmarshal(data, v); err != nil {
		return errors.New(malformed + err.Error())
	}
	return nil
}

var invalidUTF8 = regexp.MustCompile(`field cairn\.v1\.\w+\.(\w+) contains invalid UTF-8`)

// wireError turns what the gRPC library says of a message that it could not
// receive into what it is: wrong input.
func wireError(err error) error {
	st, ok := status.FromError(err)
	if err == nil || err == io.EOF || !ok {
		return err
	}
	if _, text, found := strings.Cut(st.Message(), malformed); found && st.Code() == codes.Internal {
		var f fields
		if m := invalidUTF8.FindStringSubmatch(text); m != nil {
			f.add(m[1], "is not valid UTF-8")
		} else {
			f.add("", "the request is not a valid message of its type: %s", text)
		}
		return f.err()
	}
	if st.Code() == codes.ResourceExhausted {
		e := newError(pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE, "%s: send more, smaller messages", st.Message())
		e.Fields = []*errdetails.BadRequest_FieldViolation{{Field: "", Description: st.Message()}}
		return e
	}
	return err
}

// wireErrors registers services whose calls answer wireError for what cannot be
// decoded. An interceptor comes too late for that.
type wireErrors struct{ to grpc.ServiceRegistrar }

func (w wireErrors) RegisterService(d *grpc.ServiceDesc, impl any) {
	c := *d
	c.Methods = make([]grpc.MethodDesc, len(d.Methods))
	for i, m := range d.Methods {
		handler := m.Handler
		m.Handler = func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			return handler(srv, ctx, func(v any) error { return wireError(dec(v)) }, in)
		}
		c.Methods[i] = m
	}
	w.to.RegisterService(&c, impl)
}

// wireStream is a stream that receives with wireError.
type wireStream struct{ grpc.ServerStream }

func (w wireStream) RecvMsg(m any) error { return wireError(w.ServerStream.RecvMsg(m)) }
