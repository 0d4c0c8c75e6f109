package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "cairn/proto/cairn/v1"
)

// State files are kept apart from the disks, count nowhere, and are read like
// them. A later point builds on either.
func TestStateFiles(t *testing.T) {
	w := dataWorld(t, inMemory())
	disk, nvram := newTestDisk("vda", 4*blockSize).fill(1, 1, 2), newTestDisk("nvram", 1000).fill(2, 0)
	disks := []*testDisk{nvram, disk}
	base := ""
	for round := range 2 {
		r := &pb.CreateUploadRequest{Parent: item1, BaseRecoveryPoint: base, Disks: []*pb.UploadDisk{
			{Target: "nvram", Size: nvram.size, Kind: pb.DiskKind_DISK_KIND_NVRAM, Path: "/nv/web1.fd"},
			{Target: "vda", Size: disk.size, SourceFormat: "qcow2", Path: "/img/web1.qcow2"},
		}}
		up := must[*pb.CreateUploadResponse](t)(w.blocks.CreateUpload(w.ctx, r))
		for _, d := range disks {
			w.sendMissing(up.UploadToken, d, d.indexes())
			var over *testDisk
			if round > 0 {
				over = d
			}
			must[*pb.WriteDiskMapResponse](t)(w.writeMap(up.UploadToken, d, over))
		}
		p := must[*pb.CommitUploadResponse](t)(w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{
			UploadToken: up.UploadToken, Checkpoint: "cairn-7",
			Warnings: []*pb.Warning{{Reason: pb.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET}, {Reason: pb.ErrorReason_ERROR_REASON_FREEZE_FAILED, Remedy: "own"}},
		})).RecoveryPoint
		if len(p.Disks) != 1 || p.Disks[0].Target != "vda" || p.Disks[0].Kind != pb.DiskKind_DISK_KIND_DISK || p.Disks[0].Path != "/img/web1.qcow2" || p.Disks[0].DataBytes != 2*blockSize {
			t.Errorf("disks %v", p.Disks)
		}
		if len(p.StateFiles) != 1 || p.StateFiles[0].Target != "nvram" || p.StateFiles[0].Kind != pb.DiskKind_DISK_KIND_NVRAM || p.StateFiles[0].Path != "/nv/web1.fd" {
			t.Errorf("state files %v", p.StateFiles)
		}
		if p.Checkpoint != "cairn-7" || p.Warnings[0].Remedy == "" || p.Warnings[1].Remedy != "own" {
			t.Errorf("point %v", p)
		}
		w.checkBytes(p, nvram)
		w.checkBytes(p, disk)
		w.checkExtents(&pb.ReadExtentsRequest{Name: p.Name, Disk: "nvram"}, nvram, nil)
		if it := w.item(item1); it.ProtectedBytes != 2*blockSize {
			t.Errorf("%d bytes protected", it.ProtectedBytes)
		}
		if j := w.getJob(up.Job); j.Stats.DiskBytes != disk.size || j.Stats.AllocatedBytes != 2*blockSize {
			t.Errorf("stats %v", j.Stats)
		}
		base = p.Name
	}
	verify := must[*pb.VerifyResponse](t)(w.points.Verify(w.ctx, &pb.VerifyRequest{Name: base})).Job
	w.waitForEnd(verify.Name)
	if j := w.getJob(verify.Name); j.State != completed {
		t.Errorf("job %v", j)
	}
	for field, r := range map[string]*pb.CreateUploadRequest{
		"disks":         {Parent: item1, Disks: []*pb.UploadDisk{{Target: "nvram", Kind: pb.DiskKind_DISK_KIND_NVRAM}}},
		"disks[0].kind": {Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda", Kind: 9}}},
		"disks[0].path": {Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda", Path: strings.Repeat("x", 4097)}}},
	} {
		_, err := w.blocks.CreateUpload(w.ctx, r)
		wantField(t, err, field)
	}
	_, err := w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: "x", Checkpoint: strings.Repeat("x", 129)})
	wantField(t, err, "checkpoint")
	_, err = w.points.Restore(w.ctx, toDisks(base, &pb.RestoreDisks{Directory: "/a", Targets: []string{"nvram"}}))
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND)
}

