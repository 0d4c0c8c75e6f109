package server

import (
	"context"

	pb "cairn/proto/cairn/v1"
)

type auditService struct {
	pb.UnimplementedAuditServiceServer
	*Server
}

// ListAuditRecords lists what was to change something, newest first.
func (s *auditService) ListAuditRecords(_ context.Context, r *pb.ListAuditRecordsRequest) (*pb.ListAuditRecordsResponse, error) {
	var f fields
	f.subscription("parent", r.Parent)
	f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	return nil, errNotImplemented(pb.AuditService_ListAuditRecords_FullMethodName)
}
