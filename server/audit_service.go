package server

import (
	"context"
	"strings"
	"time"

	pb "cairn/proto/cairn/v1"
)

type auditService struct {
	pb.UnimplementedAuditServiceServer
	*Server
}

// ListAuditRecords lists what was to change something, newest first.
func (s *auditService) ListAuditRecords(ctx context.Context, r *pb.ListAuditRecordsRequest) (*pb.ListAuditRecordsResponse, error) {
	var f fields
	parent := f.subscription("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	match := f.auditFilter("filter", r.Parent, r.Filter)
	if err := f.err(); err != nil {
		return nil, err
	}
	fp, err := fingerprint("audit "+r.Parent, &pb.ListAuditRecordsRequest{Filter: r.Filter})
	if err != nil {
		return nil, err
	}
	after, err := s.pageStart(string(fp), r.PageToken)
	if err != nil {
		return nil, err
	}
	resp := new(pb.ListAuditRecordsResponse)
	err = s.cat.AuditRecords(parent.Subscription, after, func(a *pb.AuditRecord) bool {
		if ctx.Err() != nil {
			return false
		}
		if !match(a) {
			return true
		}
		if len(resp.AuditRecords) == size {
			resp.NextPageToken = s.pageToken(string(fp), resp.AuditRecords[size-1].Name)
			return false
		}
		resp.AuditRecords = append(resp.AuditRecords, a)
		return true
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// auditFilter checks a filter and makes a function of it. A call is of the time
// at which it came in: from start_time on, and before end_time.
func (f *fields) auditFilter(path, parent string, in *pb.AuditFilter) func(*pb.AuditRecord) bool {
	resource, method, actor := in.GetResource(), in.GetMethod(), in.GetActor()
	if resource != "" {
		if !isResource(resource) {
			f.addName(path+".resource", "%s is no resource name, such as %q", quote(resource), vaultPattern)
		} else if resource != parent && !strings.HasPrefix(resource, parent+"/") {
			f.add(path+".resource", "%s does not lie in %s", quote(resource), quote(parent))
		}
	}
	if method != "" && !auditedMethods["/"+method] && !auditSelfMethods[method] {
		f.add(path+".method", "%s leaves no records; one that does is %q", quote(method), strings.TrimPrefix(pb.VaultService_CreateVault_FullMethodName, "/"))
	}
	f.text(path+".actor", actor, 64)
	from, to := f.time(path+".start_time", in.GetStartTime()), f.time(path+".end_time", in.GetEndTime())
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		f.add(path+".end_time", "is %s; it must be after start_time, %s", to.Format(time.RFC3339), from.Format(time.RFC3339))
	}
	return func(a *pb.AuditRecord) bool {
		at := a.StartTime.AsTime()
		return (resource == "" || a.Resource == resource || strings.HasPrefix(a.Resource, resource+"/")) &&
			(method == "" || a.Method == method) && (actor == "" || a.Actor == actor) &&
			(from.IsZero() || !at.Before(from)) && (to.IsZero() || at.Before(to)) &&
			(!in.GetFailed() || a.Code != 0)
	}
}

// isResource says whether s is a name of any kind.
func isResource(s string) bool {
	for _, pattern := range []string{
		subscriptionPattern, vaultPattern, policyPattern, itemPattern, pointPattern, jobPattern, hostPattern, machinePattern,
	} {
		if _, ok := splitName(s, pattern, false); ok {
			return true
		}
	}
	return false
}
