#!/usr/bin/python3
"""Makes a recovery point through the data plane itself, and does it wrong in
every way that a client can.

    data_plane.py unix:/var/lib/cairn/cairnd.sock ITEM

ITEM is the full name of a protected item.
"""

import sys

import grpc
from google.protobuf import duration_pb2, timestamp_pb2

from cairn_client import Cairn, reason, v1

address, item = sys.argv[1:]
cairn = Cairn(address)

# A block of 64 KiB, the numbers from 0 to 16383, and its BLAKE3-256 digest, from
# the published test vectors: Python's library has no BLAKE3.
PLAIN = b"".join(n.to_bytes(4, "little") for n in range(16384))
DIGEST = bytes.fromhex("f76e5e263054d0622c22f5349389abfb9bc62b181b10cd6c737add2736aa5492")
ZERO = bytes(32)


def stored(plain):
    """The stored form of a block with codec 0: codec, length, the bytes."""
    return b"\0" + len(plain).to_bytes(3, "little") + plain


def refused(want_code, want_reason, call):
    """Makes a call that the server must refuse, for the right reason."""
    try:
        call()
    except grpc.RpcError as e:
        if e.code() != want_code or reason(e) != want_reason:
            sys.exit(f"refused with {e.code()}, {reason(e)}, not {want_code}, {want_reason}: {e.details()}")
        print(f"refused: {want_code.name} {want_reason}: {e.details()}")
        return
    sys.exit(f"was not refused with {want_reason}")


def create(size, **more):
    return cairn.blocks.CreateUpload(v1.CreateUploadRequest(
        parent=item, disks=[v1.UploadDisk(target="vda", size=size, source_format="raw")], **more))


def upload(token, *blocks):
    request = v1.UploadBlocksRequest(upload_token=token, blocks=[v1.Block(digest=d, stored=s) for d, s in blocks])
    return list(cairn.blocks.UploadBlocks(iter([request])))


code = grpc.StatusCode

# An upload whose lease runs out takes nothing any more.
up = create(1 << 20, lease_duration=duration_pb2.Duration(seconds=1))
for event in cairn.jobs.WatchJobs(v1.WatchJobsRequest(parent=item.split("/protectedItems/")[0]), timeout=60):
    if event.job.name == up.job and event.job.state == v1.JOB_STATE_FAILED:
        break
refused(code.FAILED_PRECONDITION, "UPLOAD_EXPIRED", lambda: upload(up.upload_token, (DIGEST, stored(PLAIN))))
refused(code.FAILED_PRECONDITION, "UPLOAD_EXPIRED", lambda: cairn.blocks.CommitUpload(v1.CommitUploadRequest(upload_token=up.upload_token)))

# Tokens that never were.
refused(code.NOT_FOUND, "UPLOAD_NOT_FOUND", lambda: create(0, resume_token="no-such-token"))
refused(code.NOT_FOUND, "UPLOAD_NOT_FOUND", lambda: upload("no-such-token", (DIGEST, stored(PLAIN))))

# A good upload, with bad calls in between that must not harm it.
up = create(3 * 65536 + 512)
assert up.block_size == 65536
token = up.upload_token
missing = cairn.blocks.FindMissing(v1.FindMissingRequest(upload_token=token, digests=DIGEST)).missing
assert list(missing) == [0], missing

wrong = bytes([DIGEST[0] ^ 1]) + DIGEST[1:]
refused(code.INVALID_ARGUMENT, "DIGEST_MISMATCH", lambda: upload(token, (wrong, stored(PLAIN))))
refused(code.INVALID_ARGUMENT, "BATCH_TOO_LARGE", lambda: upload(token, *[(DIGEST, stored(PLAIN))] * 33))
refused(code.INVALID_ARGUMENT, "BATCH_TOO_LARGE", lambda: cairn.blocks.FindMissing(
    v1.FindMissingRequest(upload_token=token, digests=DIGEST * 4097)))
refused(code.INVALID_ARGUMENT, "MALFORMED_BLOCK", lambda: upload(token, (DIGEST, b"\7" + stored(PLAIN)[1:])))
refused(code.INVALID_ARGUMENT, "WRONG_BLOCK_LENGTH", lambda: upload(token, (DIGEST, stored(PLAIN[:-1]))))
refused(code.INVALID_ARGUMENT, "ZERO_BLOCK", lambda: upload(token, (DIGEST, stored(bytes(65536)))))


def write_map(*runs):
    header = v1.DiskMapHeader(upload_token=token, disk="vda")
    return cairn.blocks.WriteDiskMap(iter([v1.WriteDiskMapRequest(header=header, runs=runs)]))


refused(code.FAILED_PRECONDITION, "BLOCK_MISSING", lambda: write_map(v1.DiskMapRun(first_block=1, digests=DIGEST)))

acks = upload(token, (DIGEST, stored(PLAIN)))
assert acks[-1].acknowledged_batches == 1 and acks[-1].new_blocks == 1, acks
assert not cairn.blocks.FindMissing(v1.FindMissingRequest(upload_token=token, digests=DIGEST)).missing
root = write_map(v1.DiskMapRun(first_block=1, digests=DIGEST + ZERO)).root_digest
now = timestamp_pb2.Timestamp()
now.GetCurrentTime()
commit = v1.CommitUploadRequest(upload_token=token, snapshot_time=now, root_digests=[root],
                                consistency=v1.CONSISTENCY_CLASS_CRASH_CONSISTENT)
point = cairn.blocks.CommitUpload(commit).recovery_point
assert cairn.blocks.CommitUpload(commit).recovery_point.name == point.name

disk = b"".join(p.data for p in cairn.points.ReadDisk(v1.ReadDiskRequest(name=point.name, disk="vda")))
assert disk == bytes(65536) + PLAIN + bytes(65536 + 512), "the disk came back with other bytes"
print("made and read back:", point.name)
