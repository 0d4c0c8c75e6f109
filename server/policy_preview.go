package server

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/policy"
)

const (
	maxPreviewRuns   = 20000
	maxPreviewPoints = 10000 // of those that exist: an answer has to stay below 4 MiB
	maxPreviewYears  = 100
	previewDays      = 30
)

// PreviewPolicy computes the planned runs of a range, and what becomes of their
// points and of those that exist.
func (s *policyService) PreviewPolicy(_ context.Context, r *pb.PreviewPolicyRequest) (*pb.PreviewPolicyResponse, error) {
	var f fields
	var n PolicyName
	var item ItemName
	given := r.GetPolicy()
	switch r.PolicyOrName.(type) {
	case *pb.PreviewPolicyRequest_Name:
		n = f.policy("name", r.GetName())
	case *pb.PreviewPolicyRequest_Policy:
		f.policyFields(given)
	default:
		f.add("name", "must be given, or policy")
	}
	if r.ProtectedItem != "" {
		item = f.item("protected_item", r.ProtectedItem)
		if n.Policy != "" && item.Item != "" && item.VaultName != n.VaultName {
			f.add("protected_item", "is an item of another vault; it must be one of %q", n.VaultName)
		}
	}
	start, end := f.previewRange(r, s.opts.Now())
	if err := f.err(); err != nil {
		return nil, err
	}
	p := &pb.Policy{Schedule: scheduleOr(given.GetSchedule()), Retention: retentionOr(given.GetRetention())}
	var have []policy.Point
	var names []string
	paused := false
	if vault := orDefault(n.VaultName, item.VaultName); vault != (VaultName{}) {
		v, release, err := s.vaults.use(vault)
		if err != nil {
			return nil, err
		}
		defer release()
		if n.Policy != "" {
			if p, err = v.policy(n); err != nil {
				return nil, err
			}
		}
		if item.Item != "" {
			it, err := v.item(item)
			if err == nil {
				have, names, err = v.previewPoints(item)
			}
			if err != nil {
				return nil, err
			}
			paused = s.keeping(v, it).paused()
		}
	}
	var runs []time.Time
	for t := range policy.Runs(p.Schedule, start.Add(-1), end) {
		if runs = append(runs, t); len(runs) > maxPreviewRuns {
			break // one more than is told: with it, the last one told is the newest no more
		}
	}
	fates := policy.Foresee(p, have, runs, end)
	resp := &pb.PreviewPolicyResponse{Truncated: len(runs) > maxPreviewRuns}
	if resp.Truncated {
		cut := runs[maxPreviewRuns]
		runs = runs[:maxPreviewRuns]
		fates = slices.DeleteFunc(fates, func(ft policy.Fate) bool { return !ft.Snapshot.Before(cut) })
	}
	for _, t := range runs {
		resp.Runs = append(resp.Runs, timestamppb.New(t))
	}
	for _, ft := range fates {
		pt := &pb.PointPreview{Time: timestamppb.New(ft.Snapshot), Rule: ft.Rule, KeptAtEnd: ft.KeptAtEnd}
		if !ft.Until.IsZero() {
			pt.ExpireTime = timestamppb.New(ft.Until)
		}
		if ft.Have >= 0 {
			pt.RecoveryPoint = names[ft.Have]
			if paused {
				pt.ExpireTime, pt.Rule, pt.KeptAtEnd = nil, pb.RetentionRule_RETENTION_RULE_PROTECTION_STOPPED, true
			}
		}
		resp.Points = append(resp.Points, pt)
	}
	return resp, nil
}

// previewRange checks the range of a preview and fills in what is not set.
func (f *fields) previewRange(r *pb.PreviewPolicyRequest, now time.Time) (start, end time.Time) {
	start, end = now, f.time("end_time", r.EndTime)
	if r.StartTime != nil {
		start = f.time("start_time", r.StartTime)
	}
	if len(f.violations) > 0 {
		return start, end
	}
	if r.EndTime == nil {
		end = start.AddDate(0, 0, previewDays)
	}
	switch {
	case start.Year() < 1970:
		f.add("start_time", "is %s; it must not lie before 1970", start.Format(time.RFC3339))
	case end.Year() > 9000:
		f.add("end_time", "is %s; it must not lie after the year 9000", end.Format(time.RFC3339))
	case end.Before(start):
		f.add("end_time", "is %s, before start_time %s", end.Format(time.RFC3339), start.Format(time.RFC3339))
	case end.After(start.AddDate(maxPreviewYears, 0, 0)):
		f.add("end_time", "is %s; it must lie within %d years of start_time %s", end.Format(time.RFC3339), maxPreviewYears, start.Format(time.RFC3339))
	}
	return start, end
}

// previewPoints gives the newest points of an item and their names, in order of
// time.
func (v *Vault) previewPoints(n ItemName) (points []policy.Point, names []string, err error) {
	var bad error
	err = v.Store.Points(n.Item+"/", "", func(sp blockstore.Point) bool {
		var p *pb.RecoveryPoint
		if p, bad = decodePoint(v.Name.pointOfStore(sp.ID), sp.Meta); bad != nil {
			return false
		}
		points, names = append(points, policyPoint(p)), append(names, p.Name)
		return true
	})
	if err == nil {
		err = bad
	}
	old := max(0, len(points)-maxPreviewPoints)
	return points[old:], names[old:], err
}
