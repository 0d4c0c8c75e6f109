#!/usr/bin/env node
// The whole way through Cairn from Node: a vault, a policy, a protected machine, a
// backup, and its disk read back.
//
//     node whole_way.js 127.0.0.1:7401 MACHINE IMAGE
//
// MACHINE is one that an agent has found, with one disk; IMAGE is its raw image,
// with which the bytes that come back are compared. See cairn_client.js for what it
// needs.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const { pipeline } = require('node:stream/promises');
const { connect, details, grpc } = require('./cairn_client');

const [address, machineId, image] = process.argv.slice(2);
const cairn = connect(address);
const subscription = 'subscriptions/default';
const vault = `${subscription}/vaults/node`;

async function main() {
  // A vault. Errors are told apart by their reason. A call with a request_id can be
  // repeated: it happens once.
  try {
    await cairn.VaultService.getVault({ name: vault });
  } catch (e) {
    const { reason, metadata } = details(e);
    if (reason !== 'VAULT_NOT_FOUND') throw e;
    console.log('VAULT_NOT_FOUND:', metadata.name);
    await cairn.VaultService.createVault({
      parent: subscription, vaultId: 'node', vault: { displayName: 'made from Node' }, requestId: crypto.randomUUID(),
    });
  }

  // A policy, at first with a mistake: the error names the field and the rule.
  const time = { hours: 25 };
  const wanted = {
    parent: vault,
    policyId: 'nightly',
    policy: { schedule: { timeZone: 'Europe/Berlin', daily: { time } }, retention: { daily: { days: 30 } } },
  };
  let policy;
  try {
    ({ policy } = await cairn.PolicyService.createPolicy(wanted));
  } catch (e) {
    const { reason, fields } = details(e);
    if (reason !== 'INVALID_FIELD') throw e;
    for (const [field, rule] of Object.entries(fields)) console.log('INVALID_FIELD:', field, rule);
    time.hours = 22;
    ({ policy } = await cairn.PolicyService.createPolicy(wanted));
  }

  // The machine under that policy. It can be protected once.
  const { machines } = await cairn.HostService.listMachines({ parent: `${subscription}/hosts/-` });
  const machine = machines.find((m) => m.name.endsWith(`/${machineId}`));
  const protection = { parent: vault, protectedItem: { machine: machine.name, policy: policy.name } };
  const { protectedItem: item } = await cairn.ProtectedItemService.protectMachine(protection);
  console.log('protected:', item.name, '-', item.lastBackupStatusText);
  try {
    await cairn.ProtectedItemService.protectMachine(protection);
  } catch (e) {
    const { reason, metadata } = details(e);
    if (reason !== 'MACHINE_ALREADY_PROTECTED') throw e;
    console.log('MACHINE_ALREADY_PROTECTED:', metadata.protected_item);
  }

  // A backup, now. One at a time: the error names the job that is under way.
  let { job } = await cairn.ProtectedItemService.backUp({ name: item.name, requestId: crypto.randomUUID() });
  try {
    await cairn.ProtectedItemService.backUp({ name: item.name });
  } catch (e) {
    const { reason, metadata } = details(e);
    if (reason !== 'BACKUP_IN_PROGRESS') throw e;
    console.log('BACKUP_IN_PROGRESS:', metadata.job);
  }
  for await (job of follow(job)) console.log('job:', job.state);
  if (job.state !== 'JOB_STATE_COMPLETED') throw new Error(`${job.error.message} ${job.error.remedy}`);

  // Its recovery point is the newest. ReadDisk streams bytes that were verified;
  // what it leaves out is zeros.
  const { recoveryPoints: points } = await cairn.RecoveryPointService.listRecoveryPoints({ parent: item.name });
  if (points[0].name !== job.recoveryPoint) throw new Error(`the newest point is ${points[0].name}`);
  const [disk] = points[0].disks;
  const digest = crypto.createHash('sha256');
  let at = 0;
  for await (const part of cairn.RecoveryPointService.readDisk({ name: points[0].name, disk: disk.target, skipZeros: true })) {
    zeros(digest, part.offset - at);
    digest.update(part.data);
    at = part.offset + part.data.length;
  }
  zeros(digest, disk.size - at);
  const back = digest.digest('hex');
  const original = crypto.createHash('sha256');
  await pipeline(fs.createReadStream(image), original);
  if (back !== original.digest('hex')) throw new Error('the disk came back with other bytes');
  console.log('read back:', points[0].name, disk.size, 'bytes, sha256', back);
}

// follow yields a job at every change, to its end. A stream that breaks is taken up
// behind the last revision that came, so that no change is missed.
async function* follow(job) {
  const patient = new grpc.Metadata({ waitForReady: true });
  for (let revision = 0; ;) {
    const changes = cairn.JobService.watchJobs({ parent: vault, afterRevision: revision }, patient);
    try {
      for await (const change of changes) {
        revision = change.revision;
        if (change.synced) console.log('all that was there has come, up to revision', revision);
        if (change.job?.name !== job.name) continue;
        yield change.job;
        if (change.job.endTime) return;
      }
    } catch (e) {
      if (details(e).reason === 'REVISION_UNAVAILABLE') revision = 0; // too long ago: begin with the present jobs
      else if (e.code !== grpc.status.UNAVAILABLE) throw e;
      console.log('the watch broke off; going on behind revision', revision);
    } finally {
      changes.cancel();
    }
  }
}

// zeros digests n bytes of zeros, some at a time.
function zeros(digest, n) {
  const some = Buffer.alloc(1 << 20);
  for (; n > 0; n -= some.length) digest.update(some.subarray(0, Math.min(n, some.length)));
}

main().then(() => cairn.close(), (e) => {
  console.error(e);
  process.exit(1);
});
