package server

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cairn/blockstore"
)

// apiMethods lists all RPCs of the API.
func apiMethods() (out []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("cairn.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			ms := f.Services().Get(i).Methods()
			for k := range ms.Len() {
				out = append(out, ms.Get(k))
			}
		}
		return true
	})
	return out
}

// raw is a message that is sent as it is.
type raw []byte

// rawCodec sends raw messages, and decodes nothing.
type rawCodec struct{ encoding.CodecV2 }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(raw))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (rawCodec) Name() string                         { return "proto" }

// call makes any call with any bytes, and gives its error. A stream gets the
// message once, and is read to its end.
func (w *world) call(m protoreflect.MethodDescriptor, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	method := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	codec := grpc.ForceCodecV2(rawCodec{})
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return w.conn.Invoke(ctx, method, raw(body), new(raw), codec)
	}
	st, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: m.IsStreamingServer()}, method, codec)
	if err != nil {
		return err
	}
	if err := st.SendMsg(raw(body)); err != nil && err != io.EOF {
		return err
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	if m.Name() == "ClaimJobs" || m.Name() == "WatchJobs" { // which answer at once, and never end
		return st.RecvMsg(new(raw))
	}
	for {
		if err := st.RecvMsg(new(raw)); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// goish is what a message for a person has only when a program's values got into
// it as they are.
var goish = regexp.MustCompile(`%!|<nil>|\bnil\b|&\{|map\[|\["[^"]*" "|0xc0|goroutine|runtime error|panic|\.go:\d|proto:|rpc error|\\x00\\x00`)

// check says what no call may answer. It gives the fields that an error names,
// without the indexes of lists and the keys of maps.
func (w *world) check(m protoreflect.MethodDescriptor, err error, what string) (code codes.Code, named []string) {
	w.t.Helper()
	if err == nil {
		return codes.OK, nil
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unimplemented:
		w.t.Errorf("%s with %s: %v", m.Name(), what, err)
		return st.Code(), nil
	}
	if _, r, _ := reasonOf(w.t, err); r == 0 {
		w.t.Errorf("%s with %s: no reason", m.Name(), what)
	}
	texts := []string{st.Message()}
	fields := false
	for _, d := range st.Details() {
		if br, ok := d.(*errdetails.BadRequest); ok {
			fields = true
			for _, v := range br.FieldViolations {
				texts = append(texts, v.Description)
				named = append(named, indexes.ReplaceAllString(v.Field, ""))
			}
		}
	}
	whole := strings.HasPrefix(st.Message(), "the request is no cairn.v1.") || strings.HasPrefix(st.Message(), "a message of ")
	if st.Code() == codes.InvalidArgument && !fields && !whole {
		w.t.Errorf("%s with %s: INVALID_ARGUMENT that names no field: %v", m.Name(), what, err)
	}
	for _, text := range texts {
		if goish.MatchString(text) || len(text) > 2000 {
			w.t.Errorf("%s with %s: no message for a person: %.500q", m.Name(), what, text)
		}
	}
	return st.Code(), named
}

var indexes = regexp.MustCompile(`\[("([^"\\]|\\.)*"?[^\]]*|[^\]"]*)\]`)

// state is all that the server has stored: the catalog, and the records and points
// of vaults. What exists to tell of calls, failed ones as well, is left out.
func (w *world) state() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	put := func(prefix string) func(string, []byte) bool {
		return func(key string, value []byte) bool {
			if !strings.HasPrefix(key, "audit/") {
				all[prefix+key] = string(value)
			}
			return true
		}
	}
	if err := w.s.cat.All(put("catalog ")); err != nil {
		w.t.Fatal(err)
	}
	for _, v := range w.s.vaults.list("default") {
		release, err := v.use()
		if err != nil {
			w.t.Fatal(err)
		}
		err = errors.Join(
			v.Store.Records("", "", put(v.Name.String()+" record ")),
			v.Store.Points("", "", func(p blockstore.Point) bool {
				return put(v.Name.String()+" point ")(p.ID, p.Meta)
			}))
		release()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return all
}

// unchanged compares two states.
func (w *world) unchanged(m protoreflect.MethodDescriptor, what string, before, after map[string]string) {
	w.t.Helper()
	for key, value := range after {
		if old, ok := before[key]; !ok {
			w.t.Errorf("%s with %s failed, and yet made %q", m.Name(), what, key)
		} else if old != value {
			w.t.Errorf("%s with %s failed, and yet changed %q from\n%.300q to\n%.300q", m.Name(), what, key, old, value)
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			w.t.Errorf("%s with %s failed, and yet removed %q", m.Name(), what, key)
		}
	}
}
