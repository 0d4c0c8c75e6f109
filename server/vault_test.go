package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "cairn/proto/cairn/v1"
)

// memWorld is a world in memory.
func memWorld(t *testing.T) *world {
	return newWorld(t, Options{FS: vfs.NewMem(), Dir: "data", Regions: []string{"west", "east"}})
}

func (w *world) createVault(id string, v *pb.Vault) *pb.Vault {
	w.t.Helper()
	return must[*pb.CreateVaultResponse](w.t)(w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: id, Vault: v})).Vault
}

func (w *world) getVault(name string) *pb.Vault {
	w.t.Helper()
	return must[*pb.GetVaultResponse](w.t)(w.vaults.GetVault(w.ctx, &pb.GetVaultRequest{Name: name})).Vault
}

func TestVaultDefaults(t *testing.T) {
	w := memWorld(t)
	v := w.createVault("v1", nil)
	if v.Name != vault || v.Region != "west" || v.Redundancy != pb.Redundancy_REDUNDANCY_LOCAL || v.BlockSize != 65536 ||
		v.SoftDelete.GetDisabled() || v.SoftDelete.GetRetentionDays() != 14 || v.Immutability != pb.Immutability_IMMUTABILITY_DISABLED ||
		v.State != pb.VaultState_VAULT_STATE_ACTIVE || v.Problem != nil || v.Etag == "" || v.Uid == "" || v.CreateTime == nil {
		t.Errorf("vault %v", v)
	}
	if got := w.getVault(vault); !proto.Equal(got, v) {
		t.Errorf("read %v, made %v", got, v)
	}
	w.restart()
	if got := w.getVault(vault); !proto.Equal(got, v) {
		t.Errorf("after a restart %v, made %v", got, v)
	}
	full := &pb.Vault{
		DisplayName: "Größe", Region: "east", Redundancy: pb.Redundancy_REDUNDANCY_GEO, BlockSize: 1 << 20,
		SoftDelete: &pb.SoftDelete{RetentionDays: 180}, Immutability: pb.Immutability_IMMUTABILITY_UNLOCKED,
		Labels: map[string]string{"team": "storage", "empty": ""},
	}
	v2 := w.createVault("v2", full)
	if v2.DisplayName != full.DisplayName || v2.Region != "east" || v2.Redundancy != full.Redundancy || v2.BlockSize != 1<<20 ||
		v2.SoftDelete.RetentionDays != 180 || v2.Immutability != full.Immutability || len(v2.Labels) != 2 {
		t.Errorf("vault %v", v2)
	}
}

