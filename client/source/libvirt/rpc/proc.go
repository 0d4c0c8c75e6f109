package rpc

// proc is a procedure of one of libvirt's programs.
type proc struct {
	program, number uint32
	name            string // what it does, for error messages
}

// Procedures of the remote program.
var (
	procConnectOpen         = proc{remoteProgram, 1, "open connection"}
	procConnectClose        = proc{remoteProgram, 2, "close connection"}
	procConnectVersion      = proc{remoteProgram, 4, "get hypervisor version"}
	procConnectCapabilities = proc{remoteProgram, 7, "get capabilities"}
	procAuthList            = proc{remoteProgram, 66, "list authentication methods"}
	procAuthPolkit          = proc{remoteProgram, 70, "authenticate with polkit"}
	procConnectLibVersion   = proc{remoteProgram, 157, "get libvirt version"}
	procListAllDomains      = proc{remoteProgram, 273, "list domains"}
	procRegisterEvent       = proc{remoteProgram, 316, "register for events"}

	procDomainXMLDesc        = proc{remoteProgram, 14, "get XML of domain"}
	procDomainLookupByName   = proc{remoteProgram, 23, "look up domain"}
	procDomainLookupByUUID   = proc{remoteProgram, 24, "look up domain by UUID"}
	procDomainResume         = proc{remoteProgram, 28, "resume domain"}
	procDomainSuspend        = proc{remoteProgram, 34, "suspend domain"}
	procDomainAbortJob       = proc{remoteProgram, 164, "abort job of domain"}
	procDomainHasManagedSave = proc{remoteProgram, 183, "look for saved state of domain"}
	procDomainBlockInfo      = proc{remoteProgram, 194, "get disk information of domain"}
	procDomainCreate         = proc{remoteProgram, 196, "start domain"}
	procDomainState          = proc{remoteProgram, 212, "get state of domain"}
	procDomainUndefine       = proc{remoteProgram, 231, "undefine domain"}
	procDomainDestroy        = proc{remoteProgram, 234, "destroy domain"}
	procDomainShutdown       = proc{remoteProgram, 258, "shut down domain"}
	procDomainJobStats       = proc{remoteProgram, 298, "get job statistics of domain"}
	procDomainDefineXML      = proc{remoteProgram, 350, "define domain"}

	procBlockJobAbort = proc{remoteProgram, 237, "end block job of domain"}
	procBlockJobInfo  = proc{remoteProgram, 238, "get block job of domain"}
	procBlockPull     = proc{remoteProgram, 240, "pull disk of domain"}
	procBlockRebase   = proc{remoteProgram, 266, "rebase disk of domain"}

	procCheckpointCreateXML = proc{remoteProgram, 411, "create checkpoint of domain"}
	procCheckpointXMLDesc   = proc{remoteProgram, 412, "get XML of checkpoint"}
	procCheckpointListAll   = proc{remoteProgram, 413, "list checkpoints of domain"}
	procCheckpointLookup    = proc{remoteProgram, 415, "look up checkpoint of domain"}
	procCheckpointDelete    = proc{remoteProgram, 417, "delete checkpoint"}
	procBackupBegin         = proc{remoteProgram, 421, "begin backup of domain"}
	procBackupXMLDesc       = proc{remoteProgram, 422, "get XML of backup of domain"}

	procPoolLookupByName = proc{remoteProgram, 84, "look up storage pool"}
	procVolLookupByName  = proc{remoteProgram, 95, "look up storage volume"}
	procVolPath          = proc{remoteProgram, 100, "get path of storage volume"}
)

// Procedures of the QEMU program.
var (
	procMonitorCommand = proc{qemuProgram, 1, "send monitor command to domain"}
	procAgentCommand   = proc{qemuProgram, 3, "send agent command to domain"}
)

// Messages of the remote program that tell of events.
const (
	msgLifecycle     = 318
	msgDeviceRemoved = 333
	msgBlockJob      = 339
	msgAgent         = 348
	msgDeviceAdded   = 354
	msgJobCompleted  = 363
)
