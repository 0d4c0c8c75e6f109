package server

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "cairn/proto/cairn/v1"
)

// A bigger run: go test ./server -run AnyInput -anyinput.n 10000 -anyinput.huge
var (
	anyN    = flag.Int("anyinput.n", 5, "how many requests with several wrong fields each RPC gets")
	anyHuge = flag.Bool("anyinput.huge", false, "try huge values in every field, not in some")
	anySeed = flag.Uint64("anyinput.seed", 0, "seed of what is random; 0 takes another one each time")
)

// seeded gives the randomness of a test, and prints its seed.
func seeded(t *testing.T) *rand.Rand {
	seed := *anySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-anyinput.seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// anyWorld is a world with something of every kind in it.
type anyWorld struct {
	*world
	point *pb.RecoveryPoint
	token string // of an open upload
}

func newAnyWorld(t *testing.T) *anyWorld {
	t.Helper()
	o := inMemory()
	now := time.Now() // stands still: what has no cause leaves no trace
	o.Now, o.Unattended = func() time.Time { return now }, true
	o.Jobs.KeepAlive = time.Millisecond // an agent without jobs hears of that at once
	a := &anyWorld{world: dataWorld(t, o)}
	disks := []*testDisk{newTestDisk("vda", 1<<20).fill(1, 0, 3)}
	a.point = a.backUp("", now.Add(-time.Hour), disks, nil)
	a.token = a.createUpload(&pb.CreateUploadRequest{}, disks...).UploadToken
	if n := len(a.state()); n < 10 {
		t.Fatalf("there are %d records, too few to tell what changes", n)
	}
	return a
}

// Whatever stands in whatever field, no call answers INTERNAL or UNKNOWN, every
// error has a reason and what is wrong is named; a call that fails has changed
// nothing.
func TestAnyInput(t *testing.T) {
	t.Parallel()
	methods := map[string][]protoreflect.MethodDescriptor{}
	seen := map[string]bool{}
	for _, m := range apiMethods() {
		service := string(m.Parent().Name())
		methods[service] = append(methods[service], m)
		seen[string(m.Name())] = true
	}
	for service, ms := range methods {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			rnd := seeded(t)
			huge := func() bool { return *anyHuge || rnd.IntN(10) == 0 }
			a := newAnyWorld(t)
			before := a.state()
			for _, m := range ms {
				example := a.example(m)
				tried := 0
				spoil(example, huge, func(s spoiled) {
					tried++
					a.answersSpoiled(m, s, &before)
				})
				if m.Input().Fields().Len() > 0 && tried == 0 {
					t.Errorf("%s: nothing was tried", m.Name())
				}
			}
		})
	}
	for name := range (&anyWorld{world: &world{opts: Options{Now: time.Now}}, point: new(pb.RecoveryPoint)}).examples() {
		if !seen[name] {
			t.Errorf("%s is no RPC", name)
		}
	}
}

// example gives a new request of a call, which is in order.
func (a *anyWorld) example(m protoreflect.MethodDescriptor) proto.Message {
	a.t.Helper()
	e := a.examples()[string(m.Name())]
	if e == nil || e.ProtoReflect().Descriptor().FullName() != m.Input().FullName() {
		a.t.Fatalf("there is no example of a %s", m.Input().FullName())
	}
	return e
}

// answersSpoiled makes a call with a spoiled request and checks the answer. before
// is the state until now, and becomes the state after the call.
func (a *anyWorld) answersSpoiled(m protoreflect.MethodDescriptor, s spoiled, before *map[string]string) {
	a.t.Helper()
	what := s.path + " " + s.what
	err := a.call(m, s.body)
	code, named := a.check(m, err, what)
	after := a.state()
	if err != nil {
		a.unchanged(m, what, *before, after)
	}
	*before = after
	switch {
	case s.wrong && !takes(m, s) && (code != codes.InvalidArgument || !names(m, s, named)):
		a.t.Errorf("%s with %s: is wrong, and the answer does not say so: fields %q in %v", m.Name(), what, named, shortError(err))
	case s.what == "missing" && required[string(m.Name())+" "+s.path] && (code != codes.InvalidArgument || !slices.Contains(named, s.path)):
		a.t.Errorf("%s with %s: the answer does not say so: fields %q in %v", m.Name(), what, named, shortError(err))
	}
}

func shortError(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()[:min(300, len(err.Error()))]
}

// names reports whether the field is among those that an answer names, or, where
// only that can be told, what has the field in it.
func names(m protoreflect.MethodDescriptor, s spoiled, named []string) bool {
	path := s.path
	for !slices.Contains(named, path) {
		i := strings.LastIndexByte(path, '.')
		if i < 0 || !tolerates(m, s, "above") {
			return false
		}
		path = path[:i]
	}
	return true
}