func TestCreateVaultRefusals(t *testing.T) {
	w := memWorld(t)
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprintf("l%d", i)] = ""
	}
	for _, c := range []struct {
		field  string
		change func(*pb.CreateVaultRequest)
	}{
		{"parent", func(r *pb.CreateVaultRequest) { r.Parent = "" }},
		{"parent", func(r *pb.CreateVaultRequest) { r.Parent = vault }},
		{"vault_id", func(r *pb.CreateVaultRequest) { r.VaultId = "" }},
		{"vault_id", func(r *pb.CreateVaultRequest) { r.VaultId = "V1" }},
		{"vault_id", func(r *pb.CreateVaultRequest) { r.VaultId = strings.Repeat("v", 64) }},
		{"request_id", func(r *pb.CreateVaultRequest) { r.RequestId = strings.Repeat("r", 65) }},
		{"vault.display_name", func(r *pb.CreateVaultRequest) { r.Vault.DisplayName = strings.Repeat("ä", 201) }},
		{"vault.display_name", func(r *pb.CreateVaultRequest) { r.Vault.DisplayName = "a\x1bb" }},
		{"vault.block_size", func(r *pb.CreateVaultRequest) { r.Vault.BlockSize = 8192 }},
		{"vault.block_size", func(r *pb.CreateVaultRequest) { r.Vault.BlockSize = 65537 }},
		{"vault.block_size", func(r *pb.CreateVaultRequest) { r.Vault.BlockSize = -65536 }},
		{"vault.block_size", func(r *pb.CreateVaultRequest) { r.Vault.BlockSize = 8 << 20 }},
		{"vault.redundancy", func(r *pb.CreateVaultRequest) { r.Vault.Redundancy = 4 }},
		{"vault.immutability", func(r *pb.CreateVaultRequest) { r.Vault.Immutability = -1 }},
		{"vault.soft_delete.retention_days", func(r *pb.CreateVaultRequest) { r.Vault.SoftDelete = &pb.SoftDelete{RetentionDays: 13} }},
		{"vault.soft_delete.retention_days", func(r *pb.CreateVaultRequest) { r.Vault.SoftDelete = &pb.SoftDelete{RetentionDays: 181} }},
		{"vault.labels", func(r *pb.CreateVaultRequest) { r.Vault.Labels = many }},
		{`vault.labels["Key"]`, func(r *pb.CreateVaultRequest) { r.Vault.Labels = map[string]string{"Key": ""} }},
		{`vault.labels["key"]`, func(r *pb.CreateVaultRequest) { r.Vault.Labels = map[string]string{"key": strings.Repeat("v", 64)} }},
		{"vault.region", func(r *pb.CreateVaultRequest) { r.Vault.Region = "mars" }},
	} {
		r := &pb.CreateVaultRequest{Parent: sub, VaultId: "v1", Vault: &pb.Vault{}}
		c.change(r)
		_, err := w.vaults.CreateVault(w.ctx, r)
		wantField(t, err, c.field)
	}
	_, err := w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1", Vault: &pb.Vault{Region: "mars"}})
	if info := wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_UNKNOWN_REGION); info.Metadata["regions"] != "east,west" {
		t.Errorf("regions %v", info.Metadata)
	}
	if l := must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub})); len(l.Vaults) != 0 {
		t.Errorf("refused calls made %d vaults", len(l.Vaults))
	}
	names, err := w.opts.FS.List("data/vaults")
	if err != nil || len(names) != 0 {
		t.Errorf("refused calls left %v, %v", names, err)
	}
	w.createVault("v1", nil)
	_, err = w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1"})
	wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS)
	// The name is free in another subscription.
	must[*pb.CreateVaultResponse](t)(w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: "subscriptions/other", VaultId: "v1"}))
	for _, name := range []string{sub + "/vaults/none", "subscriptions/none/vaults/v1"} {
		_, err = w.vaults.GetVault(w.ctx, &pb.GetVaultRequest{Name: name})
		wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	}
}

func TestRegions(t *testing.T) {
	w := memWorld(t)
	r := must[*pb.ListRegionsResponse](t)(w.vaults.ListRegions(w.ctx, &pb.ListRegionsRequest{}))
	if fmt.Sprint(r.Regions) != "[east west]" || r.DefaultRegion != "west" {
		t.Errorf("regions %v", r)
	}
}

func TestRequestIDs(t *testing.T) {
	w := memWorld(t)
	req := &pb.CreateVaultRequest{Parent: sub, VaultId: "v1", RequestId: "once"}
	first := must[*pb.CreateVaultResponse](t)(w.vaults.CreateVault(w.ctx, req))
	again := func() {
		t.Helper()
		if r := must[*pb.CreateVaultResponse](t)(w.vaults.CreateVault(w.ctx, req)); !proto.Equal(r, first) {
			t.Errorf("answer %v, the first was %v", r, first)
		}
		_, err := w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v2", RequestId: "once"})
		wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED)
		_, err = w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", RequestId: "once"})
		wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED)
	}
	again()
	w.restart()
	again()
	// Many at once are one.
	answers := make(chan *pb.CreatePolicyResponse)
	for range 8 {
		go func() {
			r, err := w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p1", RequestId: "together"})
			if err != nil {
				t.Error(err)
			}
			answers <- r
		}()
	}
	one := <-answers
	for range 7 {
		if r := <-answers; !proto.Equal(r, one) {
			t.Errorf("answers %v and %v", r, one)
		}
	}
	w.restart()
	r := must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p1", RequestId: "together"}))
	if !proto.Equal(r, one) {
		t.Errorf("after a restart %v, the first was %v", r, one)
	}
	// A call that failed can be repeated with what was wrong put right elsewhere.
	bad := &pb.CreatePolicyRequest{Parent: sub + "/vaults/v7", PolicyId: "p", RequestId: "later"}
	_, err := w.policies.CreatePolicy(w.ctx, bad)
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	w.createVault("v7", nil)
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, bad))
}

