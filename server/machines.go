package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// maxMachines bounds the machines of one host.
const maxMachines = 10000

// GetMachine reads one machine.
func (s *hostService) GetMachine(_ context.Context, r *pb.GetMachineRequest) (*pb.GetMachineResponse, error) {
	var f fields
	n := f.machine("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	m, err := s.cat.Machine(n.String())
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, errMachineNotFound(n)
	}
	if err != nil {
		return nil, err
	}
	return &pb.GetMachineResponse{Machine: s.machineMessage(m)}, nil
}

// machineMessage adds to a machine what is derived.
func (s *Server) machineMessage(m *pb.Machine) *pb.Machine {
	if it, ok := s.vaults.itemOf(m.Name); ok {
		m.ProtectedItem = it.String()
	}
	return m
}

// ListMachines lists the machines of a host, or of all hosts.
func (s *hostService) ListMachines(_ context.Context, r *pb.ListMachinesRequest) (*pb.ListMachinesResponse, error) {
	var f fields
	parent := f.hostOrAll("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	of := SubscriptionName{parent.Subscription}.String()
	if parent.Host != wildcard {
		of = parent.String()
		if _, err := s.host(s.cat.Reader, parent); err != nil {
			return nil, err
		}
	}
	list := "machines " + r.Parent
	after, err := s.pageStart(list, r.PageToken)
	if err != nil {
		return nil, err
	}
	resp := new(pb.ListMachinesResponse)
	err = s.cat.Machines(of, after, func(m *pb.Machine) bool {
		if len(resp.Machines) == size {
			resp.NextPageToken = s.pageToken(list, resp.Machines[size-1].Name)
			return false
		}
		resp.Machines = append(resp.Machines, s.machineMessage(m))
		return true
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ReportMachines replaces the list of a host's machines.
func (s *hostService) ReportMachines(ctx context.Context, r *pb.ReportMachinesRequest) (*pb.ReportMachinesResponse, error) {
	var f fields
	parent := f.host("parent", r.Parent)
	f.machines(parent, r.Machines)
	if err := f.err(); err != nil {
		return nil, err
	}
	s.vaults.protect.Lock() // so that no machine that goes is protected meanwhile
	defer s.vaults.protect.Unlock()
	err := s.cat.Update(ctx, func(tx *catalog.Tx) error {
		h, err := s.host(tx.Reader, parent)
		if err != nil {
			return err
		}
		now := timestamppb.New(s.opts.Now())
		h.LastSeenTime = now
		if err := tx.PutHost(h); err != nil {
			return err
		}
		there := make(map[string]bool)
		for _, m := range r.Machines {
			there[m.Name] = true
		}
		var gone []*pb.Machine
		if err := tx.Machines(parent.String(), "", func(m *pb.Machine) bool {
			if !there[m.Name] {
				gone = append(gone, m)
			}
			return true
		}); err != nil {
			return err
		}
		for _, m := range gone {
			if _, protected := s.vaults.itemOf(m.Name); !protected {
				err = tx.DeleteMachine(m.Name)
			} else if m.State != pb.MachineState_MACHINE_STATE_GONE {
				m.State, m.Problem = pb.MachineState_MACHINE_STATE_GONE, nil
				err = tx.PutMachine(m)
			}
			if err != nil {
				return err
			}
		}
		for _, m := range r.Machines {
			m.ProtectedItem, m.LastSeenTime = "", now
			if err := tx.PutMachine(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &pb.ReportMachinesResponse{}, nil
}

// machines checks the machines that the agent of a host reports.
func (f *fields) machines(host HostName, ms []*pb.Machine) {
	if n := len(ms); n > maxMachines {
		f.add("machines", "has %d machines; at most %d are allowed", n, maxMachines)
		return
	}
	seen := make(map[string]bool, len(ms))
	for i, m := range ms {
		if len(f.violations) >= maxViolations {
			return
		}
		path := fmt.Sprintf("machines[%d]", i)
		n := f.machine(path+".name", m.GetName())
		switch {
		case n.Machine == "":
			continue
		case n.HostName != host && host.Host != "":
			f.addName(path+".name", "%s is not a machine of %q", quote(m.Name), host)
		case seen[m.Name]:
			f.addName(path+".name", "%s is there twice", quote(m.Name))
		}
		seen[m.Name] = true
		f.text(path+".hypervisor_id", m.HypervisorId, 128)
		f.text(path+".title", m.Title, 255)
		f.text(path+".guest_os", m.GuestOs, 255)
		enum(f, path+".state", m.State, pb.MachineState_name)
		enum(f, path+".guest_agent", m.GuestAgent, pb.GuestAgentState_name)
		if p := m.Problem; p != nil {
			f.problem(path+".problem", p)
			if p.Reason == pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
				f.add(path+".problem.reason", "must be given")
			}
		}
		f.machineDisks(path+".disks", m.Disks)
	}
}

func (f *fields) machineDisks(path string, disks []*pb.MachineDisk) {
	if n := len(disks); n > maxDisks {
		f.add(path, "has %d disks; at most %d are allowed", n, maxDisks)
		return
	}
	seen := make(map[string]bool, len(disks))
	for i, d := range disks {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case d.GetTarget() == "":
			f.add(at+".target", "must be given")
		case seen[d.Target]:
			f.add(at+".target", "%s is there twice", quote(d.Target))
		}
		seen[d.GetTarget()] = true
		f.text(at+".target", d.GetTarget(), 64)
		f.text(at+".path", d.GetPath(), 4096)
		f.text(at+".format", d.GetFormat(), 32)
		f.notNegative(at+".size", d.GetSize())
		if d.GetAllocated() < -1 {
			f.add(at+".allocated", "is %d; it must be -1 (not known) or more", d.GetAllocated())
		}
	}
}
