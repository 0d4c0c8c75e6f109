package server

import (
	"testing"

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
