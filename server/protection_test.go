package server

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

const (
	noSuchItem   = pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND
	isDeleted    = pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED
	isStoppedNow = pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED
	isActive     = pb.ErrorReason_ERROR_REASON_PROTECTION_ACTIVE
	taken        = pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED
)

// lifeCalls are the calls of an item's life.
var lifeCalls = map[string]func(w *lifeWorld) error{
	"stop": func(w *lifeWorld) error { return w.stopProtection(retain) },
	"delete": func(w *lifeWorld) error {
		return w.stopProtection(remove)
	},
	"resume":   (*lifeWorld).resume,
	"undelete": (*lifeWorld).undelete,
	"back up": func(w *lifeWorld) error {
		return second(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1}))
	},
	"upload": func(w *lifeWorld) error {
		up, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda", Size: 1 << 20}}})
		if err == nil {
			_, err = w.commit(up.UploadToken)
		}
		return err
	},
	"update": func(w *lifeWorld) error {
		return second(w.items.UpdateProtectedItem(w.ctx, &pb.UpdateProtectedItemRequest{
			ProtectedItem: &pb.ProtectedItem{Name: item1, ExcludedDisks: []string{"vdb"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"excluded_disks"}},
		}))
	},
	"protect": func(w *lifeWorld) error {
		return second(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{Parent: vault, ProtectedItemId: "other", ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily}}))
	},
}

// lifeStates reach the states of the diagram from a new item.
var lifeStates = map[string]func(w *lifeWorld){
	"IR_PENDING": func(*lifeWorld) {},
	"PROTECTED":  func(w *lifeWorld) { w.point(1) },
	"PROTECTION_STOPPED": func(w *lifeWorld) {
		w.point(1)
		w.ok(w.stopProtection(retain))
	},
	"deleted": func(w *lifeWorld) {
		w.point(1)
		w.ok(w.stopProtection(remove))
	},
	"nothing": func(w *lifeWorld) { w.ok(w.stopProtection(remove)) },
}

// TestLifeTable tries every call in every state: what it answers, and to which
// state it leads.
func TestLifeTable(t *testing.T) {
	for _, c := range []struct {
		state, call string
		reason      pb.ErrorReason
		then        string
	}{
		{"IR_PENDING", "stop", 0, "PROTECTION_STOPPED"},
		{"IR_PENDING", "delete", 0, "nothing"},
		{"IR_PENDING", "resume", isActive, ""},
		{"IR_PENDING", "undelete", isActive, ""},
		{"IR_PENDING", "back up", 0, ""},
		{"IR_PENDING", "upload", 0, "PROTECTED"},
		{"IR_PENDING", "update", 0, ""},
		{"IR_PENDING", "protect", taken, ""},

		{"PROTECTED", "stop", 0, "PROTECTION_STOPPED"},
		{"PROTECTED", "delete", 0, "deleted"},
		{"PROTECTED", "resume", isActive, ""},
		{"PROTECTED", "undelete", isActive, ""},
		{"PROTECTED", "back up", 0, ""},
		{"PROTECTED", "upload", 0, ""},
		{"PROTECTED", "update", 0, ""},
		{"PROTECTED", "protect", taken, ""},

		{"PROTECTION_STOPPED", "stop", isStoppedNow, ""},
		{"PROTECTION_STOPPED", "delete", 0, "deleted"},
		{"PROTECTION_STOPPED", "resume", 0, "PROTECTED"},
		{"PROTECTION_STOPPED", "undelete", isActive, ""},
		{"PROTECTION_STOPPED", "back up", isStoppedNow, ""},
		{"PROTECTION_STOPPED", "upload", isStoppedNow, ""},
		{"PROTECTION_STOPPED", "update", 0, ""},
		{"PROTECTION_STOPPED", "protect", taken, ""},

		{"deleted", "stop", isDeleted, ""},
		{"deleted", "delete", isDeleted, ""},
		{"deleted", "resume", isDeleted, ""},
		{"deleted", "undelete", 0, "PROTECTION_STOPPED"},
		{"deleted", "back up", isDeleted, ""},
		{"deleted", "upload", isDeleted, ""},
		{"deleted", "update", isDeleted, ""},
		{"deleted", "protect", taken, ""},

		{"nothing", "stop", noSuchItem, ""},
		{"nothing", "delete", noSuchItem, ""},
		{"nothing", "resume", noSuchItem, ""},
		{"nothing", "undelete", noSuchItem, ""},
		{"nothing", "back up", noSuchItem, ""},
		{"nothing", "upload", noSuchItem, ""},
		{"nothing", "update", noSuchItem, ""},
		{"nothing", "protect", 0, ""},
	} {
		t.Run(c.state+"/"+c.call, func(t *testing.T) {
			w := newLife(t)
			lifeStates[c.state](w)
			if got := w.stateOf(); got != c.state {
				t.Fatalf("the item is %s, want %s", got, c.state)
			}
			jobs := len(w.operations())
			err := lifeCalls[c.call](w)
			if c.reason == 0 {
				w.ok(err)
			} else {
				code := codes.FailedPrecondition
				switch c.reason {
				case noSuchItem:
					code = codes.NotFound
				case taken:
					code = codes.AlreadyExists
				}
				wantError(t, err, code, c.reason)
				if n := len(w.operations()); n != jobs {
					t.Errorf("a refused call made %d jobs", n-jobs)
				}
			}
			want := c.then
			if want == "" {
				want = c.state
			}
			if got := w.stateOf(); got != want {
				t.Errorf("the item is %s then, want %s", got, want)
			}
		})
	}
}

