package server

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
)

const gib = 1 << 30

func (w *lifeWorld) usage() *pb.VaultUsage {
	w.t.Helper()
	return must[*pb.GetVaultUsageResponse](w.t)(w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault})).Usage
}

// bigDisk is a disk of which the first data bytes are in use.
type bigDisk struct {
	target     string
	size, data int64
}

// backUpBig makes a point of web1 in a vault with the largest blocks, all with the
// same content, which is stored once.
func (w *lifeWorld) backUpBig(disks ...bigDisk) {
	w.t.Helper()
	w.pass(time.Second)
	r := &pb.CreateUploadRequest{Parent: item1}
	for _, d := range disks {
		r.Disks = append(r.Disks, &pb.UploadDisk{Target: d.target, Size: d.size})
	}
	up := must[*pb.CreateUploadResponse](w.t)(w.blocks.CreateUpload(w.ctx, r))
	plain := make([]byte, block.MaxSize)
	copy(plain, "data of the guest")
	must[*pb.UploadBlocksResponse](w.t)(w.sendBlocks(up.UploadToken, []*pb.Block{wireBlock(plain)}))
	digest := block.Sum(plain)
	for _, d := range disks {
		st := must[pb.BlockService_WriteDiskMapClient](w.t)(w.blocks.WriteDiskMap(w.ctx))
		w.ok(st.Send(&pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: up.UploadToken, Disk: d.target}}))
		first := int64(0)
		for part := range slices.Chunk(slices.Repeat([]block.Digest{digest}, int(d.data/block.MaxSize)), 4096) {
			w.ok(st.Send(&pb.WriteDiskMapRequest{Runs: []*pb.DiskMapRun{{FirstBlock: first, Digests: flatten(part...)}}}))
			first += int64(len(part))
		}
		must[*pb.WriteDiskMapResponse](w.t)(st.CloseAndRecv())
	}
	must[*pb.CommitUploadResponse](w.t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: up.UploadToken}))
}

// newBigLife is newLife with web1 as a machine with four disks, in a vault with
// large blocks, of which the temporary disk is not backed up.
func newBigLife(t *testing.T) *lifeWorld {
	w := newLife(t)
	w.ok(w.stopProtection(remove))
	must[*pb.DeleteVaultResponse](t)(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault}))
	w.createVault("v1", &pb.Vault{BlockSize: block.MaxSize})
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "daily"}))
	must[*pb.ReportMachinesResponse](t)(w.hosts.ReportMachines(w.ctx, &pb.ReportMachinesRequest{Parent: host1, Machines: []*pb.Machine{{
		Name: web1, Title: "web1", State: pb.MachineState_MACHINE_STATE_RUNNING,
		Disks: []*pb.MachineDisk{
			{Target: "vda", Size: 1023 * gib, Allocated: 17 * gib}, {Target: "vdb", Size: 135 * gib, Allocated: 5 * gib},
			{Target: "vdc", Size: 1023 * gib, Allocated: 30 * gib}, {Target: "vdd", Size: 1023 * gib},
		},
	}}}))
	must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily, ExcludedDisks: []string{"vdb"}}}))
	return w
}

