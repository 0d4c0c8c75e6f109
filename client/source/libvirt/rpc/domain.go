package rpc

import (
	"context"
	"strconv"
)

// ListFlags choose domains. Flags of one group are alternatives; a group that
// is left out does not narrow the choice.
type ListFlags uint32

const (
	ListActive       ListFlags = 1 << 0
	ListInactive     ListFlags = 1 << 1
	ListPersistent   ListFlags = 1 << 2
	ListTransient    ListFlags = 1 << 3
	ListRunning      ListFlags = 1 << 4
	ListPaused       ListFlags = 1 << 5
	ListShutoff      ListFlags = 1 << 6
	ListOther        ListFlags = 1 << 7
	ListCheckpoint   ListFlags = 1 << 14 // has one
	ListNoCheckpoint ListFlags = 1 << 15
)

// ListDomains returns the domains that flags choose, all of them for 0.
func (c *Conn) ListDomains(ctx context.Context, flags ListFlags) (list []Domain, err error) {
	err = c.call(ctx, procListAllDomains, "", args().u32(1).u32(uint32(flags)), func(d *decoder) {
		for range d.count(16384, minDomain) {
			list = append(list, d.domain())
		}
		d.u32()
	})
	return list, err
}

// LookupByName finds a domain by its name; ErrNoDomain.
func (c *Conn) LookupByName(ctx context.Context, name string) (dom Domain, err error) {
	err = c.call(ctx, procDomainLookupByName, name, args().str(name), func(d *decoder) { dom = d.domain() })
	return dom, err
}

// LookupByUUID finds a domain by its UUID; ErrNoDomain.
func (c *Conn) LookupByUUID(ctx context.Context, uuid UUID) (dom Domain, err error) {
	err = c.call(ctx, procDomainLookupByUUID, uuid.String(), args().uuid(uuid), func(d *decoder) { dom = d.domain() })
	return dom, err
}

// State is what a domain is doing: virDomainState.
type State int

const (
	StateNone        State = 0
	StateRunning     State = 1
	StateBlocked     State = 2
	StatePaused      State = 3
	StateShutdown    State = 4 // on its way
	StateShutoff     State = 5
	StateCrashed     State = 6
	StatePMSuspended State = 7 // by its guest
)

func (s State) String() string {
	names := [...]string{"no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended"}
	if s >= 0 && int(s) < len(names) {
		return names[s]
	}
	return "state " + strconv.Itoa(int(s))
}

// Reasons for StatePaused that callers tell apart. There are more.
const (
	PausedUser       = 1
	PausedMigration  = 2
	PausedSave       = 3
	PausedIOError    = 5
	PausedSnapshot   = 9
	PausedStartingUp = 11
)

// DomainState returns the state of a domain and the reason for it, whose
// meaning depends on the state.
func (c *Conn) DomainState(ctx context.Context, dom Domain) (s State, reason int, err error) {
	err = c.call(ctx, procDomainState, dom.Name, args().domain(dom).u32(0), func(d *decoder) {
		s, reason = State(d.i32()), d.i32()
	})
	return s, reason, err
}

// XMLFlags choose what XML of a domain to get.
type XMLFlags uint32

const (
	XMLSecure     XMLFlags = 1 << 0 // with passwords
	XMLInactive   XMLFlags = 1 << 1 // of the next start, not of this run
	XMLUpdateCPU  XMLFlags = 1 << 2
	XMLMigratable XMLFlags = 1 << 3
)

// XMLDesc returns the XML of a domain.
func (c *Conn) XMLDesc(ctx context.Context, dom Domain, flags XMLFlags) (xml string, err error) {
	err = c.call(ctx, procDomainXMLDesc, dom.Name, args().domain(dom).u32(uint32(flags)), func(d *decoder) { xml = d.str() })
	return xml, err
}

// BlockInfo is the size of a disk, in bytes.
type BlockInfo struct {
	Capacity   int64 // as the guest sees it
	Allocation int64 // written by the guest, as far as is known
	Physical   int64 // of the file or device
}

// BlockInfo returns the size of a disk, which is named by its target (vda) or
// the path of its source.
func (c *Conn) BlockInfo(ctx context.Context, dom Domain, disk string) (i BlockInfo, err error) {
	err = c.call(ctx, procDomainBlockInfo, dom.Name, args().domain(dom).str(disk).u32(0), func(d *decoder) {
		i.Allocation, i.Capacity, i.Physical = d.size(), d.size(), d.size()
	})
	return i, err
}

// DefineFlags change DefineXML.
type DefineFlags uint32

// DefineValidate has the XML checked against its schema.
const DefineValidate DefineFlags = 1 << 0

// DefineXML makes a domain persistent, or changes the definition of the one
// with the same name and UUID. If only one of them is another domain's:
// ErrOperationFailed.
func (c *Conn) DefineXML(ctx context.Context, xml string, flags DefineFlags) (dom Domain, err error) {
	err = c.call(ctx, procDomainDefineXML, "", args().str(xml).u32(uint32(flags)), func(d *decoder) { dom = d.domain() })
	return dom, err
}

// UndefineFlags tell what to do with what a domain leaves behind. Without the
// flag for something that is there, a domain that is not active stays defined:
// ErrOperationInvalid.
type UndefineFlags uint32

