package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var hostTable = table[*cairnv1.Host]{
	head: []string{"HOST", "REGION", "SOURCES", "STATE", "MACHINES", "LAST SEEN"},
	row: func(h *cairnv1.Host) []string {
		return []string{
			short(h.GetName()), h.GetRegion(), strings.Join(h.GetSources(), ","), word(h.GetState(), "HOST_STATE_"),
			fmt.Sprint(h.GetMachineCount()), when(h.GetLastSeenTime()),
		}
	},
}

var machineTable = table[*cairnv1.Machine]{
	head: []string{"MACHINE", "HOST", "STATE", "DISKS", "SIZE", "ALLOCATED", "PROTECTED BY", "GUEST AGENT", "GUEST OS", "PROBLEM"},
	row: func(m *cairnv1.Machine) []string {
		var total, allocated int64
		for _, d := range m.GetDisks() {
			total += d.GetSize()
			allocated += max(0, d.GetAllocated()) // -1 is not known
		}
		by := "-"
		if n := m.GetProtectedItem(); n != "" {
			by = field(n, "vaults") + "/" + short(n)
		}
		return []string{
			short(m.GetName()), field(m.GetName(), "hosts"), word(m.GetState(), "MACHINE_STATE_"), fmt.Sprint(len(m.GetDisks())),
			size(total), size(allocated), by, word(m.GetGuestAgent(), "GUEST_AGENT_STATE_"), orDash(m.GetGuestOs()), orDash(m.GetProblem().GetMessage()),
		}
	},
}

func (a *app) hostCmd() *cobra.Command {
	return group("host", "Show hosts, where agents run", &cobra.Command{
		Use: "list", Short: "List hosts", Args: args(cobra.NoArgs),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := all(func(token string) ([]*cairnv1.Host, string, error) {
				r, err := c.Hosts.ListHosts(ctx, &cairnv1.ListHostsRequest{Parent: a.parent(), PageSize: pageSize, PageToken: token})
				return r.GetHosts(), r.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return printList(a, hostTable, list)
		}),
	})
}

// listMachines lists the machines of a host, or of all hosts.
func (a *app) listMachines(ctx context.Context, c *client.Client, host string) ([]*cairnv1.Machine, error) {
	if host == "" {
		host = "-"
	}
	return all(func(token string) ([]*cairnv1.Machine, string, error) {
		r, err := c.Hosts.ListMachines(ctx, &cairnv1.ListMachinesRequest{Parent: a.parent() + "/hosts/" + host, PageSize: pageSize, PageToken: token})
		return r.GetMachines(), r.GetNextPageToken(), err
	})
}

func (a *app) machineCmd() *cobra.Command {
	var host string
	list := &cobra.Command{Use: "list", Short: "List machines that agents have found", Args: args(cobra.NoArgs)}
	list.Flags().StringVar(&host, "host", "", "only this host's")
	list.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		machines, err := a.listMachines(ctx, c, host)
		if err != nil {
			return err
		}
		return printList(a, machineTable, machines)
	})
	return group("machine", "Show machines", list, a.machineShowCmd())
}

func (a *app) machineShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show MACHINE", Short: "Show one machine with its disks", Args: args(cobra.ExactArgs(1)),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.machineName(ctx, c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.Hosts.GetMachine(ctx, &cairnv1.GetMachineRequest{Name: name})
			if err != nil {
				return err
			}
			m := resp.GetMachine()
			if err := printOne(a, machineTable, m); err != nil || a.output != "table" {
				return err
			}
			fmt.Printf("title: %s\n", orDash(m.GetTitle()))
			fmt.Printf("hypervisor's id: %s\n", orDash(m.GetHypervisorId()))
			for _, d := range m.GetDisks() {
				fmt.Printf("disk %s: %s, %s, %s allocated, %s\n", d.GetTarget(), orDash(d.GetFormat()), size(d.GetSize()), size(d.GetAllocated()), orDash(d.GetPath()))
			}
			if r := m.GetProblem().GetRemedy(); r != "" {
				fmt.Printf("what to do: %s\n", r)
			}
			return nil
		}),
	}
}
