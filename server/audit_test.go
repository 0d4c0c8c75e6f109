package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// notAudited are the calls that leave no record, by why.
var notAudited = map[string]string{
	"read": "GetVault ListVaults GetVaultUsage GetVaultSummary ListRegions GetPolicy ListPolicies PreviewPolicy " +
		"GetHost ListHosts GetMachine ListMachines GetProtectedItem ListProtectedItems GetRecoveryPoint ListRecoveryPoints " +
		"GetJob ListJobs WatchJobs ListAuditRecords",
	"data":   "CreateUpload RenewUpload AbortUpload FindMissing UploadBlocks WriteDiskMap CommitUpload ReadBlocks ReadExtents ReadDisk",
	"report": "ReportMachines ReportJob ClaimJobs",
	"lease":  "LeaseRecoveryPoint ReleaseRecoveryPoint",
}

// A call that is added to the API is either audited or said not to be, with a
// reason.
func TestEveryCallHasAnAuditClass(t *testing.T) {
	class := map[string]string{}
	for why, names := range notAudited {
		for _, n := range strings.Fields(names) {
			class[n] = why
		}
	}
	audited := 0
	for _, m := range apiMethods() {
		full := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
		why, not := class[string(m.Name())]
		if auditedMethods[full] == not {
			t.Errorf("%s: audited is %v, and its other class is %q: want exactly one", full, auditedMethods[full], why)
		}
		if auditedMethods[full] {
			audited++
			if m.IsStreamingClient() || m.IsStreamingServer() {
				t.Errorf("%s is a stream, which is not audited", full)
			}
		}
	}
	if audited != len(auditedMethods) {
		t.Errorf("%d calls of the API are audited, and %d are listed", audited, len(auditedMethods))
	}
}

// records lists all audit records of a subscription, newest first, in pages of two.
func (w *world) records(parent string, filter *pb.AuditFilter) (all []*pb.AuditRecord) {
	w.t.Helper()
	r := &pb.ListAuditRecordsRequest{Parent: parent, PageSize: 2, Filter: filter}
	for {
		page := must[*pb.ListAuditRecordsResponse](w.t)(pb.NewAuditServiceClient(w.conn).ListAuditRecords(w.ctx, r))
		all = append(all, page.AuditRecords...)
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			return all
		}
	}
}

// brief is what tests compare of records, oldest first.
func brief(all []*pb.AuditRecord) string {
	var out []string
	for i := len(all) - 1; i >= 0; i-- {
		a := all[i]
		out = append(out, fmt.Sprintf("%s %s %v", a.Method[strings.LastIndexByte(a.Method, '/')+1:], strings.TrimPrefix(a.Resource, sub), codes.Code(a.Code)))
	}
	return strings.Join(out, "\n")
}

