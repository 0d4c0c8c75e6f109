#!/usr/bin/python3
"""The whole way through Cairn from Python: a vault, a policy, a protected machine,
a backup, and its disk read back.

    whole_way.py 127.0.0.1:7401 MACHINE IMAGE

MACHINE is one that an agent has found, with one disk; IMAGE is its raw image, with
which the bytes that come back are compared. See cairn_client.py for what it needs.
"""

import hashlib
import sys
import uuid

import grpc

from cairn_client import Cairn, details, reason, v1

address, machine_id, image = sys.argv[1:]
cairn = Cairn(address)
subscription = "subscriptions/default"
vault = subscription + "/vaults/python"


def say(*words):
    print(*words, flush=True)


# A vault. Errors are told apart by their reason. A call with a request_id can be
# repeated: it happens once.
try:
    cairn.vaults.GetVault(v1.GetVaultRequest(name=vault))
except grpc.RpcError as e:
    if reason(e) != "VAULT_NOT_FOUND":
        raise
    say("VAULT_NOT_FOUND:", details(e)[0].metadata["name"])
    cairn.vaults.CreateVault(v1.CreateVaultRequest(
        parent=subscription, vault_id="python", vault=v1.Vault(display_name="made from Python"),
        request_id=str(uuid.uuid4())))

# A policy, at first with a mistake: the error names the field and the rule.
request = v1.CreatePolicyRequest(parent=vault, policy_id="nightly", policy=v1.Policy(
    schedule=v1.Schedule(time_zone="Europe/Berlin", daily=v1.DailySchedule(time=v1.TimeOfDay(hours=25))),
    retention=v1.Retention(daily=v1.DailyRetention(days=30))))
try:
    cairn.policies.CreatePolicy(request)
except grpc.RpcError as e:
    if reason(e) != "INVALID_FIELD":
        raise
    for field, rule in details(e)[1].items():
        say("INVALID_FIELD:", field, rule)
    request.policy.schedule.daily.time.hours = 22
    policy = cairn.policies.CreatePolicy(request).policy

# The machine under that policy. It can be protected once.
machines = cairn.hosts.ListMachines(v1.ListMachinesRequest(parent=subscription + "/hosts/-")).machines
machine = next(m for m in machines if m.name.endswith("/" + machine_id))
request = v1.ProtectMachineRequest(
    parent=vault, protected_item=v1.ProtectedItem(machine=machine.name, policy=policy.name))
item = cairn.items.ProtectMachine(request).protected_item
say("protected:", item.name, "-", item.last_backup_status_text)
try:
    cairn.items.ProtectMachine(request)
except grpc.RpcError as e:
    if reason(e) != "MACHINE_ALREADY_PROTECTED":
        raise
    say("MACHINE_ALREADY_PROTECTED:", details(e)[0].metadata["protected_item"])

# A backup, now. One at a time: the error names the job that is under way.
job = cairn.items.BackUp(v1.BackUpRequest(name=item.name, request_id=str(uuid.uuid4()))).job
try:
    cairn.items.BackUp(v1.BackUpRequest(name=item.name))
except grpc.RpcError as e:
    if reason(e) != "BACKUP_IN_PROGRESS":
        raise
    say("BACKUP_IN_PROGRESS:", details(e)[0].metadata["job"])


def follow(job):
    """Yields a job at every change, to its end. A stream that breaks is taken up
    behind the last revision that came, so that no change is missed."""
    revision = 0
    while True:
        try:
            watch = v1.WatchJobsRequest(parent=vault, after_revision=revision)
            for change in cairn.jobs.WatchJobs(watch, wait_for_ready=True):
                revision = change.revision
                if change.synced:
                    say("all that was there has come, up to revision", revision)
                if change.job.name == job.name:
                    yield change.job
                    if change.job.HasField("end_time"):
                        return
        except grpc.RpcError as e:
            if reason(e) == "REVISION_UNAVAILABLE":
                revision = 0  # too long ago: begin with the present jobs
            elif e.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            say("the watch broke off; going on behind revision", revision)


for job in follow(job):
    say("job:", v1.JobState.Name(job.state))
if job.state != v1.JOB_STATE_COMPLETED:
    sys.exit(f"{job.error.message} {job.error.remedy}")

# Its recovery point is the newest. ReadDisk streams bytes that were verified; what
# it leaves out is zeros.
points = cairn.points.ListRecoveryPoints(v1.ListRecoveryPointsRequest(parent=item.name)).recovery_points
assert points[0].name == job.recovery_point
disk = points[0].disks[0]
digest, at = hashlib.sha256(), 0
for part in cairn.points.ReadDisk(v1.ReadDiskRequest(name=points[0].name, disk=disk.target, skip_zeros=True)):
    digest.update(bytes(part.offset - at))
    digest.update(part.data)
    at = part.offset + len(part.data)
digest.update(bytes(disk.size - at))
with open(image, "rb") as f:
    if digest.digest() != hashlib.file_digest(f, "sha256").digest():
        sys.exit("the disk came back with other bytes")
say("read back:", points[0].name, disk.size, "bytes, sha256", digest.hexdigest())