func TestListPaging(t *testing.T) {
	w := memWorld(t)
	for i := range 7 {
		w.createVault(fmt.Sprintf("v%d", i), nil)
	}
	var got []string
	token, pages := "", 0
	for {
		r := must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub, PageSize: 3, PageToken: token}))
		for _, v := range r.Vaults {
			got = append(got, v.Name[len(sub+"/vaults/"):])
		}
		pages++
		if pages == 1 { // what comes and goes in between repeats and hides nothing else
			w.createVault("v15", nil)
			must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: sub + "/vaults/v2"}))
		}
		if token = r.NextPageToken; token == "" {
			break
		}
	}
	if strings.Join(got, " ") != "v0 v1 v2 v3 v4 v5 v6" || pages != 3 {
		t.Errorf("%d pages: %v", pages, got)
	}
	r := must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub, PageSize: 1}))
	refused := func(req *pb.ListVaultsRequest) {
		t.Helper()
		_, err := w.vaults.ListVaults(w.ctx, req)
		wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN)
	}
	refused(&pb.ListVaultsRequest{Parent: "subscriptions/other", PageToken: r.NextPageToken})
	refused(&pb.ListVaultsRequest{Parent: sub, PageToken: r.NextPageToken + "A"})
	refused(&pb.ListVaultsRequest{Parent: sub, PageToken: "djE"})
	refused(&pb.ListVaultsRequest{Parent: sub, PageToken: "not base64 \n"})
	_, err := w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub, PageSize: -1})
	wantField(t, err, "page_size")
	// A token lives on over a restart, and is not one of another list.
	w.restart()
	must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub, PageToken: r.NextPageToken, PageSize: 5000}))
	_, err = w.hosts.ListHosts(w.ctx, &pb.ListHostsRequest{Parent: sub, PageToken: r.NextPageToken})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN)
}

func (w *world) updateVault(v *pb.Vault, paths ...string) (*pb.Vault, error) {
	r, err := w.vaults.UpdateVault(w.ctx, &pb.UpdateVaultRequest{Vault: v, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	return r.GetVault(), err
}

func TestUpdateVault(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	v := w.getVault(vault)
	in := &pb.Vault{Name: vault, Etag: v.Etag, DisplayName: "One", Labels: map[string]string{"a": "b"}, Redundancy: pb.Redundancy_REDUNDANCY_ZONE,
		SoftDelete: &pb.SoftDelete{RetentionDays: 30}}
	up := must[*pb.Vault](t)(w.updateVault(in, "display_name", "redundancy"))
	if up.DisplayName != "One" || up.Redundancy != pb.Redundancy_REDUNDANCY_ZONE || len(up.Labels) != 0 || up.SoftDelete.RetentionDays != 14 || up.Etag == v.Etag {
		t.Errorf("updated %v", up)
	}
	_, err := w.updateVault(in, "display_name") // with the old etag
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)
	_, err = w.updateVault(&pb.Vault{Name: vault})
	wantField(t, err, "update_mask")
	for _, path := range []string{"region", "block_size", "name", "nothing", ""} {
		_, err = w.updateVault(&pb.Vault{Name: vault}, path)
		wantField(t, err, "update_mask")
	}
	_, err = w.updateVault(&pb.Vault{Name: sub + "/vaults/none"}, "labels")
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)

	w.protect()
	_, err = w.updateVault(&pb.Vault{Name: vault, Redundancy: pb.Redundancy_REDUNDANCY_GEO}, "redundancy")
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REDUNDANCY_FROZEN)
	must[*pb.Vault](t)(w.updateVault(&pb.Vault{Name: vault, Redundancy: pb.Redundancy_REDUNDANCY_ZONE}, "redundancy")) // as it is

	must[*pb.Vault](t)(w.updateVault(&pb.Vault{Name: vault, SoftDelete: &pb.SoftDelete{RetentionDays: 60}}, "soft_delete"))
	set := func(i pb.Immutability) error {
		_, err := w.updateVault(&pb.Vault{Name: vault, Immutability: i}, "immutability")
		return err
	}
	for _, i := range []pb.Immutability{pb.Immutability_IMMUTABILITY_UNLOCKED, pb.Immutability_IMMUTABILITY_DISABLED, pb.Immutability_IMMUTABILITY_LOCKED, pb.Immutability_IMMUTABILITY_LOCKED} {
		if err := set(i); err != nil {
			t.Errorf("set %v: %v", i, err)
		}
	}
	wantError(t, set(pb.Immutability_IMMUTABILITY_UNLOCKED), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
	wantError(t, set(pb.Immutability_IMMUTABILITY_UNSPECIFIED), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
	for _, sd := range []*pb.SoftDelete{{Disabled: true}, {RetentionDays: 59}, nil} {
		_, err = w.updateVault(&pb.Vault{Name: vault, SoftDelete: sd}, "soft_delete")
		wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
	}
	// Policies of an immutable vault cannot keep points shorter, only longer.
	keep := func(days int32) error {
		_, err := w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{
			Policy:     &pb.Policy{Name: daily, Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: days}}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"retention"}},
		})
		return err
	}
	wantError(t, keep(29), codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMMUTABLE)
	if err := keep(31); err != nil {
		t.Error(err)
	}
	before := w.getVault(vault)
	w.restart()
	if after := w.getVault(vault); !proto.Equal(before, after) {
		t.Errorf("after a restart %v, before %v", after, before)
	}
}