// TestLife goes through a whole life, and looks at what a user sees at each step.
func TestLife(t *testing.T) {
	w := newLife(t)
	start := w.clock.Now()
	p1, p2 := w.point(1), w.point(2)
	before := w.item(item1)
	if before.BillingStartTime == nil || before.BillingStartTime.AsTime().After(before.LastBackupTime.AsTime()) || before.ScheduleSinceTime.AsTime() != start {
		t.Errorf("item %v", before)
	}

	w.ok(w.stopProtection(retain))
	it := w.item(item1)
	if it.Health != pb.HealthStatus_HEALTH_STATUS_PASSED || it.HealthDetail != "Protection is stopped; its 2 recovery points are kept until you delete the item's data." ||
		it.LastBackupStatusText != "Healthy" || it.RecoveryPointCount != 2 || it.LatestRecoveryPoint != p2.Name {
		t.Errorf("stopped: %v", it)
	}
	w.checkBytes(p1, newTestDisk("vda", blockSize).fill(1, 0))

	w.pass(time.Hour)
	w.ok(w.resume())
	it = w.item(item1)
	if it.Health != pb.HealthStatus_HEALTH_STATUS_PASSED || it.HealthDetail != "" || it.ScheduleSinceTime.AsTime() != w.clock.Now() {
		t.Errorf("resumed: %v", it)
	}

	w.ok(w.stopProtection(remove))
	it = w.item(item1)
	if it.Health != pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED || !strings.Contains(it.HealthDetail, "2026-03-16T13:00:02Z") ||
		it.DeleteTime.AsTime() != w.clock.Now() || it.PurgeTime.AsTime() != w.clock.Now().AddDate(0, 0, 14) || it.RecoveryPointCount != 2 {
		t.Errorf("deleted: %v", it)
	}
	w.checkBytes(p2, newTestDisk("vda", blockSize).fill(2, 0))
	for _, c := range []struct {
		deleted bool
		n       int
	}{{false, 0}, {true, 1}} {
		l := must[*pb.ListProtectedItemsResponse](t)(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: vault, ShowDeleted: c.deleted}))
		if len(l.ProtectedItems) != c.n {
			t.Errorf("listed with show_deleted %t: %v", c.deleted, l)
		}
	}
	_, err := w.points.ExtendRecoveryPoint(w.ctx, &pb.ExtendRecoveryPointRequest{Name: p1.Name, RetainUntil: timestamppb.New(start.AddDate(1, 0, 0))})
	wantError(t, err, codes.FailedPrecondition, isDeleted)
	_, err = w.points.DeleteRecoveryPoint(w.ctx, &pb.DeleteRecoveryPointRequest{Name: p1.Name})
	wantError(t, err, codes.FailedPrecondition, isDeleted)
	must[*pb.LeaseRecoveryPointResponse](t)(w.points.LeaseRecoveryPoint(w.ctx, &pb.LeaseRecoveryPointRequest{Name: p1.Name}))

	w.ok(w.undelete())
	if it = w.item(item1); it.Health != pb.HealthStatus_HEALTH_STATUS_PASSED || it.ProtectionState != stopped || it.RecoveryPointCount != 2 {
		t.Errorf("undeleted: %v", it)
	}
	w.ok(w.resume())
	w.point(3)
	if got, want := w.operations(), []string{"CONFIGURE_BACKUP", "DISABLE_BACKUP", "CONFIGURE_BACKUP", "DELETE_BACKUP_DATA", "UNDELETE", "CONFIGURE_BACKUP"}; !slices.Equal(got, want) {
		t.Errorf("jobs %v, want %v", got, want)
	}
}

