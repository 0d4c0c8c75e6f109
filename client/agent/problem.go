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

// problem says why a job failed and what to do about it. Errors of the server
// keep their reason.
func problem(err error) *cairnv1.Problem {
	p := &cairnv1.Problem{Reason: client.Reason(err), Message: err.Error(), Metadata: client.Metadata(err)}
	var snap snapshotError
	switch {
	case p.Reason != cairnv1.ErrorReason_ERROR_REASON_UNSPECIFIED:
		p.Message = client.Message(err)
		if p.Reason == cairnv1.ErrorReason_ERROR_REASON_STORE_FULL {
			p.Remedy = "Free space on the server's disk, or move the vault to a larger one, and retry the job. Nothing that was backed up before is affected."
		}
	case errors.Is(err, errStopped):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_INTERRUPTED
		p.Message = "the agent was stopped in the middle of the job"
		p.Remedy = "Retry the job when the agent runs again: blocks that were sent are not sent again."
	case errors.Is(err, source.ErrMachineNotFound):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_MACHINE_GONE
		p.Remedy = "Bring the machine back, or stop its protection."
	case errors.Is(err, source.ErrToolMissing):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_TOOL_MISSING
		p.Remedy = "Install the package on the agent's host and retry the job."
	case errors.Is(err, source.ErrTruncated), errors.Is(err, source.ErrCorrupt), errors.Is(err, source.ErrUnusable):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE
		p.Remedy = "Check the image with qemu-img check, repair or replace it, and retry the job. Points made before are not affected."
	case errors.Is(err, source.ErrInUse):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE
		p.Remedy = "Stop whatever has the image open for writing, and retry the job."
	case errors.As(err, &snap):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED
		p.Remedy = "See the message; then retry the job."
	case errors.Is(err, block.ErrCorrupt):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_DATA_CORRUPT
		p.Remedy = "Verify the newest recovery point."
	case client.Transient(err):
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_TRANSFER_FAILED
		p.Message = client.Message(err)
		p.Remedy = "See that the server runs and can be reached, and retry the job: blocks that were sent are not sent again."
	default:
		p.Reason = cairnv1.ErrorReason_ERROR_REASON_TRANSFER_FAILED
		p.Remedy = "See the message; then retry the job."
	}
	return p
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
	}
	return cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED
}
