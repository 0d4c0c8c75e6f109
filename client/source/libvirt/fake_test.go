package libvirt

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"cairn/client/source/libvirt/rpc"
)

// fakeDaemon answers from memory. What a test does not need is not faked: a call
// of it panics.
type fakeDaemon struct {
	hypervisor

	mu     sync.Mutex
	doms   []rpc.Domain
	states map[string][2]int // state and reason, by name; running if missing
	xmls   map[string]string
	agent  func(ctx context.Context, dom rpc.Domain, command string) (string, error)
	info   func(dom rpc.Domain, disk string) (rpc.BlockInfo, error)
	begin  func(backup, checkpoint string) error
	job    string // XML of the backup job that runs
	marks  map[string]string
	broken map[string]bool // disks whose bitmaps are missing
	log    []string

	events chan rpc.Event
	gone   chan struct{}
}

func newFakeDaemon(doms ...rpc.Domain) *fakeDaemon {
	return &fakeDaemon{doms: doms, states: map[string][2]int{}, xmls: map[string]string{}, marks: map[string]string{},
		broken: map[string]bool{}, events: make(chan rpc.Event, 10), gone: make(chan struct{})}
}

func fakeDom(i int) rpc.Domain {
	return rpc.Domain{Name: fmt.Sprintf("vm%d", i), UUID: rpc.UUID{15: byte(i)}, ID: i + 1}
}

// fakeXML is a domain with an agent's channel.
func fakeXML(dom rpc.Domain, channel, disks string) string {
	return fmt.Sprintf(`<domain type='kvm' id='1'><name>%s</name><uuid>%s</uuid><memory>1024</memory><os><type>hvm</type></os><devices>%s
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='%s'/></channel></devices>
<seclabel type='dynamic' model='dac' relabel='yes'><label>+107:+108</label></seclabel></domain>`, dom.Name, dom.UUID, disks, channel)
}

const fakeDisks = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/nowhere/a'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/nowhere/b'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>`

func (f *fakeDaemon) ListDomains(context.Context, rpc.ListFlags) ([]rpc.Domain, error) {
	return f.doms, nil
}

func (f *fakeDaemon) LookupByUUID(_ context.Context, u rpc.UUID) (rpc.Domain, error) {
	for _, d := range f.doms {
		if d.UUID == u {
			return d, nil
		}
	}
	return rpc.Domain{}, libvirtError(rpc.ErrNoDomain)
}

func (f *fakeDaemon) DomainState(_ context.Context, dom rpc.Domain) (rpc.State, int, error) {
	if s, ok := f.states[dom.Name]; ok {
		return rpc.State(s[0]), s[1], nil
	}
	return rpc.StateRunning, 1, nil
}

func (f *fakeDaemon) XMLDesc(_ context.Context, dom rpc.Domain, _ rpc.XMLFlags) (string, error) {
	if x, ok := f.xmls[dom.Name]; ok {
		return x, nil
	}
	return fakeXML(dom, "connected", fakeDisks), nil
}

func (f *fakeDaemon) BlockInfo(_ context.Context, dom rpc.Domain, disk string) (rpc.BlockInfo, error) {
	if f.info != nil {
		return f.info(dom, disk)
	}
	return rpc.BlockInfo{Capacity: 1 << 30, Allocation: 1 << 20}, nil
}

func (f *fakeDaemon) AgentCommand(ctx context.Context, dom rpc.Domain, command string, _ int) (string, error) {
	return f.agent(ctx, dom, command)
}

func (f *fakeDaemon) BackupBegin(_ context.Context, _ rpc.Domain, backup, checkpoint string, _ rpc.BackupFlags) error {
	return f.begin(backup, checkpoint)
}

func (f *fakeDaemon) BackupXMLDesc(context.Context, rpc.Domain) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.job == "" {
		return "", libvirtError(rpc.ErrNoBackup)
	}
	return f.job, nil
}

func (f *fakeDaemon) JobStats(context.Context, rpc.Domain, bool) (rpc.JobStats, error) {
	return rpc.JobStats{}, nil
}

func (f *fakeDaemon) AbortJob(context.Context, rpc.Domain) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.job = ""
	f.log = append(f.log, "abort")
	return nil
}

func (f *fakeDaemon) ListCheckpoints(_ context.Context, dom rpc.Domain, _ rpc.CheckpointListFlags) (list []rpc.Checkpoint, err error) {
	for name := range f.marks {
		list = append(list, rpc.Checkpoint{Name: name, Domain: dom})
	}
	return list, nil
}

func (f *fakeDaemon) LookupCheckpoint(_ context.Context, dom rpc.Domain, name string) (rpc.Checkpoint, error) {
	if _, ok := f.marks[name]; !ok {
		return rpc.Checkpoint{}, libvirtError(rpc.ErrNoCheckpoint)
	}
	return rpc.Checkpoint{Name: name, Domain: dom}, nil
}

func (f *fakeDaemon) CheckpointXMLDesc(_ context.Context, cp rpc.Checkpoint, _ rpc.CheckpointXMLFlags) (string, error) {
	return f.marks[cp.Name], nil
}

func (f *fakeDaemon) CreateCheckpoint(_ context.Context, dom rpc.Domain, xml string, _ rpc.CheckpointCreateFlags) (rpc.Checkpoint, error) {
	f.log = append(f.log, "redefine")
	f.marks["cairn-1"] = xml
	return rpc.Checkpoint{Name: "cairn-1", Domain: dom}, nil
}

func (f *fakeDaemon) DeleteCheckpoint(_ context.Context, cp rpc.Checkpoint, flags rpc.CheckpointDeleteFlags) error {
	if flags == 0 {
		for disk := range f.broken {
			if strings.Contains(f.marks[cp.Name], `name="`+disk+`" checkpoint="bitmap"`) {
				f.log = append(f.log, "fail")
				return libvirtError(rpc.ErrInternal)
			}
		}
	}
	f.log = append(f.log, fmt.Sprint("delete ", cp.Name, " ", flags))
	delete(f.marks, cp.Name)
	return nil
}

func (f *fakeDaemon) Subscribe(context.Context) (<-chan rpc.Event, error) { return f.events, nil }
func (f *fakeDaemon) Done() <-chan struct{}                               { return f.gone }
func (f *fakeDaemon) Close() error                                        { return nil }
