package server

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "cairn/proto/cairn/v1"
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
	method := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	codec := grpc.ForceCodecV2(rawCodec{})
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return w.conn.Invoke(w.ctx, method, raw(body), new(raw), codec)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
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

// check says what no call may answer.
func (w *world) check(m protoreflect.MethodDescriptor, err error, what string) {
	w.t.Helper()
	if err == nil {
		return
	}
	switch st := status.Convert(err); {
	case st.Code() == codes.Internal, st.Code() == codes.Unknown, st.Code() == codes.DataLoss:
		w.t.Errorf("%s with %s: %v", m.Name(), what, err)
	case strings.Contains(st.Message(), "%!"):
		w.t.Errorf("%s with %s: badly formatted message %q", m.Name(), what, st.Message())
	default:
		if _, r, _ := reasonOf(w.t, err); r == 0 {
			w.t.Errorf("%s with %s: no reason", m.Name(), what)
		}
	}
}

// examples are requests that are in order, to be spoiled.
func examples() map[string]proto.Message {
	point := item1 + "/recoveryPoints/p1"
	job := vault + "/jobs/j1"
	return map[string]proto.Message{
		"CreateVault":        &pb.CreateVaultRequest{Parent: sub, VaultId: "v9", RequestId: "r", Vault: &pb.Vault{SoftDelete: &pb.SoftDelete{}, Labels: map[string]string{"a": "b"}}},
		"GetVault":           &pb.GetVaultRequest{Name: vault},
		"ListVaults":         &pb.ListVaultsRequest{Parent: sub, PageSize: 1},
		"GetVaultUsage":      &pb.GetVaultUsageRequest{Name: vault},
		"DeleteVault":        &pb.DeleteVaultRequest{Name: vault + "x"},
		"CreatePolicy":       &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p9", Policy: fullPolicy()},
		"GetPolicy":          &pb.GetPolicyRequest{Name: daily},
		"ListPolicies":       &pb.ListPoliciesRequest{Parent: vault},
		"DeletePolicy":       &pb.DeletePolicyRequest{Name: daily + "x"},
		"RegisterHost":       &pb.RegisterHostRequest{Parent: sub, HostId: "rack1", Host: &pb.Host{Sources: []string{"images"}}},
		"GetHost":            &pb.GetHostRequest{Name: host1},
		"ListHosts":          &pb.ListHostsRequest{Parent: sub},
		"DeleteHost":         &pb.DeleteHostRequest{Name: host1},
		"GetMachine":         &pb.GetMachineRequest{Name: web1},
		"ListMachines":       &pb.ListMachinesRequest{Parent: sub + "/hosts/-"},
		"ReportMachines":     &pb.ReportMachinesRequest{Parent: host1, Machines: []*pb.Machine{machineOf(host1, "web1")}},
		"ClaimJobs":          &pb.ClaimJobsRequest{Host: host1},
		"ReportJob":          &pb.ReportJobRequest{Job: job, LeaseToken: "t", State: inProgress, Tasks: []*pb.JobTask{{}}, Stats: &pb.JobStats{}, Warnings: []*pb.Warning{{}}},
		"ProtectMachine":     &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily, ExcludedDisks: []string{"vdb"}}},
		"GetProtectedItem":   &pb.GetProtectedItemRequest{Name: item1},
		"ListProtectedItems": &pb.ListProtectedItemsRequest{Parent: vault},
		"BackUp":             &pb.BackUpRequest{Name: item1},
		"GetJob":             &pb.GetJobRequest{Name: job},
		"ListJobs":           &pb.ListJobsRequest{Parent: sub, Filter: &pb.JobFilter{States: []pb.JobState{1}}},
		"CancelJob":          &pb.CancelJobRequest{Name: job},
		"RetryJob":           &pb.RetryJobRequest{Name: job},
		"WatchJobs":          &pb.WatchJobsRequest{Parent: vault, AfterRevision: 1 << 40},
		"CreateUpload":       &pb.CreateUploadRequest{Parent: item1, Job: job, LeaseToken: "t", Disks: []*pb.UploadDisk{{Target: "vda", Size: 1}}},
		"Verify":             &pb.VerifyRequest{Name: point},
		"Restore": &pb.RestoreRequest{Name: point, Host: host1, Target: &pb.RestoreRequest_Disks{Disks: &pb.RestoreDisks{
			Directory: "/d", Targets: []string{"vda"}, Volumes: map[string]string{"vda": "/dev/v"}}}},
		"UpdateProtectedItem": &pb.UpdateProtectedItemRequest{ProtectedItem: &pb.ProtectedItem{Name: item1}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"minimum_consistency"}}},
		"ReadDisk":            &pb.ReadDiskRequest{Name: point, Disk: "vda"},
		"ReadExtents":         &pb.ReadExtentsRequest{Name: point, Disk: "vda"},
		"ReadBlocks":          &pb.ReadBlocksRequest{RecoveryPoint: point, Digests: make([]byte, 32)},
		"GetRecoveryPoint":    &pb.GetRecoveryPointRequest{Name: point},
		"ListRecoveryPoints":  &pb.ListRecoveryPointsRequest{Parent: item1},
		"LeaseRecoveryPoint":  &pb.LeaseRecoveryPointRequest{Name: point},
	}
}

const inProgress = pb.JobState_JOB_STATE_IN_PROGRESS

