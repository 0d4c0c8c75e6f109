package server

import (
	"context"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "cairn/proto/cairn/v1"
)

// codec decodes requests. The gRPC library answers INTERNAL by itself as soon as
// decoding fails; but bytes that are no message are the client's mistake. So to
// the library decoding never fails: what is wrong is remembered under the
// message, where receive finds it.
type codec struct {
	encoding.CodecV2
	wrong sync.Map // message → error
}

func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok || !strings.HasPrefix(string(m.ProtoReflect().Descriptor().FullName()), "cairn.") {
		return c.CodecV2.Unmarshal(data, v)
	}
	if n := data.Len(); n > maxMessage {
		c.wrong.Store(v, newError(pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE,
			"a message of %d bytes; at most %d are allowed: send more, smaller messages", n, maxMessage))
		return nil
	}
	if up, ok := v.(*pb.UploadBlocksRequest); ok && decodeUpload(data, up) == nil {
		return nil
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	// Fields of a later version are ignored, and not kept: nobody asked for them.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b.ReadOnlyData(), m); err != nil {
		c.wrong.Store(v, malformed(m.ProtoReflect().Descriptor(), b.ReadOnlyData(), err))
	}
	return nil
}

// receive receives a message with recv.
func (c *codec) receive(v any, recv func(any) error) error {
	err := recv(v)
	if wrong, ok := c.wrong.LoadAndDelete(v); ok && err == nil {
		err = wrong.(error)
	}
	return err
}

// malformed says what is wrong with bytes that are no message of a type.
func malformed(d protoreflect.MessageDescriptor, data []byte, err error) error {
	if path := invalidUTF8(d, data); path != "" {
		return invalidField(path, "is not valid UTF-8")
	}
	return newError(pb.ErrorReason_ERROR_REASON_INVALID_FIELD, "the request is no %s: its bytes cannot be decoded", d.FullName()).because(err)
}

// invalidUTF8 finds the first string that is not UTF-8; "" if there is none.
func invalidUTF8(d protoreflect.MessageDescriptor, data []byte) (path string) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return ""
		}
		size := protowire.ConsumeFieldValue(num, typ, data[n:])
		if size < 0 {
			return ""
		}
		value := data[n : n+size]
		data = data[n+size:]
		fd := d.Fields().ByNumber(num)
		if fd == nil || typ != protowire.BytesType {
			continue
		}
		value, _ = protowire.ConsumeBytes(value)
		switch fd.Kind() {
		case protoreflect.StringKind:
			if !utf8.Valid(value) {
				return string(fd.Name())
			}
		case protoreflect.MessageKind:
			inner := invalidUTF8(fd.Message(), value)
			switch {
			case inner != "" && (fd.IsMap() || fd.Message().Name() == "FieldMask"):
				return string(fd.Name())
			case inner != "":
				return string(fd.Name()) + "." + inner
			}
		}
	}
	return ""
}

// wireRegistrar registers services whose calls receive through the codec. An
// interceptor comes too late for that.
type wireRegistrar struct {
	to    grpc.ServiceRegistrar
	codec *codec
}

func (w wireRegistrar) RegisterService(d *grpc.ServiceDesc, impl any) {
	c := *d
	c.Methods = make([]grpc.MethodDesc, len(d.Methods))
	for i, m := range d.Methods {
		handler := m.Handler
		m.Handler = func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			return handler(srv, ctx, func(v any) error { return w.codec.receive(v, dec) }, in)
		}
		c.Methods[i] = m
	}
	w.to.RegisterService(&c, impl)
}

// wireStream is a stream that receives through the codec.
type wireStream struct {
	grpc.ServerStream
	codec *codec
}

func (w wireStream) RecvMsg(m any) error { return w.codec.receive(m, w.ServerStream.RecvMsg) }