const (
	UndefineManagedSave UndefineFlags = 1 << 0 // remove the saved state
	UndefineSnapshots   UndefineFlags = 1 << 1 // forget snapshots; their data stay
	UndefineNVRAM       UndefineFlags = 1 << 2 // remove the NVRAM file
	UndefineKeepNVRAM   UndefineFlags = 1 << 3 // keep it
	UndefineCheckpoints UndefineFlags = 1 << 4 // forget checkpoints; their bitmaps stay
	UndefineTPM         UndefineFlags = 1 << 5 // remove the TPM's state
	UndefineKeepTPM     UndefineFlags = 1 << 6 // keep it
)

// Undefine removes the definition of a domain. One that is active becomes
// transient: it vanishes, whatever it leaves behind, when it ends.
func (c *Conn) Undefine(ctx context.Context, dom Domain, flags UndefineFlags) error {
	return c.call(ctx, procDomainUndefine, dom.Name, args().domain(dom).u32(uint32(flags)), nil)
}

// StartFlags change Start.
type StartFlags uint32

const (
	StartPaused     StartFlags = 1 << 0
	StartForceBoot  StartFlags = 1 << 3 // drop a saved state
	StartResetNVRAM StartFlags = 1 << 5
)

// Start boots a defined domain, or restores its saved state. The domain that
// it returns has the id of this run. If it is active: ErrOperationInvalid.
func (c *Conn) Start(ctx context.Context, dom Domain, flags StartFlags) (started Domain, err error) {
	err = c.call(ctx, procDomainCreate, dom.Name, args().domain(dom).u32(uint32(flags)), func(d *decoder) { started = d.domain() })
	return started, err
}

// ShutdownFlags choose ways to ask the guest; 0 leaves the choice to libvirt.
type ShutdownFlags uint32

const (
	ShutdownACPI  ShutdownFlags = 1 << 0
	ShutdownAgent ShutdownFlags = 1 << 1
)

// Shutdown asks the guest to power off and does not wait for it.
func (c *Conn) Shutdown(ctx context.Context, dom Domain, flags ShutdownFlags) error {
	return c.call(ctx, procDomainShutdown, dom.Name, args().domain(dom).u32(uint32(flags)), nil)
}

// DestroyFlags change Destroy.
type DestroyFlags uint32

// DestroyGraceful only asks QEMU to end; if it does not: ErrResourceBusy.
const DestroyGraceful DestroyFlags = 1 << 0

// Destroy cuts the domain's power. A transient domain is gone then.
func (c *Conn) Destroy(ctx context.Context, dom Domain, flags DestroyFlags) error {
	return c.call(ctx, procDomainDestroy, dom.Name, args().domain(dom).u32(uint32(flags)), nil)
}

// Suspend pauses a domain's CPUs.
func (c *Conn) Suspend(ctx context.Context, dom Domain) error {
	return c.call(ctx, procDomainSuspend, dom.Name, args().domain(dom), nil)
}

// Resume lets a paused domain run.
func (c *Conn) Resume(ctx context.Context, dom Domain) error {
	return c.call(ctx, procDomainResume, dom.Name, args().domain(dom), nil)
}

// HasManagedSave tells whether the next start of a domain restores a saved
// state instead of booting.
func (c *Conn) HasManagedSave(ctx context.Context, dom Domain) (has bool, err error) {
	err = c.call(ctx, procDomainHasManagedSave, dom.Name, args().domain(dom).u32(0), func(d *decoder) { has = d.i32() > 0 })
	return has, err
}

// Limits for AgentCommand that are not seconds.
const (
	AgentBlock   = -2 // wait for ever: the call keeps its place until the guest answers
	AgentDefault = -1 // libvirt's, 5 seconds
	AgentNoWait  = 0  // send, and do not wait for the answer
)

// AgentCommand sends a JSON command to the guest agent and returns its JSON
// answer, {"return": …}. limit is in seconds, or one of the constants above.
// Without an agent, or an answer in time: ErrAgentUnresponsive. If the domain
// does not run, also because it is paused: ErrOperationInvalid. An error that
// the agent answers with is ErrInternal, with the agent's text.
func (c *Conn) AgentCommand(ctx context.Context, dom Domain, command string, limit int) (answer string, err error) {
	a := args().domain(dom).str(command).i32(limit).u32(0)
	err = c.call(ctx, procAgentCommand, dom.Name, a, func(d *decoder) { answer = d.opt() })
	return answer, err
}

// MonitorFlags change MonitorCommand.
type MonitorFlags uint32

// MonitorHMP sends a command of the human monitor instead of QMP.
const MonitorHMP MonitorFlags = 1 << 0

// MonitorCommand sends a JSON command to QEMU's monitor and returns its JSON
// answer, be it {"return": …} or {"error": …}. libvirt marks the domain as
// tainted; commands that change something behind its back confuse it.
func (c *Conn) MonitorCommand(ctx context.Context, dom Domain, command string, flags MonitorFlags) (answer string, err error) {
	a := args().domain(dom).str(command).u32(uint32(flags))
	err = c.call(ctx, procMonitorCommand, dom.Name, a, func(d *decoder) { answer = d.str() })
	return answer, err
}
