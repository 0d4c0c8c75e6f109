package libvirt

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

const (
	// atOnce is how many domains are looked at at a time.
	atOnce = 8
	// lookLimit is how long one domain may keep a listing waiting for an answer: a
	// domain that a long job holds does not give any. There is one for each of
	// its disks, and all of dozens together may well take longer.
	lookLimit = 3 * time.Second
)

// domain is a domain as it was found.
type domain struct {
	rpc.Domain
	state  rpc.State
	reason int
	def    *domxml.Domain
	extras extras
	disks  []disk
	info   source.Machine
}

// disk is a disk of a domain.
type disk struct {
	domxml.Disk
	info source.Disk
}

// extras is what is used of a running domain's XML beyond its definition.
type extras struct {
	Labels []struct {
		Model string `xml:"model,attr"`
		Label string `xml:"label"`
	} `xml:"seclabel"`
	Channels []struct {
		Target struct {
			Name  string `xml:"name,attr"`
			State string `xml:"state,attr"`
		} `xml:"target"`
	} `xml:"devices>channel"`
}

// silent tells that no agent has opened its end of the channel.
func (e extras) silent() bool {
	for _, c := range e.Channels {
		if c.Target.Name == "org.qemu.guest_agent.0" {
			return c.Target.State == "disconnected"
		}
	}
	return true
}

// active tells whether there is a QEMU.
func (d *domain) active() bool { return active(d.state) }

// stands tells why an active domain's CPUs do not run; "" if they do.
func (d *domain) stands() string {
	switch {
	case d.state == rpc.StatePaused && d.reason == rpc.PausedIOError:
		return "has stopped after an I/O error of its storage"
	case d.state == rpc.StatePaused:
		return "is paused"
	case d.state == rpc.StatePMSuspended:
		return "is suspended by its guest"
	case d.state == rpc.StateCrashed:
		return "has crashed"
	}
	return ""
}

func (d *domain) publicState() source.State {
	switch {
	case d.state == rpc.StateCrashed, d.state == rpc.StatePaused && d.reason == rpc.PausedIOError:
		return source.StateCrashed
	case d.state == rpc.StatePaused, d.state == rpc.StatePMSuspended:
		return source.StatePaused
	case d.active():
		return source.StateRunning
	case d.state == rpc.StateShutoff:
		return source.StateStopped
	}
	return source.StateUnknown
}

// Machines implements source.Source.
func (s *Source) Machines(ctx context.Context) ([]source.Machine, error) {
	conn, err := s.look.get(ctx)
	if err != nil {
		return nil, err
	}
	list, err := conn.ListDomains(ctx, 0)
	if err != nil {
		return nil, failure(err)
	}
	found := make([]*domain, len(list))
	g, looking := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, dom := range list {
		g.Go(func() error {
			d, err := inspect(looking, conn, dom)
			switch {
			case errors.Is(err, rpc.ErrNoDomain): // gone meanwhile
				return nil
			case errors.Is(err, rpc.ErrDisconnected):
				return failure(err)
			case looking.Err() != nil:
				return context.Cause(looking)
			}
			found[i] = d
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(d *domain) bool { return d == nil })
	s.askGuests(ctx, found)
	all := make([]source.Machine, len(found))
	for i, d := range found {
		all[i] = d.info
	}
	return unique(all), nil
}

// unique sorts machines. Those whose names give one ID become one machine that
// cannot be backed up: the backups of one must not go on with another's data.
func unique(all []source.Machine) []source.Machine {
	slices.SortFunc(all, func(a, b source.Machine) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Title, b.Title))
	})
	var out []source.Machine
	for _, m := range all {
		if n := len(out); n > 0 && out[n-1].ID == m.ID {
			out[n-1].Problem = fmt.Sprintf("the domains %s and %s would both be machine %s: rename one of them", out[n-1].Title, m.Title, m.ID)
			out[n-1].Disks = nil
			continue
		}
		out = append(out, m)
	}
	return out
}

// find returns the domain of a machine.
func find(ctx context.Context, conn daemon, id string) (*domain, error) {
	list, err := conn.ListDomains(ctx, 0)
	if err != nil {
		return nil, failure(err)
	}
	var hit *rpc.Domain
	for i, dom := range list {
		switch {
		case idOf(dom.Name) != id:
		case hit != nil:
			return nil, fmt.Errorf("%w: the domains %s and %s would both be machine %s: rename one of them", source.ErrUnusable, hit.Name, dom.Name, id)
		default:
			hit = &list[i]
		}
	}
	if hit == nil {
		return nil, source.ErrMachineNotFound
	}
	d, err := inspect(ctx, conn, *hit)
	if err != nil {
		return nil, failure(err)
	}
	if d.def == nil {
		return nil, fmt.Errorf("%w: %s", source.ErrUnusable, d.info.Problem)
	}
	return d, nil
}

