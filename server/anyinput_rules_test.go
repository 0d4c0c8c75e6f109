package server

// tolerated has the fields that take values which hardly any field of their kind
// takes, by the words that the test has for these values. "any" is a field that is
// not read: what is output only, or not in an update's mask. "above" is one for
// which the answer may name what the field is in. A field goes by message and name;
// or by RPC and path, and then all below it does as well.
var tolerated = map[string]string{
	// Output only, or not to be changed.
	"Vault.uid": "any", "Vault.state": "any", "Vault.protected_item_count": "any", "Vault.create_time": "any", "Vault.update_time": "any",
	"CreateVault vault.problem": "any", "CreateVault vault.name": "any", "CreateVault vault.etag": "any",
	"UpdateVault vault.problem": "any", "UpdateVault vault.region": "any", "UpdateVault vault.block_size": "any",
	"Policy.uid": "any", "Policy.protected_item_count": "any", "Policy.create_time": "any", "Policy.update_time": "any", "Policy.schedule_update_time": "any",
	"CreatePolicy policy.name": "any", "CreatePolicy policy.etag": "any", "PreviewPolicy policy.name": "any", "PreviewPolicy policy.etag": "any",
	"Host.name": "any", "Host.uid": "any", "Host.state": "any", "Host.last_seen_time": "any", "Host.create_time": "any", "Host.machine_count": "any",
	"Machine.protected_item": "any", "Machine.last_seen_time": "any",
	"ProtectedItem.uid": "any", "ProtectedItem.protection_state": "any", "ProtectedItem.last_backup_status": "any",
	"ProtectedItem.last_backup_status_text": "any", "ProtectedItem.health": "any", "ProtectedItem.health_detail": "any",
	"ProtectedItem.last_backup_time": "any", "ProtectedItem.last_backup_job": "any", "ProtectedItem.latest_recovery_point": "any",
	"ProtectedItem.recovery_point_count": "any", "ProtectedItem.protected_bytes": "any", "ProtectedItem.delete_time": "any",
	"ProtectedItem.purge_time": "any", "ProtectedItem.create_time": "any", "ProtectedItem.update_time": "any",
	"ProtectedItem.next_backup_time": "any", "ProtectedItem.schedule_since_time": "any", "ProtectedItem.billing_start_time": "any",
	"ProtectMachine protected_item.name": "any", "ProtectMachine protected_item.etag": "any", "UpdateProtectedItem protected_item.machine": "any",

	// Pages are cut to the largest size.
	"ListVaultsRequest.page_size": "largest", "ListPoliciesRequest.page_size": "largest", "ListHostsRequest.page_size": "largest",
	"ListMachinesRequest.page_size": "largest", "ListProtectedItemsRequest.page_size": "largest", "ListJobsRequest.page_size": "largest",
	"ListRecoveryPointsRequest.page_size": "largest", "ListAuditRecordsRequest.page_size": "largest",

	// A vault or all of a subscription; whatever resource.
	"ListJobsRequest.parent": "names subscriptions", "WatchJobsRequest.parent": "names subscriptions", "AuditFilter.resource": "names",
	// A set: twice is once.
	"JobFilter.states": "twice", "JobFilter.operations": "twice", "Host.sources": "twice",
	// Revisions that never were answer OUT_OF_RANGE.
	"WatchJobsRequest.after_revision": "largest",
	// The hypervisor's id is whatever the hypervisor makes of it.
	"Machine.hypervisor_id": "capitals, slash, digit, hyphen, characters, dots",

	// Sizes and counts as they come from a host; -1 where something is not known.
	"MachineDisk.size": "largest", "MachineDisk.allocated": "largest, negative", "UploadDisk.size": "largest",
	"JobTask.total_bytes": "largest", "JobTask.done_bytes": "largest",
	"JobStats.disk_bytes": "largest", "JobStats.allocated_bytes": "largest", "JobStats.read_bytes": "largest", "JobStats.new_bytes": "largest",
	"JobStats.sent_bytes": "largest", "JobStats.changed_blocks": "largest", "JobStats.new_blocks": "largest", "JobStats.bad_blocks": "largest",
	"JobStats.tracked_bytes": "largest", "JobStats.sampled_bytes": "largest", "JobStats.garbage_blocks": "largest",
	"JobStats.garbage_bytes": "largest", "JobStats.reclaimed_bytes": "largest",
	// The variables of a message may have any names.
	"Problem.metadata": "an empty key", "Warning.metadata": "an empty key",

	// What is wrong with a map is told of the run, or of the map.
	"DiskMapRun.first_block": "above", "DiskMapRun.zero_blocks": "above", "DiskMapRun.digests": "above",
	"CommitUploadRequest.root_digests": "twice", // two disks may hold the same
	// All that is sent at once is too large, not one of its blocks.
	"Block.stored": "above",
}

// required has the fields that must be given, by RPC and path.
var required = map[string]bool{}