func TestAuditRecords(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC).UnixNano())
	opts := inMemory()
	opts.Now = func() time.Time { return time.Unix(0, now.Load()) }
	w := newWorld(t, opts)
	w.setUp()
	now.Add(int64(time.Hour))
	w.protect()
	job := w.backUpNow()
	_, failed := w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault})
	wantError(t, failed, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY)
	_, failed = w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "No", RequestId: "r1"})
	wantError(t, failed, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_NAME)
	w.cancelJob(job.Name)
	_, failed = w.policies.DeletePolicy(w.ctx, &pb.DeletePolicyRequest{Name: "subscriptions/other/vaults/v/policies/p"})
	wantError(t, failed, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	_, failed = w.policies.DeletePolicy(w.ctx, &pb.DeletePolicyRequest{Name: "rubbish"})
	wantError(t, failed, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_NAME)

	const want = `CreateVault /vaults/v1 OK
CreatePolicy /vaults/v1/policies/daily OK
RegisterHost /hosts/rack1 OK
ProtectMachine /vaults/v1/protectedItems/web1 OK
BackUp /vaults/v1/protectedItems/web1 OK
DeleteVault /vaults/v1 FailedPrecondition
CreateVault  InvalidArgument
CancelJob JOB OK
DeletePolicy rubbish InvalidArgument`
	all := w.records(sub, nil)
	if got := brief(all); got != strings.Replace(want, "JOB", strings.TrimPrefix(job.Name, sub), 1) {
		t.Errorf("records:\n%s\nwant:\n%s", got, want)
	}
	for i, a := range all {
		if a.EndTime == nil || a.Actor != "unknown" || !strings.HasPrefix(a.UserAgent, "grpc-go/") || i > 0 && a.Name >= all[i-1].Name {
			t.Errorf("record %v", a)
		}
	}
	backup := all[4]
	if !strings.HasPrefix(backup.Name, sub+"/auditRecords/a20261122t111500-00") || !backup.StartTime.AsTime().Equal(opts.Now()) ||
		backup.Method != "cairn.v1.ProtectedItemService/BackUp" || backup.Job != job.Name || backup.Request != `{"name":"`+item1+`"}` {
		t.Errorf("record of the backup: %v", backup)
	}
	if cancelled := all[1]; cancelled.Job != "" {
		t.Errorf("cancelling made job %s", cancelled.Job)
	}
	if bad := all[2]; bad.Reason != pb.ErrorReason_ERROR_REASON_INVALID_NAME || !strings.Contains(bad.Message, "vault_id") || bad.RequestId != "r1" || bad.Resource != sub {
		t.Errorf("record of wrong input: %v", bad)
	}
	if got := brief(w.records("subscriptions/other", nil)); got != "DeletePolicy subscriptions/other/vaults/v/policies/p NotFound" {
		t.Errorf("records of another subscription: %s", got)
	}

	for _, c := range []struct {
		filter *pb.AuditFilter
		want   int
	}{
		{&pb.AuditFilter{Resource: vault}, 6},
		{&pb.AuditFilter{Resource: item1}, 2},
		{&pb.AuditFilter{Resource: sub + "/vaults/v"}, 0},
		{&pb.AuditFilter{Method: "cairn.v1.VaultService/CreateVault"}, 2},
		{&pb.AuditFilter{Method: "cairn.v1.VaultService/CreateVault", Failed: true}, 1},
		{&pb.AuditFilter{Failed: true}, 3},
		{&pb.AuditFilter{Actor: "unknown"}, 9},
		{&pb.AuditFilter{Actor: "server"}, 0},
		{&pb.AuditFilter{StartTime: timestamppb.New(opts.Now())}, 6},
		{&pb.AuditFilter{EndTime: timestamppb.New(opts.Now())}, 3},
	} {
		if got := w.records(sub, c.filter); len(got) != c.want {
			t.Errorf("%v gives %d records, want %d:\n%s", c.filter, len(got), c.want, brief(got))
		}
	}
	for field, f := range map[string]*pb.AuditFilter{
		"filter.resource": {Resource: "subscriptions/other/vaults/v"},
		"filter.method":   {Method: "cairn.v1.VaultService/GetVault"},
		"filter.actor":    {Actor: strings.Repeat("x", 65)},
		"filter.end_time": {StartTime: timestamppb.New(opts.Now()), EndTime: timestamppb.New(opts.Now())},
	} {
		_, err := pb.NewAuditServiceClient(w.conn).ListAuditRecords(w.ctx, &pb.ListAuditRecordsRequest{Parent: sub, Filter: f})
		wantField(t, err, field)
	}

	// What the server did, then a restart with the clock set back: still in order.
	w.s.auditSelf(auditPrune, item1+"/recoveryPoints/p1", "kept by DAILY until yesterday")
	now.Add(-int64(24 * time.Hour))
	w.restart()
	w.createVault("v2", nil)
	got := w.records(sub, nil)[:2]
	if brief(got) != "PruneRecoveryPoint /vaults/v1/protectedItems/web1/recoveryPoints/p1 OK\nCreateVault /vaults/v2 OK" || got[1].Actor != "server" {
		t.Errorf("%v", got)
	}

	// Kept for 400 days, and no longer.
	now.Add(int64(399 * 24 * time.Hour))
	must[time.Time](t)(w.s.sweepAudit(w.ctx, opts.Now()))
	if n := len(w.records(sub, nil)); n != 11 {
		t.Errorf("%d records are left", n)
	}
	now.Add(int64(2*24*time.Hour + time.Minute))
	must[time.Time](t)(w.s.sweepAudit(w.ctx, opts.Now()))
	if n := len(w.records(sub, nil)); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

// A record is on disk before anything is done: when the power fails in the
// middle of a call there is one without an end.
func TestAuditRecordOfACallThatNeverEnded(t *testing.T) {
	fs := vfs.NewCrashableMem()
	w := newWorld(t, Options{FS: fs, Dir: "data"})
	var after *vfs.MemFS
	info := &grpc.UnaryServerInfo{FullMethod: pb.VaultService_DeleteVault_FullMethodName}
	if _, err := w.s.unary(w.ctx, &pb.DeleteVaultRequest{Name: vault}, info, func(context.Context, any) (any, error) {
		after = fs.CrashClone(vfs.CrashCloneCfg{})
		panic("as the power fails")
	}); err == nil {
		t.Error("no error")
	}
	if a := w.records(sub, nil)[0]; a.EndTime == nil || a.Code != int32(codes.Internal) {
		t.Errorf("record of a call that panicked: %v", a)
	}
	crashed := newWorld(t, Options{FS: after, Dir: "data"})
	all := crashed.records(sub, nil)
	if len(all) != 1 || all[0].EndTime != nil || all[0].StartTime == nil || all[0].Resource != vault || all[0].Method != "cairn.v1.VaultService/DeleteVault" {
		t.Errorf("records after the crash: %v", all)
	}
}

// fillingDisk is full whenever that is wanted.
type fillingDisk struct {
	vfs.FS
	full atomic.Bool
}

func (d *fillingDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	if d.full.Load() {
		return vfs.DiskUsage{AvailBytes: 1}, nil
	}
	return vfs.DiskUsage{AvailBytes: 1 << 40}, nil
}

// What cannot be put on record is not done.
func TestNoCallWithoutAuditRecord(t *testing.T) {
	disk := &fillingDisk{FS: vfs.NewMem()}
	w := newWorld(t, Options{FS: disk, Dir: "data"})
	disk.full.Store(true)
	info := &grpc.UnaryServerInfo{FullMethod: pb.VaultService_DeleteVault_FullMethodName}
	_, err := w.s.unary(w.ctx, &pb.DeleteVaultRequest{Name: vault}, info, func(context.Context, any) (any, error) {
		t.Error("the call was made")
		return nil, nil
	})
	wantError(t, err, codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_STORE_FULL)
	must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub}))

	// A disk that fills up during the call does not undo it.
	disk.full.Store(false)
	resp, err := w.s.unary(w.ctx, &pb.DeleteVaultRequest{Name: vault}, info, func(context.Context, any) (any, error) {
		disk.full.Store(true)
		return &pb.DeleteVaultResponse{}, nil
	})
	if err != nil || resp == nil {
		t.Errorf("%v, %v", resp, err)
	}
	if all := w.records(sub, nil); len(all) != 1 || all[0].EndTime != nil {
		t.Errorf("records %v", all)
	}
}

