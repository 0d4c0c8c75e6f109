package agent

import (
	"errors"

	"cairn/blockstore/block"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// snapshotError marks an error of taking the snapshot.
type snapshotError struct{ err error }

func (e snapshotError) Error() string { return "take snapshot: " + e.err.Error() }
func (e snapshotError) Unwrap() error { return e.err }

// reasonError is an error whose reason is known where it comes up.
type reasonError struct {
	reason cairnv1.ErrorReason
	remedy string
	err    error
}

func (e reasonError) Error() string { return e.err.Error() }
func (e reasonError) Unwrap() error { return e.err }

// problems gives errors of a source their published reason and a remedy. The
// first that fits counts: an error can wrap several.
var problems = []struct {
	err    error
	reason cairnv1.ErrorReason
	remedy string
}{
	{source.ErrMachineNotFound, cairnv1.ErrorReason_ERROR_REASON_MACHINE_GONE,
		"Bring the machine back, or stop its protection."},
	{source.ErrToolMissing, cairnv1.ErrorReason_ERROR_REASON_TOOL_MISSING,
		"Install the package on the agent's host and retry the job."},
	{source.ErrSnapshotLost, cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_LOST,
		"Retry the job when the machine stays on, or off, for as long as a backup takes, and nobody ends the hypervisor's backup job."},
	{source.ErrSnapshotSpace, cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_SPACE,
		"Free space on the host's file system that is named, where the snapshot keeps what the guest overwrites, and retry the job."},
	{source.ErrHypervisor, cairnv1.ErrorReason_ERROR_REASON_HYPERVISOR_UNREACHABLE,
		"Start the hypervisor's service on the host (libvirtd), see that the agent may use its socket, and retry the job."},
	{source.ErrTargetExists, cairnv1.ErrorReason_ERROR_REASON_RESTORE_TARGET_EXISTS,
		"Restore under another name or to another directory, or remove what is there. Nothing was overwritten."},
	{source.ErrNoSpace, cairnv1.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL,
		"Free space on the file system that is named, or restore to another directory."},
	{source.ErrRestoreUnsupported, cairnv1.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED,
		"Restore the disks only, or on a host whose agent runs with --libvirt."},
	{source.ErrMachineState, cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE,
		"Bring the machine into the state that is asked for, start, resume or stop it, and retry the job."},
	{source.ErrTruncated, cairnv1.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, checkImage},
	{source.ErrCorrupt, cairnv1.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, checkImage},
	{source.ErrUnusable, cairnv1.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE, checkImage},
	{source.ErrInUse, cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE,
		"Stop whatever has the image open for writing, and retry the job."},
	{source.ErrDisconnected, cairnv1.ErrorReason_ERROR_REASON_TRANSFER_FAILED,
		"See that the hypervisor's service runs on the host, and retry the job: blocks that were sent are not sent again."},
}

const checkImage = "Check the image with qemu-img check, repair or replace it, and retry the job. Points made before are not affected."

// problem says why a job failed and what to do about it. Errors of the server
// keep their reason.
func problem(err error) *cairnv1.Problem {
	p := &cairnv1.Problem{Reason: client.Reason(err), Message: err.Error(), Metadata: client.Metadata(err)}
	if p.Reason != cairnv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		p.Message = client.Message(err)
		if p.Reason == cairnv1.ErrorReason_ERROR_REASON_STORE_FULL {
			p.Remedy = "Free space on the server's disk, or move the vault to a larger one, and retry the job. Nothing that was backed up before is affected."
		}
		return p
	}
	var low *source.ConsistencyError
	var known reasonError
	var snap snapshotError
	switch {
	case errors.Is(err, errStopped):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_INTERRUPTED
		p.Message = "the agent was stopped in the middle of the job"
		p.Remedy = "Retry the job when the agent runs again: what a backup has sent is not sent again."
		return p
	case errors.As(err, &low):
		tooLow(p, low)
		return p
	case errors.As(err, &known):
		p.Reason, p.Remedy = known.reason, known.remedy
		return p
	}
	for _, k := range problems {
		if errors.Is(err, k.err) {
			p.Reason, p.Remedy = k.reason, k.remedy
			return p
		}
	}
	switch {
	case errors.As(err, &snap):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED
		p.Remedy = "See the message; then retry the job."
	case errors.Is(err, block.ErrCorrupt):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_DATA_CORRUPT
		p.Remedy = "Verify the item's recovery points, and check the disk that holds the vault."
	case client.Transient(err):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_TRANSFER_FAILED
		p.Message = client.Message(err)
		p.Remedy = "See that the server runs and can be reached, and retry the job: what a backup has sent is not sent again."
	default:
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_TRANSFER_FAILED
		p.Remedy = "See the message; then retry the job."
	}
	return p
}

