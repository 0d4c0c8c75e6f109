package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

func (w *world) item(name string) *pb.ProtectedItem {
	w.t.Helper()
	return must[*pb.GetProtectedItemResponse](w.t)(w.items.GetProtectedItem(w.ctx, &pb.GetProtectedItemRequest{Name: name})).ProtectedItem
}

func TestProtect(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	it := w.protect()
	if it.Name != item1 || it.Machine != web1 || it.Policy != daily || it.Etag == "" || it.Uid == "" ||
		it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_IR_PENDING ||
		it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_IR_PENDING ||
		it.LastBackupStatusText != "Warning (Initial backup pending)" ||
		it.Health != pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED || it.HealthDetail == "" {
		t.Errorf("item %v", it)
	}
	if got := w.item(item1); !proto.Equal(got, it) {
		t.Errorf("read %v, made %v", got, it)
	}
	if v := w.getVault(vault); v.ProtectedItemCount != 1 {
		t.Errorf("vault %v", v)
	}
	if p := must[*pb.GetPolicyResponse](t)(w.policies.GetPolicy(w.ctx, &pb.GetPolicyRequest{Name: daily})).Policy; p.ProtectedItemCount != 1 {
		t.Errorf("policy %v", p)
	}
	jobs := must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault})).Jobs
	if len(jobs) != 1 || jobs[0].Operation != pb.JobOperation_JOB_OPERATION_CONFIGURE_BACKUP || jobs[0].State != pb.JobState_JOB_STATE_COMPLETED || jobs[0].ProtectedItem != item1 {
		t.Errorf("jobs %v", jobs)
	}
}

func TestProtectRefusals(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.createVault("v2", nil)
	w.createVault("far", &pb.Vault{Region: "east"})
	w.host("rack2", "", "web1")
	for _, id := range []string{"v2", "far"} {
		must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: sub + "/vaults/" + id, PolicyId: "daily"}))
	}
	try := func(change func(*pb.ProtectMachineRequest)) error {
		r := &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily}}
		change(r)
		_, err := w.items.ProtectMachine(w.ctx, r)
		return err
	}
	for _, c := range []struct {
		field  string
		change func(*pb.ProtectMachineRequest)
	}{
		{"parent", func(r *pb.ProtectMachineRequest) { r.Parent = sub + "/vaults/-" }},
		{"protected_item.machine", func(r *pb.ProtectMachineRequest) { r.ProtectedItem = nil }},
		{"protected_item.policy", func(r *pb.ProtectMachineRequest) { r.ProtectedItem.Policy = "daily" }},
		{"protected_item.policy", func(r *pb.ProtectMachineRequest) { r.ProtectedItem.Policy = sub + "/vaults/v2/policies/daily" }},
		{"protected_item.machine", func(r *pb.ProtectMachineRequest) {
			r.ProtectedItem.Machine = "subscriptions/other/hosts/rack1/machines/web1"
		}},
		{"protected_item_id", func(r *pb.ProtectMachineRequest) { r.ProtectedItemId = "Web" }},
		{"protected_item.excluded_disks[0]", func(r *pb.ProtectMachineRequest) { r.ProtectedItem.ExcludedDisks = []string{""} }},
		{"protected_item.excluded_disks[1]", func(r *pb.ProtectMachineRequest) { r.ProtectedItem.ExcludedDisks = []string{"vda", "vda"} }},
		{"protected_item.excluded_disks", func(r *pb.ProtectMachineRequest) { r.ProtectedItem.ExcludedDisks = []string{"vda", "vdb"} }},
		{"request_id", func(r *pb.ProtectMachineRequest) { r.RequestId = strings.Repeat("x", 65) }},
	} {
		wantField(t, try(c.change), c.field)
	}
	for _, c := range []struct {
		code   codes.Code
		reason pb.ErrorReason
		change func(*pb.ProtectMachineRequest)
	}{
		{codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND, func(r *pb.ProtectMachineRequest) {
			r.Parent = sub + "/vaults/none"
			r.ProtectedItem.Policy = sub + "/vaults/none/policies/daily"
		}},
		{codes.NotFound, pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND, func(r *pb.ProtectMachineRequest) { r.ProtectedItem.Machine += "x" }},
		{codes.NotFound, pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND, func(r *pb.ProtectMachineRequest) {
			r.ProtectedItem.Machine = sub + "/hosts/none/machines/web1"
		}},
		{codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND, func(r *pb.ProtectMachineRequest) { r.ProtectedItem.Policy += "x" }},
		{codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND, func(r *pb.ProtectMachineRequest) { r.ProtectedItem.ExcludedDisks = []string{"sdz"} }},
		{codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REGION_MISMATCH, func(r *pb.ProtectMachineRequest) {
			r.Parent = sub + "/vaults/far"
			r.ProtectedItem.Policy = sub + "/vaults/far/policies/daily"
		}},
	} {
		wantError(t, try(c.change), c.code, c.reason)
	}
	if l := must[*pb.ListProtectedItemsResponse](t)(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: sub + "/vaults/-"})); len(l.ProtectedItems) != 0 {
		t.Errorf("refused calls made %v", l)
	}
	w.protect()
	info := wantError(t, try(func(*pb.ProtectMachineRequest) {}), codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED)
	if info.Metadata["protected_item"] != item1 {
		t.Errorf("metadata %v", info.Metadata)
	}
	wantError(t, try(func(r *pb.ProtectMachineRequest) {
		r.Parent, r.ProtectedItem.Policy = sub+"/vaults/v2", sub+"/vaults/v2/policies/daily"
	}), codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED)
	wantError(t, try(func(r *pb.ProtectMachineRequest) { r.ProtectedItem.Machine = sub + "/hosts/rack2/machines/web1" }),
		codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS)
	if err := try(func(r *pb.ProtectMachineRequest) {
		r.ProtectedItem.Machine, r.ProtectedItemId = sub+"/hosts/rack2/machines/web1", "web1-rack2"
	}); err != nil {
		t.Error(err)
	}
	w.restart() // which knows again what protects what
	wantError(t, try(func(*pb.ProtectMachineRequest) {}), codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED)
}

