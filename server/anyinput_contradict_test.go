package server

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// Fields that are each in order and do not go together.
func TestContradictoryInput(t *testing.T) {
	t.Parallel()
	a := newAnyWorld(t)
	at := func(days int) *timestamppb.Timestamp { return timestamppb.New(a.opts.Now().AddDate(0, 0, days)) }
	monday := []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_MONDAY}
	twice := append(monday, monday...)
	other := sub + "/vaults/v2"
	methods := map[string]protoreflect.MethodDescriptor{}
	for _, m := range apiMethods() {
		methods[string(m.Name())] = m
	}
	for _, c := range []struct {
		method, field, what string
		request             proto.Message
	}{
		{"ListAuditRecords", "filter.end_time", "an end before the start", &pb.ListAuditRecordsRequest{Parent: sub, Filter: &pb.AuditFilter{StartTime: at(0), EndTime: at(-1)}}},
		{"GetVaultUsage", "start_time", "an end before the start", &pb.GetVaultUsageRequest{Name: vault, StartTime: at(0), EndTime: at(-1)}},
		{"GetVaultUsage", "start_time", "more than 800 days", &pb.GetVaultUsageRequest{Name: vault, StartTime: at(-802), EndTime: at(0)}},
		{"PreviewPolicy", "end_time", "an end before the start", &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: daily}, StartTime: at(0), EndTime: at(-1)}},
		{"PreviewPolicy", "end_time", "more than 100 years", &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Name{Name: daily}, StartTime: at(0), EndTime: at(36600)}},
		{"PreviewPolicy", "name", "neither", &pb.PreviewPolicyRequest{StartTime: at(0)}},
		{"CreatePolicy", "policy.schedule", "a schedule of no kind", &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", Policy: &pb.Policy{Schedule: &pb.Schedule{TimeZone: "UTC"}}}},
		{"CreatePolicy", "policy.schedule.weekly.days", "a day twice", &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", Policy: &pb.Policy{
			Schedule: &pb.Schedule{Kind: &pb.Schedule_Weekly{Weekly: &pb.WeeklySchedule{Days: twice, Time: &pb.TimeOfDay{}}}}}}},
		{"CreatePolicy", "policy.retention.weekly.days", "a day twice", &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", Policy: &pb.Policy{
			Retention: &pb.Retention{Weekly: &pb.WeeklyRetention{Days: twice, Weeks: 1}}}}},
		{"CreatePolicy", "policy.retention", "a retention without rules", &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", Policy: &pb.Policy{Retention: &pb.Retention{}}}},
		{"CreatePolicy", "policy.retention.monthly", "months without days", &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", Policy: &pb.Policy{
			Retention: &pb.Retention{Monthly: &pb.MonthlyRetention{Months: 1}}}}},
		{"ProtectMachine", "protected_item.policy", "a policy of another vault", &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: other + "/policies/daily"}}},
		{"ProtectMachine", "protected_item.excluded_disks", "a disk twice", &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily, ExcludedDisks: []string{"vda", "vda"}}}},
		{"ResumeProtection", "policy", "a policy of another vault", &pb.ResumeProtectionRequest{Name: item1, Policy: other + "/policies/daily"}},
		{"StopProtection", "mode", "no mode", &pb.StopProtectionRequest{Name: item1}},
		{"Restore", "target", "no target", &pb.RestoreRequest{Name: a.point.Name}},
		{"Restore", "disks.targets", "a disk twice", &pb.RestoreRequest{Name: a.point.Name, Target: &pb.RestoreRequest_Disks{Disks: &pb.RestoreDisks{Directory: "/d", Targets: []string{"vda", "vda"}}}}},
		{"Restore", "disks.volumes", "a volume for two disks", &pb.RestoreRequest{Name: a.point.Name, Target: &pb.RestoreRequest_Disks{Disks: &pb.RestoreDisks{Volumes: map[string]string{"vda": "/dev/v", "vdb": "/dev/v"}}}}},
		{"Restore", "disks.directory", "no place", &pb.RestoreRequest{Name: a.point.Name, Target: &pb.RestoreRequest_Disks{Disks: &pb.RestoreDisks{}}}},
		{"BackUp", "retain_until", "a time that is past", &pb.BackUpRequest{Name: item1, RetainUntil: at(-1)}},
		{"BackUp", "retain_until", "more than 99 years", &pb.BackUpRequest{Name: item1, RetainUntil: at(36600)}},
		{"ExtendRecoveryPoint", "retain_until", "a time that is past", &pb.ExtendRecoveryPointRequest{Name: a.point.Name, RetainUntil: at(-1)}},
		{"ReportMachines", "machines.name", "a machine of another host", &pb.ReportMachinesRequest{Parent: host1, Machines: []*pb.Machine{machineOf(sub+"/hosts/rack2", "m")}}},
		{"ReportMachines", "machines.name", "a machine twice", &pb.ReportMachinesRequest{Parent: host1, Machines: []*pb.Machine{machineOf(host1, "m"), machineOf(host1, "m")}}},
		{"ReportJob", "error.reason", "a failure without a reason", &pb.ReportJobRequest{Job: a.point.Job, LeaseToken: "t", State: pb.JobState_JOB_STATE_FAILED}},
		{"ReportJob", "state", "a state that an agent does not give", &pb.ReportJobRequest{Job: a.point.Job, LeaseToken: "t", State: pb.JobState_JOB_STATE_QUEUED}},
		{"CreateUpload", "lease_token", "a job without its lease", &pb.CreateUploadRequest{Parent: item1, Job: a.point.Job, Disks: []*pb.UploadDisk{{Target: "vda"}}}},
		{"CreateUpload", "job", "a lease without its job", &pb.CreateUploadRequest{Parent: item1, LeaseToken: "t", Disks: []*pb.UploadDisk{{Target: "vda"}}}},
		{"CreateUpload", "disks.target", "a disk twice", &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}, {Target: "vda"}}}},
		{"CreateUpload", "disks", "state files alone", &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "n", Kind: pb.DiskKind_DISK_KIND_NVRAM}}}},
		{"CreateUpload", "base_recovery_point", "a base of another item", &pb.CreateUploadRequest{Parent: item1, BaseRecoveryPoint: vault + "/protectedItems/db1/recoveryPoints/p1", Disks: []*pb.UploadDisk{{Target: "vda"}}}},
		{"WriteDiskMap", "runs", "digests and zeros", &pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: a.token, Disk: "vda"}, Runs: []*pb.DiskMapRun{{Digests: make([]byte, 32), ZeroBlocks: 1}}}},
		{"WriteDiskMap", "header", "runs without a header", &pb.WriteDiskMapRequest{Runs: []*pb.DiskMapRun{{ZeroBlocks: 1}}}},
		{"CommitUpload", "snapshot_time", "a snapshot to come", &pb.CommitUploadRequest{UploadToken: a.token, SnapshotTime: at(3)}},
		{"ReadExtents", "base", "a base in another vault", &pb.ReadExtentsRequest{Name: a.point.Name, Disk: "vda", Base: other + "/protectedItems/web1/recoveryPoints/p1"}},
		{"ReadDisk", "offset", "an offset behind the end", &pb.ReadDiskRequest{Name: a.point.Name, Disk: "vda", Offset: 1<<20 + 1}},
		{"ReadDisk", "length", "a length behind the end", &pb.ReadDiskRequest{Name: a.point.Name, Disk: "vda", Offset: 1, Length: 1 << 20}},
		{"ListVaults", "page_token", "a token of another list", &pb.ListVaultsRequest{Parent: sub, PageToken: a.s.pageToken("hosts "+sub, "rack1")}},
	} {
		b, err := proto.Marshal(c.request)
		if err != nil {
			t.Fatal(err)
		}
		before := a.state()
		a.answersSpoiled(methods[c.method], spoiled{
			field: c.request.ProtoReflect().Descriptor().Fields().Get(0), path: c.field, what: "that is " + c.what, body: b, wrong: true}, &before)
	}
}
