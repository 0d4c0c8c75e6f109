package server

import (
	pb "cairn/proto/cairn/v1"
)

// remedies say what to do about what a job met, for a person. They are the
// answer of last resort: an agent that knows more says it itself.
var remedies = map[pb.ErrorReason]string{
	// The vault.
	pb.ErrorReason_ERROR_REASON_STORE_FULL:        "Make room on the disk that holds the vault, then retry the job.",
	pb.ErrorReason_ERROR_REASON_STORE_READ_ONLY:   "See that the server can write to the vault's directory, then retry the job.",
	pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE: "See that the server can read and write the vault's directory, then retry the job.",
	pb.ErrorReason_ERROR_REASON_STORE_LOCKED:      "Stop the other process that has the vault open, then retry the job.",
	pb.ErrorReason_ERROR_REASON_STORE_TOO_NEW:     "Upgrade the server to the version that wrote the vault.",
	pb.ErrorReason_ERROR_REASON_DATA_CORRUPT:      "Verify the item's recovery points, and check the disk that holds the vault. Restore from a point that verifies.",
	pb.ErrorReason_ERROR_REASON_BLOCK_MISSING:     "Verify the item's recovery points, and check the disk that holds the vault. Restore from a point that verifies.",

	// Resources that a job needs.
	pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND:        "Look for the machine with cairn machine list; if its host was renamed, protect it anew.",
	pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND:           "Start the agent on that host, or name another host.",
	pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND: "List the item's recovery points and choose one that is there.",
	pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND:           "Show the recovery point and name disks that it has.",
	pb.ErrorReason_ERROR_REASON_PROTECTION_STOPPED:       "Resume the protection of the machine, then retry the job.",

	// Hosts, agents and jobs.
	pb.ErrorReason_ERROR_REASON_AGENT_UNREACHABLE:   "See that the agent runs on the host and reaches the server, then retry the job.",
	pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST:      "See that only one agent runs for the host and that it reaches the server steadily, then retry the job.",
	pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS:  "Wait for the other backup or restore of this machine, or cancel it, then retry the job.",
	pb.ErrorReason_ERROR_REASON_CANCELLED:           "Retry the job if it was cancelled by mistake.",
	pb.ErrorReason_ERROR_REASON_INTERRUPTED:         "Start it again; blocks that were sent already are not sent twice.",
	pb.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS: "Wait for the end of the reclaim that is under way.",

	// The guest.
	pb.ErrorReason_ERROR_REASON_GUEST_AGENT_UNAVAILABLE: "Install and start qemu-guest-agent in the guest, and give the machine a channel for it (org.qemu.guest_agent.0).",
	pb.ErrorReason_ERROR_REASON_FREEZE_FAILED:           "Look into the guest's logs for what keeps its file systems from freezing: the hooks of fsfreeze, a file system that hangs, or one too busy to be flushed within the limit. The limit is the agent's --freeze-limit.",
	pb.ErrorReason_ERROR_REASON_VSS_WRITER_FAILED:       "Run vssadmin list writers in the guest; restart the service of the writer that is not stable, or the guest.",
	pb.ErrorReason_ERROR_REASON_GUEST_UNSUPPORTED:       "Check that the guest works once it is restored: the consistency of its files is not known for this system.",
	pb.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW:     "Make the guest able to do better (see that its agent runs and freezes), or lower the minimum consistency that the policy or the item demands, then retry the job.",

	// The machine and its snapshot.
	pb.ErrorReason_ERROR_REASON_MACHINE_STATE:          "Resume or start the machine, or shut it down cleanly, then retry the job. A restore in place needs it shut down, or leave to stop it (--stop).",
	pb.ErrorReason_ERROR_REASON_MACHINE_GONE:           "Bring the machine back, for example by restoring it from its newest point, or stop its protection.",
	pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED:        "Retry the job; if it fails again, the logs of the hypervisor and of the agent on the host say more.",
	pb.ErrorReason_ERROR_REASON_SNAPSHOT_LIMIT:         "End other backup jobs of the machine on its host and remove snapshots and checkpoints that nobody needs, then retry the job.",
	pb.ErrorReason_ERROR_REASON_SNAPSHOT_LOST:          "Retry the job while the machine is neither stopped nor started, and let nobody end its backup job on the host; blocks that were sent already are not sent twice.",
	pb.ErrorReason_ERROR_REASON_SNAPSHOT_SPACE:         "Make room on the host for what the guest overwrites during its backup, or give the agent a larger --state directory, then retry the job.",
	pb.ErrorReason_ERROR_REASON_HYPERVISOR_UNREACHABLE: "See that the hypervisor's service runs on the host (systemctl status libvirtd), or that the machine's monitor socket is there, then retry the job.",
	pb.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET:  "Nothing need be done: everything was read, and the next backup is incremental again. If it comes with every backup, see who removes the machine's checkpoints.",
	pb.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED:    "Check that the change was meant. A disk that must not be backed up can be excluded from the item.",
	pb.ErrorReason_ERROR_REASON_DISK_TOO_LARGE:         "Exclude the disk from the item, or protect the machine in a vault with larger blocks.",
	pb.ErrorReason_ERROR_REASON_DISK_LOCKED:            "Unlock the disk on the host, or exclude it from the item.",
	pb.ErrorReason_ERROR_REASON_KEY_UNAVAILABLE:        "Make the key available to the host.",
	pb.ErrorReason_ERROR_REASON_QUOTA_DENIED:           "Raise the quota that is named, or remove what takes it up, then retry the job.",
	pb.ErrorReason_ERROR_REASON_TRANSFER_FAILED:        "See that the host reaches the server, then retry the job; it goes on where it stopped.",
	pb.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE:       "Check the disk image with qemu-img check; restore it from a recovery point if it is damaged.",
	pb.ErrorReason_ERROR_REASON_IMAGE_CHANGED:          "Back up while nothing writes to the image, or through libvirt.",
	pb.ErrorReason_ERROR_REASON_TOOL_MISSING:           "Install the package that is named, on the host.",

	// Restores.
	pb.ErrorReason_ERROR_REASON_RESTORE_TARGET_EXISTS: "Choose another name or directory, or remove what is there.",
	pb.ErrorReason_ERROR_REASON_RESTORE_TARGET_FULL:   "Make room at the target, or choose another directory on a larger file system.",
	pb.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED:   "Restore the disks instead (cairn restore disk), and make a machine of them by hand.",
	pb.ErrorReason_ERROR_REASON_RESTORE_ADJUSTED:      "See whether the machine can do with what was changed, and edit its definition if it cannot.",
	pb.ErrorReason_ERROR_REASON_REGION_MISMATCH:       "Choose a host in the vault's region.",
}

// remedy says what to do about a job that failed for a reason, or warned of it.
func remedy(r pb.ErrorReason) string {
	if text, ok := remedies[r]; ok {
		return text
	}
	return "Retry the job; if it fails again, the logs of the agent and of the server say more."
}

// fillRemedies gives those a remedy that came without. p may be nil.
func fillRemedies(p *pb.Problem, ws []*pb.Warning) {
	if p != nil && p.Remedy == "" {
		p.Remedy = remedy(p.Reason)
	}
	for _, w := range ws {
		if w == nil || w.Remedy != "" {
			continue
		}
		if w.Remedy = remedy(w.Reason); w.Reason == pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED {
			// Of a job that went on all the same it means whatever has no reason of
			// its own.
			w.Remedy = "The job went on; see to what the message says."
		}
	}
}