// Of many who protect a machine at once, one succeeds.
func TestProtectAtOnce(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	errs := make(chan error)
	for i := range 8 {
		go func() {
			errs <- second(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
				Parent: vault, ProtectedItemId: fmt.Sprintf("i%d", i), ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily},
			}))
		}()
	}
	good := 0
	for range 8 {
		if err := <-errs; err == nil {
			good++
		} else {
			wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED)
		}
	}
	if good != 1 {
		t.Errorf("%d succeeded", good)
	}
}

func TestUpdateItem(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	it := w.protect()
	must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: host1 + "/machines/db1", Policy: daily, ExcludedDisks: []string{"vdb"}}}))
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "full", Policy: fullPolicy()}))
	update := func(it *pb.ProtectedItem, paths ...string) (*pb.ProtectedItem, error) {
		r, err := w.items.UpdateProtectedItem(w.ctx, &pb.UpdateProtectedItemRequest{ProtectedItem: it, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return r.GetProtectedItem(), err
	}
	up := must[*pb.ProtectedItem](t)(update(&pb.ProtectedItem{Name: item1, Etag: it.Etag, Policy: vault + "/policies/full", ExcludedDisks: []string{"vdb"}}, "policy", "excluded_disks"))
	if up.Policy != vault+"/policies/full" || len(up.ExcludedDisks) != 1 || up.Etag == it.Etag {
		t.Errorf("updated %v", up)
	}
	_, err := update(&pb.ProtectedItem{Name: item1, Etag: it.Etag, Policy: daily}, "policy")
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)
	_, err = update(&pb.ProtectedItem{Name: item1, Policy: daily + "x"}, "policy")
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND)
	_, err = update(&pb.ProtectedItem{Name: item1, ExcludedDisks: []string{"nvme9"}}, "excluded_disks")
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND)
	_, err = update(&pb.ProtectedItem{Name: item1, Machine: web1}, "machine")
	wantField(t, err, "update_mask")
	_, err = update(&pb.ProtectedItem{Name: item1 + "x", Policy: daily}, "policy")
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND)
	_, err = w.policies.DeletePolicy(w.ctx, &pb.DeletePolicyRequest{Name: vault + "/policies/full"})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_POLICY_IN_USE)
}