// takes reports whether a field takes a value that hardly any field of its kind
// takes.
func takes(m protoreflect.MethodDescriptor, s spoiled) bool {
	if strings.Contains(s.what, "bad UTF-8") {
		return false // no message can have that
	}
	return tolerates(m, s, s.what)
}

func tolerates(m protoreflect.MethodDescriptor, s spoiled, what string) bool {
	keys := []string{strings.TrimPrefix(string(s.field.FullName()), "cairn.v1.")}
	for path := s.path; path != ""; path = path[:max(0, strings.LastIndexByte(path, '.'))] {
		keys = append(keys, string(m.Name())+" "+path)
	}
	for _, key := range keys {
		for _, kind := range strings.Split(tolerated[key], ", ") {
			if kind == "any" || kind != "" && strings.Contains(what, kind) {
				return true
			}
		}
	}
	return false
}

// Requests with several wrong fields at once, of which nobody has thought.
func TestAnyInputAtRandom(t *testing.T) {
	t.Parallel()
	rnd := seeded(t)
	a := newAnyWorld(t)
	before := a.state()
	for range *anyN {
		for _, m := range apiMethods() {
			example := a.example(m)
			for range 1 + rnd.IntN(4) {
				spoilAtRandom(rnd, example.ProtoReflect())
			}
			b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("several wrong fields: %.1000q", prototext.MarshalOptions{}.Format(example))
			err = a.call(m, b)
			a.check(m, err, what)
			after := a.state()
			if err != nil {
				a.unchanged(m, what, before, after)
			}
			before = after
		}
		if t.Failed() {
			return
		}
	}
}

// spoilAtRandom gives one field of m, or of a message in it, a wrong value.
func spoilAtRandom(rnd *rand.Rand, m protoreflect.Message) {
	fds := m.Descriptor().Fields()
	if fds.Len() == 0 {
		return
	}
	fd := fds.Get(rnd.IntN(fds.Len()))
	var values []value
	switch {
	case fd.IsMap():
		values = mapValues(m, fd)
	case fd.IsList():
		values = listValues(m, fd)
		if fd.Message() != nil && m.Get(fd).List().Len() > 0 && rnd.IntN(3) > 0 {
			spoilAtRandom(rnd, m.Mutable(fd).List().Get(0).Message())
			return
		}
	case fd.Message() != nil:
		if values = wellKnown(fd); values == nil {
			spoilAtRandom(rnd, m.Mutable(fd).Message())
			return
		}
	default:
		values = scalars(fd, m.Get(fd))
	}
	values = slices.DeleteFunc(values, func(v value) bool { return v.huge() && !*anyHuge })
	if len(values) == 0 || rnd.IntN(5) == 0 {
		m.Clear(fd)
		return
	}
	m.Set(fd, values[rnd.IntN(len(values))].v)
}

// A field that this version does not know is ignored, as protobuf does, and not
// kept.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	a := newAnyWorld(t)
	for _, m := range apiMethods() {
		b, err := proto.Marshal(a.example(m))
		if err != nil {
			t.Fatal(err)
		}
		_, without := a.check(m, a.call(m, b), "what is in order")
		if _, with := a.check(m, a.call(m, append(b, unknownField()...)), "an unknown field"); !slices.Equal(with, without) {
			t.Errorf("%s: %q are wrong, because of an unknown field", m.Name(), with)
		}
		for key, value := range a.state() {
			if strings.Contains(value, unknownText) {
				t.Errorf("%q keeps the unknown field: %.300q", key, value)
			}
		}
	}
}

// Bytes that are no message, and strings that are no UTF-8, are wrong input.
func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, inMemory())
	rnd := seeded(t)
	for _, m := range apiMethods() {
		cut := []byte{0x0a, 200, 1, 2}
		if err := w.call(m, cut); m.Input().Fields().Len() > 0 {
			wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_FIELD)
		}
		if fd := m.Input().Fields().ByNumber(1); fd != nil && fd.Kind() == protoreflect.StringKind && !fd.IsList() {
			wantField(t, w.call(m, []byte{0x0a, 2, 0xff, 0xfe}), string(fd.Name()))
		}
		for range 20 {
			b := make([]byte, rnd.IntN(100))
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			w.check(m, w.call(m, b), "random bytes")
		}
	}
}

// What comes later says so, with its name.
func TestNotImplemented(t *testing.T) {
	w := newWorld(t, Options{})
	for _, m := range []string{
		"VaultService/NoSuchCall", "NoSuchService/Call",
	} {
		err := w.conn.Invoke(w.ctx, "/cairn.v1."+m, raw(nil), new(raw), grpc.ForceCodecV2(rawCodec{}))
		info := wantError(t, err, codes.Unimplemented, pb.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED)
		if info.Metadata["method"] != "cairn.v1."+m {
			t.Errorf("method %q, want %s", info.Metadata["method"], m)
		}
	}
}
