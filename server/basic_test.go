package server

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
)

// What a restart must not change.
func TestRestartKeepsState(t *testing.T) {
	w := newWorld(t, Options{})
	w.setUp()
	w.protect()
	must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1}))
	state := func() []proto.Message {
		return []proto.Message{
			must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub})),
			must[*pb.ListPoliciesResponse](t)(w.policies.ListPolicies(w.ctx, &pb.ListPoliciesRequest{Parent: vault})),
			must[*pb.ListHostsResponse](t)(w.hosts.ListHosts(w.ctx, &pb.ListHostsRequest{Parent: sub})),
			must[*pb.ListMachinesResponse](t)(w.hosts.ListMachines(w.ctx, &pb.ListMachinesRequest{Parent: host1})),
			must[*pb.ListProtectedItemsResponse](t)(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: vault})),
			must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: sub})),
		}
	}
	before := state()
	w.restart()
	for i, m := range state() {
		if !proto.Equal(m, before[i]) {
			t.Errorf("after the restart\n%v\nbefore\n%v", m, before[i])
		}
	}
}

// A panic costs the call, not the server, and tells the client nothing.
func TestPanic(t *testing.T) {
	w := newWorld(t, Options{Logger: slog.New(slog.DiscardHandler)})
	_, err := w.s.unary(w.ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/cairn.v1.X/Y"}, func(context.Context, any) (any, error) { panic("secret") })
	wantError(t, err, codes.Internal, pb.ErrorReason_ERROR_REASON_INTERNAL)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the client sees %v", err)
	}
}

// A message that is larger than the server takes is refused with a reason.
func TestMessageTooLarge(t *testing.T) {
	w := newWorld(t, Options{})
	_, err := w.blocks.FindMissing(w.ctx, &pb.FindMissingRequest{UploadToken: "x", Digests: make([]byte, maxMessage+1)})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE)
}