func TestListItems(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	w.createVault("v0", nil)
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: sub + "/vaults/v0", PolicyId: "p"}))
	must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: sub + "/vaults/v0", ProtectedItem: &pb.ProtectedItem{Machine: host1 + "/machines/db1", Policy: sub + "/vaults/v0/policies/p"}}))
	list := func(parent, token string) *pb.ListProtectedItemsResponse {
		t.Helper()
		return must[*pb.ListProtectedItemsResponse](t)(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: parent, PageSize: 1, PageToken: token}))
	}
	first := list(sub+"/vaults/-", "")
	rest := list(sub+"/vaults/-", first.NextPageToken)
	if first.ProtectedItems[0].Name != sub+"/vaults/v0/protectedItems/db1" || rest.ProtectedItems[0].Name != item1 || rest.NextPageToken != "" {
		t.Errorf("lists %v and %v", first, rest)
	}
	if l := list(vault, ""); len(l.ProtectedItems) != 1 || l.NextPageToken != "" {
		t.Errorf("list %v", l)
	}
	_, err := w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: sub + "/vaults/-", PageToken: first.NextPageToken, ShowDeleted: true})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN)
	_, err = w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: sub + "/vaults/none"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
}

func TestBackUp(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	backUp := func(r *pb.BackUpRequest) (*pb.Job, error) {
		resp, err := w.items.BackUp(w.ctx, r)
		return resp.GetJob(), err
	}
	for _, bad := range []time.Time{time.Now().Add(-time.Second), time.Unix(0, 0), time.Now().AddDate(100, 0, 0), time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		_, err := backUp(&pb.BackUpRequest{Name: item1, RetainUntil: timestamppb.New(bad)})
		wantField(t, err, "retain_until")
	}
	_, err := backUp(&pb.BackUpRequest{Name: item1, RetainUntil: &timestamppb.Timestamp{Nanos: -1}})
	wantField(t, err, "retain_until")
	_, err = backUp(&pb.BackUpRequest{Name: item1 + "x"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND)
	j := must[*pb.Job](t)(backUp(&pb.BackUpRequest{Name: item1, RequestId: "r1"}))
	left := time.Until(j.RetainUntil.AsTime())
	if j.State != pb.JobState_JOB_STATE_QUEUED || j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP || j.ProtectedItem != item1 || j.Machine != web1 ||
		left > 30*24*time.Hour || left < 30*24*time.Hour-time.Hour || len(j.Tasks) != 2 || j.Tasks[0].Title != "Take Snapshot" || j.Tasks[1].Title != "Transfer data to vault" {
		t.Errorf("job %v", j)
	}
	if again := must[*pb.Job](t)(backUp(&pb.BackUpRequest{Name: item1, RequestId: "r1"})); !proto.Equal(again, j) {
		t.Errorf("again %v, first %v", again, j)
	}
	_, err = backUp(&pb.BackUpRequest{Name: item1})
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS); info.Metadata["job"] != j.Name {
		t.Errorf("metadata %v", info.Metadata)
	}
	_, err = w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: j.Name})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_JOB_NOT_RETRIABLE)
	c := must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: j.Name})).Job
	if c.State != pb.JobState_JOB_STATE_CANCELLED || len(c.Actions) != 1 || c.Actions[0] != pb.JobAction_JOB_ACTION_RETRY {
		t.Errorf("cancelled %v", c)
	}
	_, err = w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: j.Name})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_JOB_NOT_CANCELLABLE)
	r := must[*pb.RetryJobResponse](t)(w.jobs.RetryJob(w.ctx, &pb.RetryJobRequest{Name: j.Name, RequestId: "r2"})).Job
	if r.RetryOf != j.Name || r.State != pb.JobState_JOB_STATE_QUEUED || !proto.Equal(r.RetainUntil, j.RetainUntil) {
		t.Errorf("retry %v", r)
	}
	if it := w.item(item1); it.LastBackupStatusText != "Warning (Initial backup pending)" || it.LastBackupJob != "" {
		t.Errorf("a cancelled backup changed its item: %v", it)
	}
	for _, name := range []string{vault + "/jobs/none", sub + "/vaults/none/jobs/" + j.Name[len(vault+"/jobs/"):]} {
		if _, err := w.jobs.GetJob(w.ctx, &pb.GetJobRequest{Name: name}); err == nil {
			t.Errorf("job %s is there", name)
		}
	}
}
