package server

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	pb "cairn/proto/cairn/v1"
)

func (w *world) report(host string, ms ...*pb.Machine) error {
	_, err := w.hosts.ReportMachines(w.ctx, &pb.ReportMachinesRequest{Parent: host, Machines: ms})
	return err
}

func (w *world) machine(name string) *pb.Machine {
	w.t.Helper()
	return must[*pb.GetMachineResponse](w.t)(w.hosts.GetMachine(w.ctx, &pb.GetMachineRequest{Name: name})).Machine
}

func TestHostsAndMachines(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.host("rack2", "east", "web2")
	h := must[*pb.GetHostResponse](t)(w.hosts.GetHost(w.ctx, &pb.GetHostRequest{Name: host1})).Host
	if h.Region != "west" || h.State != pb.HostState_HOST_STATE_DISCONNECTED || h.MachineCount != 2 || h.Uid == "" || h.LastSeenTime == nil {
		t.Errorf("host %v", h)
	}
	again := must[*pb.RegisterHostResponse](t)(w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: "rack1", Host: &pb.Host{AgentVersion: "2", Sources: []string{"images"}}})).Host
	if again.Uid != h.Uid || again.AgentVersion != "2" || again.MachineCount != 2 || len(again.Sources) != 1 {
		t.Errorf("registered again: %v", again)
	}
	l := must[*pb.ListHostsResponse](t)(w.hosts.ListHosts(w.ctx, &pb.ListHostsRequest{Parent: sub, PageSize: 1}))
	if len(l.Hosts) != 1 || l.Hosts[0].Name != host1 || l.NextPageToken == "" {
		t.Errorf("list %v", l)
	}
	l = must[*pb.ListHostsResponse](t)(w.hosts.ListHosts(w.ctx, &pb.ListHostsRequest{Parent: sub, PageSize: 1, PageToken: l.NextPageToken}))
	if len(l.Hosts) != 1 || l.Hosts[0].Name != sub+"/hosts/rack2" || l.NextPageToken != "" {
		t.Errorf("list %v", l)
	}
	var names []string
	for token := ""; ; {
		r := must[*pb.ListMachinesResponse](t)(w.hosts.ListMachines(w.ctx, &pb.ListMachinesRequest{Parent: sub + "/hosts/-", PageSize: 2, PageToken: token}))
		for _, m := range r.Machines {
			names = append(names, strings.TrimPrefix(m.Name, sub+"/hosts/"))
		}
		if token = r.NextPageToken; token == "" {
			break
		}
	}
	if fmt.Sprint(names) != "[rack1/machines/db1 rack1/machines/web1 rack2/machines/web2]" {
		t.Errorf("machines %v", names)
	}
	r := must[*pb.ListMachinesResponse](t)(w.hosts.ListMachines(w.ctx, &pb.ListMachinesRequest{Parent: host1}))
	if len(r.Machines) != 2 || r.Machines[0].ProtectedItem != "" {
		t.Errorf("machines %v", r)
	}
	for _, err := range []error{
		second(w.hosts.GetHost(w.ctx, &pb.GetHostRequest{Name: sub + "/hosts/none"})),
		second(w.hosts.ListMachines(w.ctx, &pb.ListMachinesRequest{Parent: sub + "/hosts/none"})),
		second(w.hosts.DeleteHost(w.ctx, &pb.DeleteHostRequest{Name: sub + "/hosts/none"})),
		w.report(sub + "/hosts/none"),
	} {
		wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND)
	}
	_, err := w.hosts.GetMachine(w.ctx, &pb.GetMachineRequest{Name: host1 + "/machines/none"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND)
	must[*pb.DeleteHostResponse](t)(w.hosts.DeleteHost(w.ctx, &pb.DeleteHostRequest{Name: sub + "/hosts/rack2"}))
	_, err = w.hosts.GetMachine(w.ctx, &pb.GetMachineRequest{Name: sub + "/hosts/rack2/machines/web2"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND)
	_, err = w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: "h", Host: &pb.Host{Region: "mars"}})
	wantError(t, err, codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_UNKNOWN_REGION)
}