// Without a backup there is nothing pending while protection is stopped, and it is
// again when it goes on.
func TestStopBeforeFirstBackup(t *testing.T) {
	w := newLife(t)
	w.ok(w.stopProtection(retain))
	it := w.item(item1)
	if it.Health != pb.HealthStatus_HEALTH_STATUS_ACTION_SUGGESTED || strings.Contains(it.HealthDetail, "wait") || it.LastBackupStatusText == initialBackupPending {
		t.Errorf("stopped: %v", it)
	}
	w.ok(w.resume())
	it = w.item(item1)
	if it.ProtectionState != pb.ProtectionState_PROTECTION_STATE_IR_PENDING || it.LastBackupStatus != pb.BackupStatus_BACKUP_STATUS_IR_PENDING || it.LastBackupStatusText != initialBackupPending {
		t.Errorf("resumed: %v", it)
	}
}

func TestLifeFields(t *testing.T) {
	w := newLife(t)
	stop := func(r *pb.StopProtectionRequest) error { return second(w.items.StopProtection(w.ctx, r)) }
	resume := func(r *pb.ResumeProtectionRequest) error { return second(w.items.ResumeProtection(w.ctx, r)) }
	long := strings.Repeat("x", 65)
	wantField(t, stop(&pb.StopProtectionRequest{Name: item1}), "mode")
	wantField(t, stop(&pb.StopProtectionRequest{Name: item1, Mode: 7}), "mode")
	wantField(t, stop(&pb.StopProtectionRequest{Name: vault, Mode: retain}), "name")
	wantField(t, stop(&pb.StopProtectionRequest{Name: item1, Mode: retain, RequestId: long}), "request_id")
	wantField(t, resume(&pb.ResumeProtectionRequest{Name: "x"}), "name")
	wantField(t, resume(&pb.ResumeProtectionRequest{Name: item1, Policy: "x"}), "policy")
	wantField(t, resume(&pb.ResumeProtectionRequest{Name: item1, Policy: sub + "/vaults/v2/policies/daily"}), "policy")
	wantField(t, resume(&pb.ResumeProtectionRequest{Name: item1, RequestId: long}), "request_id")
	wantField(t, second(w.items.UndeleteProtectedItem(w.ctx, &pb.UndeleteProtectedItemRequest{Name: item1, RequestId: long})), "request_id")
	w.ok(w.stopProtection(retain))
	wantError(t, resume(&pb.ResumeProtectionRequest{Name: item1, Policy: vault + "/policies/none"}), codes.NotFound, pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND)
	if w.stateOf() != "PROTECTION_STOPPED" {
		t.Error("a refused call resumed")
	}
	must[*pb.CreatePolicyResponse](t)(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "full", Policy: fullPolicy()}))
	w.ok(resume(&pb.ResumeProtectionRequest{Name: item1, Policy: vault + "/policies/full"}))
	if it := w.item(item1); it.Policy != vault+"/policies/full" {
		t.Errorf("resumed with %s", it.Policy)
	}
}

