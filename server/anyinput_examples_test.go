package server

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// examples are requests that are in order, to be spoiled, by RPC. Every RPC that
// has a request with fields is among them.
func (a *anyWorld) examples() map[string]proto.Message {
	point, job, token := a.point.Name, a.point.Job, a.token
	digest := make([]byte, 32)
	digest[0] = 1
	at := func(days int) *timestamppb.Timestamp { return timestamppb.New(a.opts.Now().AddDate(0, 0, days)) }
	mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	disks := []*pb.UploadDisk{{Target: "vda", Size: 1 << 20, SourceFormat: "raw", Kind: pb.DiskKind_DISK_KIND_DISK, Path: "/img/web1.raw"}}
	problem := &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_TRANSFER_FAILED, Message: "m", Remedy: "r", Metadata: map[string]string{"a": "b"}}
	warnings := []*pb.Warning{{Reason: pb.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, Message: "m", Remedy: "r", Metadata: map[string]string{"a": "b"}}}
	return map[string]proto.Message{
		// VaultService
		"CreateVault": &pb.CreateVaultRequest{Parent: sub, VaultId: "v9", RequestId: "r", Vault: &pb.Vault{
			DisplayName: "v", Region: "local", Redundancy: 1, BlockSize: 65536, SoftDelete: &pb.SoftDelete{RetentionDays: 20},
			Immutability: 1, Labels: map[string]string{"a": "b"}}},
		"GetVault":        &pb.GetVaultRequest{Name: vault},
		"ListVaults":      &pb.ListVaultsRequest{Parent: sub, PageSize: 1},
		"UpdateVault":     &pb.UpdateVaultRequest{Vault: &pb.Vault{Name: vault, DisplayName: "v", Redundancy: 1, SoftDelete: &pb.SoftDelete{RetentionDays: 20}, Immutability: 1, Labels: map[string]string{"a": "b"}, Etag: "e"}, UpdateMask: mask("display_name", "labels", "soft_delete", "immutability", "redundancy")},
		"DeleteVault":     &pb.DeleteVaultRequest{Name: vault, Etag: "e"},
		"GetVaultUsage":   &pb.GetVaultUsageRequest{Name: vault, StartTime: at(-10), EndTime: at(0)},
		"GetVaultSummary": &pb.GetVaultSummaryRequest{Name: vault},
		"ReclaimVault":    &pb.ReclaimVaultRequest{Name: vault + "x", DryRun: true, RequestId: "r"},
		"ListRegions":     &pb.ListRegionsRequest{},

		// PolicyService
		"CreatePolicy":  &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p9", Policy: fullPolicy(), RequestId: "r"},
		"GetPolicy":     &pb.GetPolicyRequest{Name: daily},
		"ListPolicies":  &pb.ListPoliciesRequest{Parent: vault, PageSize: 1},
		"UpdatePolicy":  &pb.UpdatePolicyRequest{Policy: named(fullPolicy()), UpdateMask: mask("display_name", "schedule", "retention", "minimum_consistency")},
		"DeletePolicy":  &pb.DeletePolicyRequest{Name: daily, Etag: "e"},
		"PreviewPolicy": &pb.PreviewPolicyRequest{PolicyOrName: &pb.PreviewPolicyRequest_Policy{Policy: fullPolicy()}, StartTime: at(0), EndTime: at(3), ProtectedItem: item1},

		// HostService
		"RegisterHost":   &pb.RegisterHostRequest{Parent: sub, HostId: "rack1", Host: &pb.Host{Region: "local", Sources: []string{"images"}, AgentVersion: "1"}},
		"GetHost":        &pb.GetHostRequest{Name: host1},
		"ListHosts":      &pb.ListHostsRequest{Parent: sub, PageSize: 1},
		"DeleteHost":     &pb.DeleteHostRequest{Name: host1},
		"GetMachine":     &pb.GetMachineRequest{Name: web1},
		"ListMachines":   &pb.ListMachinesRequest{Parent: host1, PageSize: 1},
		"ReportMachines": &pb.ReportMachinesRequest{Parent: host1, Machines: []*pb.Machine{exampleMachine(problem)}},
		"ClaimJobs":      &pb.ClaimJobsRequest{Host: host1, MaxConcurrent: 1, InstanceId: "i"},
		"ReportJob": &pb.ReportJobRequest{Job: job, LeaseToken: "t", State: inProgress, Error: problem, Outcome: "o", Warnings: warnings,
			Tasks: []*pb.JobTask{{Title: "Take Snapshot", State: inProgress, StartTime: at(0), EndTime: at(0), TotalBytes: 2, DoneBytes: 1, Detail: "vda"}},
			Stats: &pb.JobStats{DiskBytes: 1, Frozen: durationpb.New(1)}},

		// ProtectedItemService
		"ProtectMachine": &pb.ProtectMachineRequest{Parent: vault, ProtectedItemId: "i9", RequestId: "r", ProtectedItem: &pb.ProtectedItem{
			Machine: web1, Policy: daily, ExcludedDisks: []string{"vdb"}, MinimumConsistency: 1}},
		"GetProtectedItem":   &pb.GetProtectedItemRequest{Name: item1},
		"ListProtectedItems": &pb.ListProtectedItemsRequest{Parent: vault, PageSize: 1},
		"UpdateProtectedItem": &pb.UpdateProtectedItemRequest{ProtectedItem: &pb.ProtectedItem{
			Name: item1, Policy: daily, ExcludedDisks: []string{"vdb"}, MinimumConsistency: 1, Etag: "e"},
			UpdateMask: mask("policy", "excluded_disks", "minimum_consistency")},
		"BackUp":                &pb.BackUpRequest{Name: item1, RetainUntil: at(5), RequestId: "r"},
		"StopProtection":        &pb.StopProtectionRequest{Name: item1 + "x", Mode: 1, RequestId: "r"},
		"ResumeProtection":      &pb.ResumeProtectionRequest{Name: item1, Policy: daily, RequestId: "r"},
		"UndeleteProtectedItem": &pb.UndeleteProtectedItemRequest{Name: item1, RequestId: "r"},

		// JobService
		"GetJob":    &pb.GetJobRequest{Name: job},
		"ListJobs":  &pb.ListJobsRequest{Parent: vault, PageSize: 1, Filter: &pb.JobFilter{States: []pb.JobState{1}, Operations: []pb.JobOperation{1}, ProtectedItem: item1}},
		"CancelJob": &pb.CancelJobRequest{Name: job},
		"RetryJob":  &pb.RetryJobRequest{Name: job, RequestId: "r"},
		"WatchJobs": &pb.WatchJobsRequest{Parent: vault, Filter: &pb.JobFilter{ProtectedItem: item1}},

		// RecoveryPointService
		"GetRecoveryPoint":    &pb.GetRecoveryPointRequest{Name: point},
		"ListRecoveryPoints":  &pb.ListRecoveryPointsRequest{Parent: item1, PageSize: 1},
		"ExtendRecoveryPoint": &pb.ExtendRecoveryPointRequest{Name: point, RetainUntil: at(50), Etag: "e"},
		"DeleteRecoveryPoint": &pb.DeleteRecoveryPointRequest{Name: point, Etag: "e"},
		"Verify":              &pb.VerifyRequest{Name: point + "x", RequestId: "r"},
		"Restore": &pb.RestoreRequest{Name: point + "x", Host: host1, RequestId: "r", Target: &pb.RestoreRequest_Disks{Disks: &pb.RestoreDisks{
			Directory: "/d", Format: "raw", Targets: []string{"vda"}, Volumes: map[string]string{"vda": "/dev/v"}}}},
		"ReadExtents":          &pb.ReadExtentsRequest{Name: point, Disk: "vda", Base: point, Offset: 0, Length: 100},
		"ReadDisk":             &pb.ReadDiskRequest{Name: point, Disk: "vda", Length: 100},
		"LeaseRecoveryPoint":   &pb.LeaseRecoveryPointRequest{Name: point, Duration: durationpb.New(60e9), Holder: "h"},
		"ReleaseRecoveryPoint": &pb.ReleaseRecoveryPointRequest{Name: point, LeaseId: "l"},

		// BlockService
		"CreateUpload": &pb.CreateUploadRequest{Parent: item1, Job: job, LeaseToken: "t", Disks: disks, BaseRecoveryPoint: point, LeaseDuration: durationpb.New(60e9)},
		"RenewUpload":  &pb.RenewUploadRequest{UploadToken: token},
		"AbortUpload":  &pb.AbortUploadRequest{UploadToken: token + "x"},
		"FindMissing":  &pb.FindMissingRequest{UploadToken: token, Digests: digest},
		"UploadBlocks": &pb.UploadBlocksRequest{UploadToken: token, Blocks: []*pb.Block{wireBlock(make([]byte, 100))}},
		"WriteDiskMap": &pb.WriteDiskMapRequest{Header: &pb.DiskMapHeader{UploadToken: token, Disk: "vda"}, Runs: []*pb.DiskMapRun{{Digests: digest}}},
		"CommitUpload": &pb.CommitUploadRequest{UploadToken: token, SnapshotTime: at(0), Consistency: 1, MachineTitle: "t", GuestOs: "g",
			MachineDefinition: []byte("<domain/>"), MachineDefinitionType: "application/xml", Warnings: warnings, RootDigests: [][]byte{digest}, Checkpoint: "c"},
		"ReadBlocks": &pb.ReadBlocksRequest{RecoveryPoint: point, Digests: digest, Form: pb.BlockForm_BLOCK_FORM_PLAIN},

		// AuditService
		"ListAuditRecords": &pb.ListAuditRecordsRequest{Parent: sub, PageSize: 1, Filter: &pb.AuditFilter{
			Resource: vault, Method: "cairn.v1.VaultService/CreateVault", Actor: "server", StartTime: at(-1), EndTime: at(0)}},
	}
}

const inProgress = pb.JobState_JOB_STATE_IN_PROGRESS

func named(p *pb.Policy) *pb.Policy {
	p.Name, p.Etag = daily, "e"
	return p
}

func exampleMachine(problem *pb.Problem) *pb.Machine {
	m := machineOf(host1, "web1")
	m.HypervisorId, m.GuestOs, m.GuestAgent, m.Problem = "h", "g", 1, problem
	return m
}

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