// second drops the answer of a call that is to fail.
func second[R any](_ R, err error) error { return err }

// A machine that is not reported any more is forgotten, unless it is protected.
func TestMachinesGo(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	w.protect()
	if m := w.machine(web1); m.ProtectedItem != item1 {
		t.Errorf("machine %v", m)
	}
	if err := w.report(host1); err != nil {
		t.Fatal(err)
	}
	if m := w.machine(web1); m.State != pb.MachineState_MACHINE_STATE_GONE || m.ProtectedItem != item1 {
		t.Errorf("machine %v", m)
	}
	_, err := w.hosts.GetMachine(w.ctx, &pb.GetMachineRequest{Name: host1 + "/machines/db1"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND)
	_, err = w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_MACHINE_GONE)
	m := machineOf(host1, "web1")
	m.Problem = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, Message: "truncated", Metadata: map[string]string{"path": "/x"}}
	if err := w.report(host1, m); err != nil {
		t.Fatal(err)
	}
	_, err = w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})
	if info := wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE); info.Metadata["path"] != "/x" {
		t.Errorf("metadata %v", info.Metadata)
	}
	if err := w.report(host1, machineOf(host1, "web1")); err != nil {
		t.Fatal(err)
	}
	must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1}))
	// A host with protected machines stays where it is.
	_, err = w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: "rack1", Host: &pb.Host{Region: "east"}})
	wantError(t, err, codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_REGION_MISMATCH)
}

func TestReportMachinesRefusals(t *testing.T) {
	w := memWorld(t)
	w.setUp()
	disk := func(d *pb.MachineDisk) func(*pb.Machine) {
		return func(m *pb.Machine) { m.Disks = append(m.Disks, d) }
	}
	for _, c := range []struct {
		field  string
		change func(*pb.Machine)
	}{
		{"machines[1].name", func(m *pb.Machine) { m.Name = "" }},
		{"machines[1].name", func(m *pb.Machine) { m.Name = "web1" }},
		{"machines[1].name", func(m *pb.Machine) { m.Name = sub + "/hosts/rack2/machines/web1" }},
		{"machines[1].name", func(m *pb.Machine) { m.Name = host1 + "/machines/db1" }},
		{"machines[1].title", func(m *pb.Machine) { m.Title = strings.Repeat("x", 256) }},
		{"machines[1].state", func(m *pb.Machine) { m.State = 77 }},
		{"machines[1].guest_agent", func(m *pb.Machine) { m.GuestAgent = 77 }},
		{"machines[1].problem.reason", func(m *pb.Machine) { m.Problem = &pb.Problem{} }},
		{"machines[1].problem.message", func(m *pb.Machine) { m.Problem = &pb.Problem{Reason: 115, Message: strings.Repeat("x", 4001)} }},
		{"machines[1].disks[2].target", disk(&pb.MachineDisk{})},
		{"machines[1].disks[2].target", disk(&pb.MachineDisk{Target: "vda"})},
		{"machines[1].disks[2].size", disk(&pb.MachineDisk{Target: "x", Size: -1})},
		{"machines[1].disks[2].allocated", disk(&pb.MachineDisk{Target: "x", Allocated: -2})},
		{"machines[1].disks[2].path", disk(&pb.MachineDisk{Target: "x", Path: strings.Repeat("x", 4097)})},
	} {
		m := machineOf(host1, "web1")
		c.change(m)
		wantField(t, w.report(host1, machineOf(host1, "db1"), m), c.field)
	}
	wantField(t, w.report(host1, make([]*pb.Machine, 10001)...), "machines")
	if l := must[*pb.ListMachinesResponse](t)(w.hosts.ListMachines(w.ctx, &pb.ListMachinesRequest{Parent: host1})); len(l.Machines) != 2 {
		t.Errorf("refused reports left %d machines", len(l.Machines))
	}
}