// A call that is repeated answers as before, whatever became of the item; over a
// restart too.
func TestLifeRequestIDs(t *testing.T) {
	w := newLife(t)
	w.point(1)
	stop := &pb.StopProtectionRequest{Name: item1, Mode: retain, RequestId: "stop"}
	kill := &pb.StopProtectionRequest{Name: item1, Mode: remove, RequestId: "delete"}
	back := &pb.UndeleteProtectedItemRequest{Name: item1, RequestId: "undelete"}
	resume := &pb.ResumeProtectionRequest{Name: item1, RequestId: "resume"}
	var first []*pb.Job
	calls := []func() *pb.Job{
		func() *pb.Job { return must[*pb.StopProtectionResponse](t)(w.items.StopProtection(w.ctx, stop)).Job },
		func() *pb.Job { return must[*pb.StopProtectionResponse](t)(w.items.StopProtection(w.ctx, kill)).Job },
		func() *pb.Job {
			return must[*pb.UndeleteProtectedItemResponse](t)(w.items.UndeleteProtectedItem(w.ctx, back)).Job
		},
		func() *pb.Job {
			return must[*pb.ResumeProtectionResponse](t)(w.items.ResumeProtection(w.ctx, resume)).Job
		},
	}
	for _, call := range calls {
		first = append(first, call())
	}
	for range 2 {
		for i, call := range calls {
			if j := call(); !proto.Equal(j, first[i]) {
				t.Errorf("again %v, first %v", j, first[i])
			}
		}
		if got := w.stateOf(); got != "PROTECTED" {
			t.Errorf("repeated calls made it %s", got)
		}
		w.restart()
	}
	for _, j := range first {
		if listed := w.getJob(j.Name); !proto.Equal(listed, j) {
			t.Errorf("listed %v, answered %v", listed, j)
		}
	}
	stop.Mode = remove
	wantError(t, second(w.items.StopProtection(w.ctx, stop)), codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED)
	// The item is gone, and the call still answers.
	w.ok(second(w.vaults.UpdateVault(w.ctx, &pb.UpdateVaultRequest{
		Vault: &pb.Vault{Name: vault, SoftDelete: &pb.SoftDelete{Disabled: true}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"soft_delete"}},
	})))
	last := &pb.StopProtectionRequest{Name: item1, Mode: remove, RequestId: "last"}
	j := must[*pb.StopProtectionResponse](t)(w.items.StopProtection(w.ctx, last)).Job
	if again := must[*pb.StopProtectionResponse](t)(w.items.StopProtection(w.ctx, last)).Job; !proto.Equal(j, again) || w.stateOf() != "nothing" {
		t.Errorf("again %v, first %v; the item is %s", again, j, w.stateOf())
	}
}

// A backup that is under way when protection stops is cancelled, whoever makes it;
// one that is about to commit cannot.
func TestStopCancelsBackup(t *testing.T) {
	for _, mode := range []pb.StopProtectionMode{retain, remove} {
		w := newLife(t)
		p := w.point(1)
		up := w.createUpload(&pb.CreateUploadRequest{}, newTestDisk("vda", blockSize))
		w.ok(w.stopProtection(mode))
		if _, err := w.commit(up.UploadToken); err == nil {
			t.Error("a point was made after the stop")
		}
		if j := w.waitJob(up.Job); j.State != pb.JobState_JOB_STATE_CANCELLED {
			t.Errorf("job %v", j)
		}

		w.restart()
		if mode == remove {
			w.ok(w.undelete())
		}
		w.ok(w.resume())
		a := w.claim("one")
		j := w.backUpNow()
		as := a.assignment()
		token := w.upload(as)
		// It comes to the commit before it hears of the cancellation.
		n := newItemName(t, item1)
		v := must[*Vault](t)(w.s.vaults.find(n.VaultName))
		must[*pb.ProtectedItem](t)(v.changeItem(w.ctx, n, stopRetaining, nil))
		_, err := w.commit(token)
		wantError(t, err, codes.FailedPrecondition, isStoppedNow)
		must[*pb.ReportJobResponse](t)(w.reportJob(as, pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
			r.Error = &pb.Problem{Reason: isStoppedNow, Message: "stopped"}
		}))
		if it := w.item(item1); w.getJob(j.Name).State != pb.JobState_JOB_STATE_FAILED || it.LatestRecoveryPoint != p.Name || it.LastBackupStatusText != "Healthy" || it.RecoveryPointCount != 1 {
			t.Errorf("item %v", it)
		}
	}
}

// An upload of an item that is gone does not get into another one of that name.
func TestUploadOfFormerItem(t *testing.T) {
	w := newLife(t)
	n := newItemName(t, item1)
	v := must[*Vault](t)(w.s.vaults.find(n.VaultName))
	up := w.createUpload(&pb.CreateUploadRequest{}, newTestDisk("vda", blockSize))
	must[*pb.ProtectedItem](t)(v.changeItem(w.ctx, n, func(it *pb.ProtectedItem) error { it.Uid = "another"; return nil }, nil))
	_, err := w.commit(up.UploadToken)
	wantError(t, err, codes.NotFound, noSuchItem)
}

func newItemName(t *testing.T, name string) ItemName {
	t.Helper()
	var f fields
	n := f.item("name", name)
	if err := f.err(); err != nil {
		t.Fatal(err)
	}
	return n
}
