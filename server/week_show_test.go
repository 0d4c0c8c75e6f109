package server

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// show tells all that can be seen of the week's item.
func (w *week) show(out *strings.Builder) {
	w.t.Helper()
	for _, j := range w.jobsOf("") {
		if s := jobLine(j); w.shown[j.Name] != s {
			fmt.Fprintf(out, "job      %s\n", s)
			w.shown[j.Name] = s
		}
	}
	list := must[*pb.ListProtectedItemsResponse](w.t)(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: vault, ShowDeleted: true}))
	for _, it := range list.ProtectedItems {
		fmt.Fprintf(out, "item     %s; %s: %q; %s; %d points", strings.TrimPrefix(it.ProtectionState.String(), "PROTECTION_STATE_"),
			strings.TrimPrefix(it.LastBackupStatus.String(), "BACKUP_STATUS_"), it.LastBackupStatusText,
			strings.TrimPrefix(it.Health.String(), "HEALTH_STATUS_"), it.RecoveryPointCount)
		at(out, "; next backup", it.NextBackupTime)
		at(out, "; deleted", it.DeleteTime)
		at(out, ", goes", it.PurgeTime)
		out.WriteByte('\n')
		for _, p := range w.pointsOf(it.Name) {
			w.checkGuest(p)
			fmt.Fprintf(out, "point    %s", p.SnapshotTime.AsTime().Format(weekTime))
			at(out, " for the run of", p.ScheduleTime)
			at(out, " until", p.ExpireTime)
			fmt.Fprintf(out, " by %s\n", strings.TrimPrefix(p.RetentionRule.String(), "RETENTION_RULE_"))
		}
	}
	u := must[*pb.GetVaultUsageResponse](w.t)(w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault})).Usage
	for _, it := range u.Items {
		fmt.Fprintf(out, "bill     %s; %d bytes; %d instances", strings.TrimPrefix(it.BillingState.String(), "BILLING_STATE_"), it.ProtectedBytes, it.Instances)
		if it.SmallRate {
			out.WriteString(" at the small rate")
		}
		at(out, "; from", it.BillingStartTime)
		at(out, " to", it.BillingEndTime)
		out.WriteByte('\n')
	}
	w.showAudit(out)
}

// showAudit tells what was put on record since it was last told.
func (w *week) showAudit(out *strings.Builder) {
	records := must[*pb.ListAuditRecordsResponse](w.t)(w.audit.ListAuditRecords(w.ctx, &pb.ListAuditRecordsRequest{Parent: sub, PageSize: 1000})).AuditRecords
	slices.Reverse(records)
	for _, r := range records {
		if w.seen[r.Name] {
			continue
		}
		w.seen[r.Name] = true
		result := "OK"
		if r.Reason != 0 {
			result = reasonName(r.Reason)
		}
		resource := strings.TrimPrefix(r.Resource, sub+"/")
		if strings.Contains(resource, "/recoveryPoints/") {
			resource = resource[:len(resource)-3] // the rest of the id is random
		}
		fmt.Fprintf(out, "audit    %s of %s: %s\n", strings.TrimPrefix(r.Method, "cairn.v1."), resource, result)
	}
}

func at(out *strings.Builder, what string, t *timestamppb.Timestamp) {
	if t != nil {
		fmt.Fprintf(out, "%s %s", what, t.AsTime().Format(weekTime))
	}
}

// jobLine tells of a job.
func jobLine(j *pb.Job) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s", strings.TrimPrefix(j.Operation.String(), "JOB_OPERATION_"), strings.TrimPrefix(j.State.String(), "JOB_STATE_"))
	if j.Error != nil {
		fmt.Fprintf(&out, " (%s)", reasonName(j.Error.Reason))
	}
	switch {
	case j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP && j.Scheduled:
		at(&out, ", run of", j.ScheduleTime)
		fmt.Fprintf(&out, ", attempt %d", j.Attempt)
	case j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP:
		out.WriteString(", on demand")
	}
	at(&out, ", again at", j.NextAttemptTime)
	if j.Operation == pb.JobOperation_JOB_OPERATION_RECLAIM {
		switch {
		case j.DryRun:
			out.WriteString(", dry run")
		case j.Scheduled:
			out.WriteString(" by itself")
		}
		fmt.Fprintf(&out, ", %d blocks of garbage", j.Stats.GetGarbageBlocks())
	}
	return out.String()
}