// Who called is what the kernel says of the connection.
func TestAuditActor(t *testing.T) {
	w := newWorld(t, inMemory())
	for network, c := range map[string]struct{ address, actor string }{
		"unix": {filepath.Join(t.TempDir(), "s"), fmt.Sprintf("uid:%d", os.Getuid())},
		"tcp":  {"127.0.0.1:0", "127.0.0.1"},
	} {
		l, err := net.Listen(network, c.address)
		if err != nil {
			t.Fatal(err)
		}
		go w.g.Serve(l)
		conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("tool/1"),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
			}))
		if err != nil {
			t.Fatal(err)
		}
		must[*pb.CreateVaultResponse](t)(pb.NewVaultServiceClient(conn).CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: network}))
		conn.Close()
		a := w.records(sub, &pb.AuditFilter{Actor: c.actor})
		if len(a) != 1 || a[0].Resource != sub+"/vaults/"+network || !strings.HasPrefix(a[0].UserAgent, "tool/1 ") {
			t.Errorf("over %s: %v", network, a)
		}
	}
}

func TestAuditRequestIsCut(t *testing.T) {
	long := requestJSON(&pb.CreateVaultRequest{Vault: &pb.Vault{DisplayName: strings.Repeat("ü", 5000)}})
	if len(long) < auditText-1 || len(long) > auditText || !utf8.ValidString(long) {
		t.Errorf("%d bytes", len(long))
	}
	// JSON has no such times.
	odd := requestJSON(&pb.BackUpRequest{Name: item1, RetainUntil: &timestamppb.Timestamp{Seconds: 1 << 62}})
	if !strings.HasPrefix(odd, `{"text":"`) || !strings.Contains(odd, item1) {
		t.Errorf("%s", odd)
	}
}