func TestDeleteVault(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.createVault("v2", nil)
	v := w.getVault(vault)
	_, err := w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault, Etag: "old"})
	wantError(t, err, codes.Aborted, pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH)
	must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault, Etag: v.Etag}))
	_, err = w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	_, err = w.policies.GetPolicy(w.ctx, &pb.GetPolicyRequest{Name: daily})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	if names, err := w.opts.FS.List("data/vaults"); err != nil || len(names) != 1 {
		t.Errorf("directories %v, %v", names, err)
	}
	// The name can be used again, and has nothing of the old vault.
	if again := w.createVault("v1", nil); again.Uid == v.Uid {
		t.Error("the same uid again")
	}
	w.restart()
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "daily"}))
	w.protect()
	_, err = w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault})
	info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY)
	if info.Metadata["protected_items"] != item1 {
		t.Errorf("metadata %v", info.Metadata)
	}
	_, err = w.policies.DeletePolicy(w.ctx, &pb.DeletePolicyRequest{Name: daily})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_POLICY_IN_USE)
	_, err = w.hosts.DeleteHost(w.ctx, &pb.DeleteHostRequest{Name: host1})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_HOST_IN_USE)
}

func TestVaultUsage(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	u := must[*pb.GetVaultUsageResponse](t)(w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault})).Usage
	if u.StoredBytes <= 0 || u.RecoveryPointCount != 0 || len(u.Items) != 1 || u.Items[0].ProtectedItem != item1 ||
		u.Items[0].BillingState != pb.BillingState_BILLING_STATE_NOT_STARTED || u.Items[0].Instances != 0 {
		t.Errorf("usage %v", u)
	}
}

func TestBilling(t *testing.T) {
	const gib = 1 << 30
	done := timestampOf(1)
	for _, c := range []struct {
		it        *pb.ProtectedItem
		state     pb.BillingState
		instances int64
	}{
		{&pb.ProtectedItem{}, pb.BillingState_BILLING_STATE_NOT_STARTED, 0},
		{&pb.ProtectedItem{LastBackupTime: done}, pb.BillingState_BILLING_STATE_ACTIVE, 1},
		{&pb.ProtectedItem{LastBackupTime: done, ProtectedBytes: 47 * gib}, pb.BillingState_BILLING_STATE_ACTIVE, 1},
		{&pb.ProtectedItem{LastBackupTime: done, ProtectedBytes: 500 * gib}, pb.BillingState_BILLING_STATE_ACTIVE, 1},
		{&pb.ProtectedItem{LastBackupTime: done, ProtectedBytes: 500*gib + 1}, pb.BillingState_BILLING_STATE_ACTIVE, 2},
		{&pb.ProtectedItem{LastBackupTime: done, RecoveryPointCount: 1, ProtectionState: stopped}, pb.BillingState_BILLING_STATE_RETAINED, 1},
		{&pb.ProtectedItem{LastBackupTime: done, ProtectionState: stopped}, pb.BillingState_BILLING_STATE_ENDED, 0},
	} {
		if u := itemUsage(c.it); u.BillingState != c.state || u.Instances != c.instances {
			t.Errorf("%v: %v", c.it, u)
		}
	}
}

const stopped = pb.ProtectionState_PROTECTION_STATE_PROTECTION_STOPPED