// The size of a protected instance is the actual data in its disks, without the
// temporary one: 17 + 30 + 0 = 47. It grows and shrinks with the data.
func TestProtectedSize(t *testing.T) {
	w := newBigLife(t)
	system, temporary := bigDisk{"vda", 1023 * gib, 17 * gib}, bigDisk{"vdb", 135 * gib, 5 * gib}
	data1, data2 := bigDisk{"vdc", 1023 * gib, 30 * gib}, bigDisk{"vdd", 1023 * gib, 0}
	grown := func(n int64) bigDisk { return bigDisk{"vdc", 1023 * gib, data1.data + n} }
	for _, c := range []struct {
		disks     []bigDisk
		size      int64
		instances int64
		small     bool
	}{
		{[]bigDisk{system, data1, data2}, 47 * gib, 1, true},
		{[]bigDisk{system, temporary, data1, data2}, 47 * gib, 1, true}, // an agent that sends it all the same
		{[]bigDisk{system, grown(3 * gib), data2}, 50 * gib, 1, true},
		{[]bigDisk{system, grown(3*gib + block.MaxSize), data2}, 50*gib + block.MaxSize, 1, false},
		{[]bigDisk{system, grown(453 * gib), data2}, 500 * gib, 1, false},
		{[]bigDisk{system, grown(453*gib + block.MaxSize), data2}, 500*gib + block.MaxSize, 2, false},
		{[]bigDisk{data2}, 0, 1, true},
		{[]bigDisk{system, data1, data2}, 47 * gib, 1, true},
	} {
		w.backUpBig(c.disks...)
		u := w.usage().Items
		if len(u) != 1 || u[0].ProtectedBytes != c.size || u[0].Instances != c.instances || u[0].SmallRate != c.small || u[0].BillingState != pb.BillingState_BILLING_STATE_ACTIVE {
			t.Errorf("of %v: %v", c.disks, u)
		}
		if it := w.item(item1); it.ProtectedBytes != c.size {
			t.Errorf("item %v", it)
		}
	}
	if u := w.usage(); u.PlainBytes < block.MaxSize || u.PlainBytes > gib || u.RecoveryPointCount != 8 || u.Items[0].RecoveryPointCount != 8 {
		t.Errorf("usage %v", u)
	}
}

// TestBill follows the bill through the life of an item.
func TestBill(t *testing.T) {
	const notStarted, active, retained, ended = pb.BillingState_BILLING_STATE_NOT_STARTED, pb.BillingState_BILLING_STATE_ACTIVE,
		pb.BillingState_BILLING_STATE_RETAINED, pb.BillingState_BILLING_STATE_ENDED
	w := newLife(t)
	expect := func(when string, want ...*pb.ProtectedItemUsage) {
		t.Helper()
		got := w.usage().Items
		if len(got) != len(want) {
			t.Fatalf("%s: %v, want %v", when, got, want)
		}
		for i, u := range want {
			u.ProtectedItem = item1
			if u.RecoveryPointCount > 0 == (got[i].UniqueStoredBytes == 0) || got[i].SharedStoredBytes != 0 {
				t.Errorf("%s: stored bytes of %v", when, got[i])
			}
			got[i].UniqueStoredBytes = 0
			if u.BillingState == active || u.BillingState == retained {
				u.Instances, u.SmallRate = 1, true
			}
			if !proto.Equal(got[i], u) {
				t.Errorf("%s:\n%v, want\n%v", when, got[i], u)
			}
		}
	}
	expect("protected", &pb.ProtectedItemUsage{BillingState: notStarted})
	w.ok(w.stopProtection(retain))
	expect("stopped without a backup", &pb.ProtectedItemUsage{BillingState: notStarted})
	w.ok(w.resume())
	w.point(1)
	start := timestamppb.New(w.clock.Now())
	line := func(state pb.BillingState, points int64) *pb.ProtectedItemUsage {
		return &pb.ProtectedItemUsage{BillingState: state, ProtectedBytes: blockSize, BillingStartTime: start, RecoveryPointCount: points}
	}
	expect("backed up", line(active, 1))
	w.point(2)
	expect("backed up again", line(active, 2))
	w.ok(w.stopProtection(retain))
	w.pass(100 * 24 * time.Hour)
	expect("stopped", line(retained, 2))
	w.ok(w.resume())
	expect("resumed", line(active, 2))
	w.ok(w.stopProtection(remove))
	expect("deleted", line(retained, 2))
	w.ok(w.undelete())
	expect("undeleted", line(retained, 2))
	w.ok(w.stopProtection(remove))
	w.pass(14 * 24 * time.Hour)
	gone := line(ended, 0)
	gone.BillingEndTime = timestamppb.New(w.clock.Now())
	expect("purged", gone)
	w.protect()
	expect("protected anew", &pb.ProtectedItemUsage{BillingState: notStarted}, gone)
	w.ok(w.stopProtection(remove))
	expect("given up", gone)
	w.restart()
	w.pass(400 * 24 * time.Hour)
	expect("400 days later", gone)
	w.pass(time.Hour)
	expect("later")
}