// tooLow describes a snapshot that would be less consistent than it must be.
// The metadata holds the names of the API's values.
func tooLow(p *cairnv1.Problem, e *source.ConsistencyError) {
	p.Reason, p.Message = cairnv1.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW, e.Error()
	p.Metadata = map[string]string{"reached": consistency(e.Reached).String(), "wanted": consistency(e.Wanted).String()}
	if len(e.Causes) == 0 {
		p.Remedy = "Start the machine, or allow less by the minimum consistency of its item or policy, and retry the job."
		return
	}
	cause := warningReason(e.Causes[0].Kind)
	p.Metadata["cause"] = cause.String()
	p.Remedy = warningRemedy(cause)
}

// warningRemedy says what to do about a warning of a reason.
func warningRemedy(r cairnv1.ErrorReason) string {
	switch r {
	case cairnv1.ErrorReason_ERROR_REASON_GUEST_AGENT_UNAVAILABLE:
		return "Install and start qemu-guest-agent in the guest, and give the machine the channel org.qemu.guest_agent.0."
	case cairnv1.ErrorReason_ERROR_REASON_FREEZE_FAILED:
		return "Look into the guest's log for what keeps its file systems from freezing: a hook of fsfreeze that fails, or a program that freezes them too."
	case cairnv1.ErrorReason_ERROR_REASON_VSS_WRITER_FAILED:
		return "Run vssadmin list writers in the guest and restart the service of the writer that failed."
	case cairnv1.ErrorReason_ERROR_REASON_GUEST_UNSUPPORTED:
		return "Restore a point to see whether this guest copes; Linux with an agent, and Windows from Server 2008 R2, are supported."
	case cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE:
		return "Resume, start or shut down the machine before the next backup."
	case cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET:
		return "Nothing: the point is complete, and the next backup reads only changes again. If it happens every time, look for what resets the tracking on the host."
	case cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_LOST:
		return "Nothing, if the machine was meant to be stopped or started during its backup."
	case cairnv1.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED:
		return "See whether the disk was meant to be removed or made smaller. Earlier points still have it as it was."
	case cairnv1.ErrorReason_ERROR_REASON_IMAGE_CHANGED:
		return "Back up while nothing writes to the image, or through libvirt."
	case cairnv1.ErrorReason_ERROR_REASON_MACHINE_GONE:
		return "Nothing: the machine is made anew from the point."
	case cairnv1.ErrorReason_ERROR_REASON_RESTORE_ADJUSTED:
		return "See whether the machine can do with that, and change its definition if it cannot."
	}
	return ""
}

// warningReason is the published reason of a source's warning.
func warningReason(k source.WarningKind) cairnv1.ErrorReason {
	switch k {
	case source.WarnAgent:
		return cairnv1.ErrorReason_ERROR_REASON_GUEST_AGENT_UNAVAILABLE
	case source.WarnFreeze:
		return cairnv1.ErrorReason_ERROR_REASON_FREEZE_FAILED
	case source.WarnVSS:
		return cairnv1.ErrorReason_ERROR_REASON_VSS_WRITER_FAILED
	case source.WarnGuest:
		return cairnv1.ErrorReason_ERROR_REASON_GUEST_UNSUPPORTED
	case source.WarnMachineState:
		return cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE
	case source.WarnTracking:
		return cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET
	case source.WarnRestore:
		return cairnv1.ErrorReason_ERROR_REASON_RESTORE_ADJUSTED
	}
	return cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED
}