// fullPolicy has every kind of rule.
func fullPolicy() *pb.Policy {
	at := &pb.TimeOfDay{Hours: 2, Minutes: 30}
	sunday := []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_SUNDAY}
	return &pb.Policy{
		DisplayName: "All rules",
		Schedule:    &pb.Schedule{TimeZone: "Europe/Berlin", Kind: &pb.Schedule_Weekly{Weekly: &pb.WeeklySchedule{Days: sunday, Time: at}}},
		Retention: &pb.Retention{
			Daily:  &pb.DailyRetention{Days: 7},
			Weekly: &pb.WeeklyRetention{Days: sunday, Weeks: 4},
			Monthly: &pb.MonthlyRetention{Months: 12, On: &pb.MonthlyRetention_Weekdays{
				Weekdays: &pb.WeekdaysOfMonth{Ordinals: []pb.Ordinal{pb.Ordinal_ORDINAL_LAST}, Days: sunday}}},
			Yearly: &pb.YearlyRetention{Years: 10, MonthsOfYear: []int32{1}, On: &pb.YearlyRetention_Days{Days: &pb.DaysOfMonth{Days: []int32{31}, LastDay: true}}},
		},
	}
}

// spoil calls try with variants of m in each of which one field is wrong, and
// leaves m as it was.
func spoil(m protoreflect.Message, depth int, try func(what string)) {
	orig := proto.Clone(m.Interface())
	restore := func() {
		proto.Reset(m.Interface())
		proto.Merge(m.Interface(), orig)
	}
	fds := m.Descriptor().Fields()
	for i := range fds.Len() {
		fd := fds.Get(i)
		put := func(what string, v protoreflect.Value) {
			m.Set(fd, v)
			try(string(fd.Name()) + " " + what)
			restore()
		}
		inner := func(what string) { try(string(fd.Name()) + "." + what) }
		if m.Has(fd) {
			m.Clear(fd)
			try(string(fd.Name()) + " missing")
			restore()
		}
		switch {
		case fd.IsMap():
			v := m.NewField(fd)
			for k := range 70 {
				v.Map().Set(protoreflect.ValueOfString(strings.Repeat("K", k)).MapKey(), protoreflect.ValueOfString(strings.Repeat("v", 20*k)))
			}
			put("with odd keys", v)
		case fd.IsList():
			for _, n := range []int{1, 1100} {
				v := m.NewField(fd)
				for range n {
					if fd.Kind() == protoreflect.MessageKind {
						v.List().AppendMutable()
					} else {
						v.List().Append(scalars(fd)[0].v)
					}
				}
				put("of odd elements", v)
			}
			if depth > 0 && fd.Kind() == protoreflect.MessageKind {
				l := m.Mutable(fd).List()
				if l.Len() == 0 {
					l.AppendMutable()
				}
				spoil(l.Get(0).Message(), depth-1, inner)
				restore()
			}
		case fd.Kind() == protoreflect.MessageKind:
			put("empty", m.NewField(fd))
			if depth > 0 {
				spoil(m.Mutable(fd).Message(), depth-1, inner)
				restore()
			}
		default:
			for _, s := range scalars(fd) {
				put(s.what, s.v)
			}
		}
	}
}

type scalar struct {
	what string
	v    protoreflect.Value
}

// scalars are values that hardly any field takes.
func scalars(fd protoreflect.FieldDescriptor) (out []scalar) {
	add := func(what string, v any) { out = append(out, scalar{what, protoreflect.ValueOf(v)}) }
	switch fd.Kind() {
	case protoreflect.StringKind:
		add("odd", "../../etc\x00/%s")
		add("long", strings.Repeat("a", 5000))
		add("deep", sub+strings.Repeat("/vaults/v", 100))
		add("other", vault)
		add("upper", "subscriptions/Default/vaults/V1")
	case protoreflect.BytesKind:
		add("short", []byte{1, 2, 3})
		add("long", make([]byte, 140000))
	case protoreflect.Int32Kind:
		add("negative", int32(-1))
		add("smallest", int32(math.MinInt32))
		add("largest", int32(math.MaxInt32))
	case protoreflect.Uint32Kind:
		add("largest", uint32(math.MaxUint32))
	case protoreflect.Int64Kind:
		add("negative", int64(-1))
		add("smallest", int64(math.MinInt64))
		add("largest", int64(math.MaxInt64))
	case protoreflect.EnumKind:
		add("unknown", protoreflect.EnumNumber(999))
		add("negative", protoreflect.EnumNumber(-5))
	case protoreflect.BoolKind:
		add("true", true)
	default:
		panic(fd.Kind())
	}
	return out
}

// Whatever is sent, no call answers INTERNAL or UNKNOWN, and every error has a
// reason.
func TestAnyInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{FS: vfs.NewMem(), Dir: "data"})
	w.setUp()
	w.protect()
	ex := examples()
	for _, m := range apiMethods() {
		name := string(m.Name())
		w.check(m, w.call(m, nil), "nothing")
		spoiled := ex[name]
		if spoiled == nil {
			spoiled = dynamicpb.NewMessage(m.Input())
		}
		spoil(spoiled.ProtoReflect(), 4, func(what string) {
			b, err := proto.Marshal(spoiled)
			if err != nil {
				t.Fatalf("%s with %s: %v", name, what, err)
			}
			w.check(m, w.call(m, b), what)
		})
		delete(ex, name)
	}
	for name := range ex {
		t.Errorf("%s is no RPC", name)
	}
}

// Bytes that are no message, and strings that are no UTF-8, are wrong input.
func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{FS: vfs.NewMem(), Dir: "data"})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
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