// inspect finds out all about a domain but what its guest says. What it cannot
// find out is a Problem; errors mean that there is no domain or no daemon.
func inspect(ctx context.Context, conn daemon, dom rpc.Domain) (*domain, error) {
	timed, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(lookLimit, func() { cancel(fmt.Errorf("libvirt does not tell within %s", lookLimit)) })
	defer patience.Stop()
	d := &domain{Domain: dom, info: source.Machine{ID: idOf(dom.Name), Title: strings.ToValidUTF8(dom.Name, "\uFFFD"), HypervisorID: dom.UUID.String()}}
	fatal := func(err error) bool {
		return errors.Is(err, rpc.ErrNoDomain) || errors.Is(err, rpc.ErrDisconnected) || ctx.Err() != nil
	}
	var err error
	if d.state, d.reason, err = conn.DomainState(timed, dom); err != nil {
		if fatal(err) {
			return nil, err
		}
		d.info.Problem = err.Error()
		return d, nil
	}
	d.info.State = d.publicState()
	text, err := conn.XMLDesc(timed, dom, 0)
	if err == nil {
		d.def, err = domxml.Parse([]byte(text))
	}
	if err == nil {
		err = xml.Unmarshal([]byte(text), &d.extras)
	}
	if err != nil {
		if fatal(err) {
			return nil, err
		}
		d.def, d.info.Problem = nil, err.Error()
		return d, nil
	}
	// QEMU 7.2 can crash when it is asked about its disks at the moment in which a
	// disk has got all its data: a filter above it has lost its child, and is not
	// gone yet. So machines are let alone until an instant restore is done.
	moving := d.active() && len(d.def.ReadsFrom(filepath.Join(restoreSockets, restorePrefix))) > 0
	bad := 0
	for _, x := range d.def.Disks() {
		if x.Removable() {
			continue
		}
		if moving {
			k := disk{x, source.Disk{Target: x.Target, Path: strings.ToValidUTF8(x.Where(), "\uFFFD"), Format: cmp.Or(x.Format, "raw"),
				Problem: "data is still being moved in by an instant restore"}}
			d.disks, d.info.Disks, d.info.Problem = append(d.disks, k), append(d.info.Disks, k.info), "an instant restore is still moving its data in"
			continue
		}
		patience.Reset(lookLimit) // if it has run out already, that remains so
		k, err := d.inspectDisk(timed, conn, x)
		if fatal(err) {
			return nil, err
		}
		d.disks = append(d.disks, k)
		d.info.Disks = append(d.info.Disks, k.info)
		if k.info.Problem != "" {
			if bad++; bad == 1 {
				d.info.Problem = fmt.Sprintf("disk %s: %s", k.info.Target, k.info.Problem)
			}
		}
	}
	switch {
	case bad > 1:
		d.info.Problem += fmt.Sprintf(" (and %d more of its disks have problems)", bad-1)
	case len(d.disks) == 0:
		d.info.Problem = "the domain has no disk"
	}
	return d, nil
}

// inspectDisk finds out about one disk. Its error is for the caller to see
// whether the domain is still there; the disk's Problem says the same.
func (d *domain) inspectDisk(ctx context.Context, conn daemon, x domxml.Disk) (disk, error) {
	k := disk{x, source.Disk{Target: x.Target, Path: strings.ToValidUTF8(x.Where(), "\uFFFD"), Format: cmp.Or(x.Format, "raw")}}
	switch {
	case x.Type == "vhostuser" || x.Type == "vhostvdpa":
		k.info.Problem = "a " + x.Type + " disk, whose data QEMU does not see: exclude the disk"
		return k, nil
	case x.Type == "dir":
		k.info.Problem = "a directory that is shown to the guest as a disk: exclude the disk, and back the directory up as files"
		return k, nil
	case !d.active() && x.Type != "file" && x.Type != "block" && x.Type != "volume":
		k.info.Problem = "a disk of type " + x.Type + " can only be read while its VM runs: start the VM, or exclude the disk"
		return k, nil
	case x.Path == "" && (x.Type == "file" || x.Type == "block"):
		k.info.Problem = "it names no file or device"
		return k, nil
	case x.Type == "volume" && x.Path == "":
		path, err := conn.VolumePath(ctx, x.Pool, x.Volume)
		if err != nil {
			k.info.Problem = err.Error()
			return k, err
		}
		k.info.Path = path
	}
	i, err := conn.BlockInfo(ctx, d.Domain, x.Target)
	if err != nil {
		k.info.Problem = err.Error()
		return k, err
	}
	if k.info.Size, k.info.Allocated = i.Capacity, i.Allocation; i.Capacity <= 0 {
		k.info.Problem = fmt.Sprintf("the disk is empty (%d bytes)", i.Capacity)
	}
	return k, nil
}