// demand makes item web1 want a consistency.
func (w *world) demand(c pb.ConsistencyClass) *pb.ProtectedItem {
	w.t.Helper()
	return must[*pb.UpdateProtectedItemResponse](w.t)(w.items.UpdateProtectedItem(w.ctx, &pb.UpdateProtectedItemRequest{
		ProtectedItem: &pb.ProtectedItem{Name: item1, MinimumConsistency: c}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"minimum_consistency"}},
	})).ProtectedItem
}

// A backup must reach what the policy or the item demands, and is told who does.
func TestMinimumConsistency(t *testing.T) {
	const (
		none  = pb.ConsistencyClass_CONSISTENCY_CLASS_UNSPECIFIED
		crash = pb.ConsistencyClass_CONSISTENCY_CLASS_CRASH_CONSISTENT
		files = pb.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT
		apps  = pb.ConsistencyClass_CONSISTENCY_CLASS_APPLICATION_CONSISTENT
	)
	w := newWorld(t, inMemory())
	w.setUp()
	_, err := w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily, MinimumConsistency: 9}})
	wantField(t, err, "protected_item.minimum_consistency")
	it := must[*pb.ProtectMachineResponse](t)(w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{
		Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily, MinimumConsistency: apps}})).ProtectedItem
	if it.MinimumConsistency != apps {
		t.Errorf("item %v", it)
	}
	_, err = w.items.UpdateProtectedItem(w.ctx, &pb.UpdateProtectedItemRequest{
		ProtectedItem: &pb.ProtectedItem{Name: item1, MinimumConsistency: -1}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"minimum_consistency"}}})
	wantField(t, err, "protected_item.minimum_consistency")
	a := w.claim("")
	for _, c := range []struct {
		item, policy, reached, asked pb.ConsistencyClass
		who                          string // who refuses it
	}{
		{none, none, none, none, ""},
		{none, files, crash, files, `policy "` + daily},
		{crash, none, none, crash, ""}, // nothing said is crash consistent
		{files, crash, crash, files, `protected item "` + item1},
		{files, apps, files, apps, `policy "` + daily},
		{apps, files, apps, apps, ""},
	} {
		if got := w.demand(c.item); got.MinimumConsistency != c.item {
			t.Errorf("item %v", got)
		}
		must[*pb.UpdatePolicyResponse](t)(w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{
			Policy: &pb.Policy{Name: daily, MinimumConsistency: c.policy}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"minimum_consistency"}}}))
		w.backUpNow()
		as := a.assignment()
		if got := as.GetBackup().GetMinimumConsistency(); got != c.asked {
			t.Errorf("%v: the agent is asked for %v", c, got)
		}
		token := w.upload(as)
		must[*pb.WriteDiskMapResponse](t)(w.writeMap(token, newTestDisk("vda", 1<<20), nil))
		_, err := w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{UploadToken: token, Consistency: c.reached})
		if c.who == "" {
			if err != nil {
				t.Errorf("%v: %v", c, err)
			}
			must[*pb.ReportJobResponse](t)(w.reportJob(as, completed))
			continue
		}
		wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW)
		if err != nil && !strings.Contains(err.Error(), c.who) {
			t.Errorf("%v: %v", c, err)
		}
		must[*pb.ReportJobResponse](t)(w.reportJob(as, failed, func(r *pb.ReportJobRequest) {
			r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW, Message: "too low"}
		}))
	}
}

// Every reason with which a backup or restore fails, or of which it warns, has a
// remedy of its own.
func TestRemedies(t *testing.T) {
	seen := map[string]pb.ErrorReason{}
	for n := range pb.ErrorReason_name {
		r := pb.ErrorReason(n)
		if n < 68 || n > 73 && n < 90 || n >= 200 { // not what jobs say
			continue
		}
		text, ok := remedies[r]
		switch {
		case !ok:
			t.Errorf("%v has no remedy", r)
		case !strings.HasSuffix(text, "."):
			t.Errorf("%v: %q is no sentence", r, text)
		case seen[text] != 0:
			t.Errorf("%v and %v have the same remedy", r, seen[text])
		}
		seen[text] = r
	}
	w := &pb.Warning{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED}
	if fillRemedies(nil, []*pb.Warning{nil, w}); strings.Contains(w.Remedy, "Retry") {
		t.Errorf("a warning wants a retry: %s", w.Remedy)
	}
	if len(seen) < 35 {
		t.Errorf("looked at %d reasons only", len(seen))
	}
}
