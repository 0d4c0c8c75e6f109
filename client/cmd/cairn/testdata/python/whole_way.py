#!/usr/bin/python3
"""Drives all of Cairn from Python: makes a vault, protects a machine, backs it
up, follows the job, and reads the disk back.

    whole_way.py unix:/var/lib/cairn/cairnd.sock MACHINE IMAGE

MACHINE is one that an agent has found, with one disk; IMAGE is its raw image,
against which the bytes that come back are checked.
"""

import hashlib
import sys
import uuid

from cairn_client import Cairn, v1

address, machine_id, image = sys.argv[1:]
cairn = Cairn(address)
subscription = "subscriptions/default"

# A vault, a policy in it, and the machine.
vault = cairn.vaults.CreateVault(v1.CreateVaultRequest(
    parent=subscription, vault_id="python", vault=v1.Vault(display_name="made from Python"),
    request_id=str(uuid.uuid4()))).vault
policy = cairn.policies.CreatePolicy(v1.CreatePolicyRequest(
    parent=vault.name, policy_id="nightly", policy=v1.Policy(
        schedule=v1.Schedule(daily=v1.DailySchedule(time=v1.TimeOfDay(hours=22))),
        retention=v1.Retention(daily=v1.DailyRetention(days=30))))).policy
machines = cairn.hosts.ListMachines(v1.ListMachinesRequest(parent=subscription + "/hosts/-")).machines
machine = next(m for m in machines if m.name.endswith("/" + machine_id))
item = cairn.items.ProtectMachine(v1.ProtectMachineRequest(
    parent=vault.name, protected_item=v1.ProtectedItem(machine=machine.name, policy=policy.name))).protected_item
print("protected:", item.name, "-", item.last_backup_status_text)

# Back up now, and follow the job. Calls with a request_id can be repeated safely.
job = cairn.items.BackUp(v1.BackUpRequest(name=item.name, request_id=str(uuid.uuid4()))).job
for event in cairn.jobs.WatchJobs(v1.WatchJobsRequest(parent=vault.name), timeout=120):
    if event.job.name == job.name:
        job = event.job
        if job.state not in (v1.JOB_STATE_QUEUED, v1.JOB_STATE_IN_PROGRESS):
            break
if job.state != v1.JOB_STATE_COMPLETED:
    sys.exit(f"{v1.JobState.Name(job.state)}: {job.error.message} {job.error.remedy}")
print("backed up:", job.recovery_point, "-", job.stats.new_bytes, "new bytes")

# Restore: ReadDisk streams verified bytes. What it leaves out is zeros.
point = cairn.points.GetRecoveryPoint(v1.GetRecoveryPointRequest(name=job.recovery_point)).recovery_point
disk = point.disks[0]
back, at = hashlib.sha256(), 0
for piece in cairn.points.ReadDisk(v1.ReadDiskRequest(name=point.name, disk=disk.target, skip_zeros=True)):
    back.update(bytes(piece.offset - at))
    back.update(piece.data)
    at = piece.offset + len(piece.data)
back.update(bytes(disk.size - at))
with open(image, "rb") as f:
    want = hashlib.file_digest(f, "sha256")
if back.digest() != want.digest():
    sys.exit("the disk came back with other bytes")
print("read back:", disk.size, "bytes, sha256", back.hexdigest())
