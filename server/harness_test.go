package server

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "cairn/proto/cairn/v1"
)

const (
	sub   = "subscriptions/default"
	vault = sub + "/vaults/v1"
	host1 = sub + "/hosts/rack1"
	web1  = host1 + "/machines/web1"
	item1 = vault + "/protectedItems/web1"
	daily = vault + "/policies/daily"
)

// world is a server under test and a client of it, over real gRPC in memory.
type world struct {
	t    *testing.T
	opts Options
	s    *Server
	g    *grpc.Server
	conn *grpc.ClientConn
	ctx  context.Context

	vaults   pb.VaultServiceClient
	policies pb.PolicyServiceClient
	hosts    pb.HostServiceClient
	items    pb.ProtectedItemServiceClient
	points   pb.RecoveryPointServiceClient
	jobs     pb.JobServiceClient
	blocks   pb.BlockServiceClient
	audit    pb.AuditServiceClient
}

// testLog shows the server's log when the test fails.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p[:len(p)-1])
	return len(p), nil
}

// newWorld starts a server with opts; Dir defaults to a new directory.
func newWorld(t *testing.T, opts Options) *world {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	w := &world{t: t, opts: opts, ctx: ctx}
	w.start()
	t.Cleanup(func() { w.stop(); cancel() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	s, err := Open(w.opts)
	if err != nil {
		w.t.Fatalf("open server: %v", err)
	}
	w.s = s
	w.g, _ = s.NewGRPC()
	lis := bufconn.Listen(1 << 20)
	go w.g.Serve(lis)
	w.connect("passthrough:///test",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
}

// connect makes the clients of a server.
func (w *world) connect(target string, opts ...grpc.DialOption) {
	w.t.Helper()
	var err error
	w.conn, err = grpc.NewClient(target, append(opts,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.vaults, w.policies = pb.NewVaultServiceClient(w.conn), pb.NewPolicyServiceClient(w.conn)
	w.hosts, w.items = pb.NewHostServiceClient(w.conn), pb.NewProtectedItemServiceClient(w.conn)
	w.points, w.jobs = pb.NewRecoveryPointServiceClient(w.conn), pb.NewJobServiceClient(w.conn)
	w.blocks, w.audit = pb.NewBlockServiceClient(w.conn), pb.NewAuditServiceClient(w.conn)
}

func (w *world) stop() {
	if w.s == nil {
		return
	}
	w.conn.Close()
	w.g.Stop()
	if err := w.s.Close(); err != nil {
		w.t.Errorf("close server: %v", err)
	}
	w.s = nil
}

// restart stops the server and starts it on the same directory.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// must is for calls that have to succeed.
func must[R any](t *testing.T) func(R, error) R {
	return func(r R, err error) R {
		t.Helper()
		if err != nil {
			t.Fatalf("%v", err)
		}
		return r
	}
}

// setUp makes vault v1 with policy daily, and host rack1 with the machines web1
// and db1.
func (w *world) setUp() {
	w.t.Helper()
	must[*pb.CreateVaultResponse](w.t)(w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1"}))
	must[*pb.CreatePolicyResponse](w.t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "daily"}))
	w.host("rack1", "", "web1", "db1")
}

// host registers a host with image machines of one disk each.
func (w *world) host(id, region string, machines ...string) {
	w.t.Helper()
	must[*pb.RegisterHostResponse](w.t)(w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: id, Host: &pb.Host{Region: region}}))
	r := &pb.ReportMachinesRequest{Parent: sub + "/hosts/" + id}
	for _, m := range machines {
		r.Machines = append(r.Machines, machineOf(r.Parent, m))
	}
	must[*pb.ReportMachinesResponse](w.t)(w.hosts.ReportMachines(w.ctx, r))
}

func machineOf(host, id string) *pb.Machine {
	return &pb.Machine{
		Name: host + "/machines/" + id, Title: id, State: pb.MachineState_MACHINE_STATE_IMAGE,
		Disks: []*pb.MachineDisk{
			{Target: "vda", Path: "/img/" + id + ".raw", Format: "raw", Size: 1 << 20, Allocated: 1 << 19},
			{Target: "vdb", Path: "/img/" + id + "-b.raw", Format: "raw", Size: 1 << 20, Allocated: -1},
		},
	}
}

// protect protects web1 as item web1.
func (w *world) protect() *pb.ProtectedItem {
	w.t.Helper()
	return must[*pb.ProtectMachineResponse](w.t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily},
	})).ProtectedItem
}

// reasonOf gives the reason of an error, and checks that it has exactly one
// ErrorInfo of our domain.
func reasonOf(t *testing.T, err error) (codes.Code, pb.ErrorReason, *errdetails.ErrorInfo) {
	t.Helper()
	st := status.Convert(err)
	var info *errdetails.ErrorInfo
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			if info != nil {
				t.Errorf("two ErrorInfo in %v", err)
			}
			info = i
		}
	}
	if info == nil {
		t.Errorf("no ErrorInfo in %v (%v)", err, st.Code())
		return st.Code(), 0, &errdetails.ErrorInfo{}
	}
	r, ok := pb.ErrorReason_value[info.Reason]
	if info.Domain != "cairn" || !ok || r == 0 {
		t.Errorf("ErrorInfo with domain %q and reason %q", info.Domain, info.Reason)
	}
	return st.Code(), pb.ErrorReason(r), info
}

// wantError checks code and reason of an error.
func wantError(t *testing.T, err error, code codes.Code, reason pb.ErrorReason) *errdetails.ErrorInfo {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v", reason)
		return &errdetails.ErrorInfo{}
	}
	c, r, info := reasonOf(t, err)
	if c != code || r != reason {
		t.Errorf("error %v, want %v with %v", err, code, reason)
	}
	return info
}

// wantField checks that an error is INVALID_ARGUMENT and names the field.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one about %s", field)
		return
	}
	c, _, _ := reasonOf(t, err)
	if c != codes.InvalidArgument {
		t.Errorf("error %v, want INVALID_ARGUMENT", err)
	}
	for _, d := range status.Convert(err).Details() {
		if br, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range br.FieldViolations {
				if v.Field == field && v.Description != "" {
					return
				}
			}
			t.Errorf("error %v names %v, want %s", err, br.FieldViolations, field)
			return
		}
	}
	t.Errorf("error %v has no BadRequest", err)
}