// A restore in place of a stopped item keeps what it replaces; that is no backup,
// and the size that is charged stays.
func TestSafetyPointOfStoppedItem(t *testing.T) {
	for _, mode := range []pb.StopProtectionMode{retain, remove} {
		w := newLife(t)
		p := w.point(1)
		w.ok(w.stopProtection(mode))
		w.pass(time.Second)
		a := w.claim("one")
		w.restore(inPlace(p.Name))
		safety := must[*pb.RecoveryPoint](t)(w.commit(w.upload(a.assignment())))
		it := w.item(item1)
		if it.LatestRecoveryPoint != safety.Name || it.RecoveryPointCount != 2 || it.ProtectedBytes != blockSize || !isStopped(it) {
			t.Errorf("item %v", it)
		}
	}
}

// The days are there as they were last seen, for 800 days.
func TestUsageHistory(t *testing.T) {
	w := newLife(t)
	w.ok(w.stopProtection(retain)) // no schedule runs meanwhile
	days := func(from, to time.Time) []*pb.VaultUsageDay {
		t.Helper()
		r := &pb.GetVaultUsageRequest{Name: vault, StartTime: timestamppb.New(from)}
		if !to.IsZero() {
			r.EndTime = timestamppb.New(to)
		}
		return must[*pb.GetVaultUsageResponse](t)(w.vaults.GetVaultUsage(w.ctx, r)).Usage.Days
	}
	start := w.clock.Now() // noon
	w.pass(0)
	w.ok(w.resume())
	w.point(1)
	w.ok(w.stopProtection(retain))
	w.pass(30 * time.Minute)
	if d := days(start, time.Time{}); len(d) != 1 || d[0].RecoveryPointCount != 0 || d[0].Time.AsTime() != start || d[0].StoredBytes <= 0 {
		t.Errorf("renewed within the hour: %v", d)
	}
	w.pass(31 * time.Minute)
	seen := w.clock.Now()
	if d := days(start, time.Time{}); len(d) != 1 || d[0].RecoveryPointCount != 1 || d[0].Time.AsTime() != seen || len(d[0].Items) != 1 ||
		d[0].Items[0].ProtectedBytes != blockSize || d[0].Items[0].UniqueStoredBytes <= 0 {
		t.Errorf("not renewed after the hour: %v", d)
	}
	w.pass(23 * time.Hour)
	w.restart()
	w.pass(24 * time.Hour)
	d := days(start, time.Time{})
	if len(d) != 3 || d[0].Time.AsTime() != seen || !d[2].Time.AsTime().After(d[1].Time.AsTime()) {
		t.Errorf("days %v", d)
	}
	// Both ends belong to the range, whatever time of the day they are.
	if d := days(start.AddDate(0, 0, 1).Add(9*time.Hour), start.AddDate(0, 0, 2).Add(-11*time.Hour)); len(d) != 2 {
		t.Errorf("the second and third day: %v", d)
	}
	if u := w.usage(); u.Days != nil {
		t.Errorf("unasked: %v", u.Days)
	}
	w.pass(798 * 24 * time.Hour)
	if d := days(start, start.AddDate(0, 0, 800)); len(d) != 4 {
		t.Errorf("800 days later: %v", d)
	}
	w.pass(24 * time.Hour)
	if d := days(start, start.AddDate(0, 0, 800)); len(d) != 3 || d[0].Time.AsTime() == seen {
		t.Errorf("later: %v", d)
	}

	bad := func(field string, from, to *timestamppb.Timestamp) {
		t.Helper()
		_, err := w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault, StartTime: from, EndTime: to})
		wantField(t, err, field)
	}
	now := w.clock.Now()
	at := func(days int) *timestamppb.Timestamp { return timestamppb.New(now.AddDate(0, 0, days)) }
	bad("start_time", at(-801), nil)
	bad("start_time", at(-801), at(0))
	bad("start_time", at(1), nil)
	bad("start_time", at(0), at(-1))
	bad("start_time", nil, at(0))
	bad("start_time", &timestamppb.Timestamp{Nanos: -1}, nil)
	bad("end_time", at(0), &timestamppb.Timestamp{Seconds: 1 << 60})
	days(now.AddDate(0, 0, -800), now)
	_, err := w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: sub + "/vaults/none"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
}
