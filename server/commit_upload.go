package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/upload"
)

const (
	// These bound what a point's record takes.
	maxDefinition = 512 << 10
	maxWarnings   = 100
	maxCheckpoint = 128
)

// CommitUpload makes the recovery point. What the client waits for goes on if
// it hangs up: asking again gives the answer.
func (s *blockService) CommitUpload(ctx context.Context, r *pb.CommitUploadRequest) (*pb.CommitUploadResponse, error) {
	var f fields
	f.uploadToken("upload_token", r.UploadToken)
	snapshot := f.time("snapshot_time", r.SnapshotTime)
	now := s.opts.Now()
	if r.SnapshotTime == nil {
		snapshot = now
	} else if snapshot.Year() < 1970 || snapshot.After(now.AddDate(0, 0, 1)) {
		f.add("snapshot_time", "is %s; it must not lie in the future, nor before 1970", snapshot.Format(time.RFC3339))
	}
	enum(&f, "consistency", r.Consistency, pb.ConsistencyClass_name)
	f.text("machine_title", r.MachineTitle, 1024)
	f.text("guest_os", r.GuestOs, 1024)
	f.text("machine_definition_type", r.MachineDefinitionType, 256)
	if n := len(r.MachineDefinition); n > maxDefinition {
		f.add("machine_definition", "has %d bytes; at most %d are allowed", n, maxDefinition)
	}
	if n := len(r.Warnings); n > maxWarnings {
		f.add("warnings", "has %d entries; at most %d are allowed", n, maxWarnings)
	}
	for i, w := range r.Warnings[:min(maxWarnings, len(r.Warnings))] {
		f.warning(fmt.Sprintf("warnings[%d]", i), w)
	}
	if n := len(r.RootDigests); n > maxDisks {
		f.add("root_digests", "has %d digests; at most %d are allowed", n, maxDisks)
	}
	for i, d := range r.RootDigests[:min(maxDisks, len(r.RootDigests))] {
		if len(d) != len(block.Digest{}) {
			f.add(fmt.Sprintf("root_digests[%d]", i), "has %d bytes; it must have %d", len(d), len(block.Digest{}))
		}
	}
	f.text("checkpoint", r.Checkpoint, maxCheckpoint)
	if err := f.err(); err != nil {
		return nil, err
	}
	if p, err := s.committed(r.UploadToken); p != nil || err != nil {
		return p, err
	}
	sess, err := s.session(r.UploadToken)
	if err != nil {
		return nil, err
	}
	fillRemedies(nil, r.Warnings)
	ctx = context.WithoutCancel(ctx)
	c := &committer{s: s.Server, o: sess.Spec().Owner.(*ownedUpload), r: r}
	c.point.SnapshotTime = timestamppb.New(snapshot)
	_, err = sess.Commit(ctx, func(maps []upload.Map, got upload.Received, store upload.StoreFunc) (any, error) {
		return c.commit(ctx, maps, got, store)
	})
	if err != nil {
		if errors.Is(err, upload.ErrNotFound) { // somebody else was faster, with the same call perhaps
			if p, again := s.committed(r.UploadToken); p != nil {
				return p, again
			}
		}
		return nil, uploadError(err)
	}
	return &pb.CommitUploadResponse{RecoveryPoint: &c.point}, nil
}

// committed answers for an upload that was committed: nil if it was not.
func (s *Server) committed(token string) (*pb.CommitUploadResponse, error) {
	n, ok := s.data.uploads.Result(token).(PointName)
	if !ok {
		return nil, nil
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	p, _, err := v.point(n)
	if err != nil {
		return nil, err
	}
	if err := s.fillKept(v, n.ItemName, p); err != nil {
		return nil, err
	}
	return &pb.CommitUploadResponse{RecoveryPoint: p}, nil
}

// committer makes one recovery point.
type committer struct {
	s     *Server
	o     *ownedUpload
	r     *pb.CommitUploadRequest
	point pb.RecoveryPoint
	name  PointName
}

func (c *committer) commit(ctx context.Context, maps []upload.Map, got upload.Received, store upload.StoreFunc) (any, error) {
	if err := c.checkRoots(maps); err != nil {
		return nil, err
	}
	j := c.o.job
	if c.o.run != nil {
		j = c.o.run.Job()
		if c.o.run.Context().Err() != nil {
			return nil, upload.ErrCancelled
		}
	} else {
		var err error
		if j, err = c.s.heldJob(c.o, j.Name); err != nil {
			return nil, err
		}
	}
	it, err := c.o.vault.item(c.o.item)
	if err != nil {
		return nil, err
	}
	if err := c.describe(maps, got, it, j); err != nil {
		return nil, err
	}
	if err := c.store(ctx, maps, store, j.Operation); err != nil {
		return nil, err
	}
	if c.o.run != nil { // an agent reports its job itself
		c.o.run.Update(func(j *pb.Job) {
			j.RecoveryPoint, j.Stats, j.Warnings = c.point.Name, c.stats(maps, got), c.r.Warnings
			j.Tasks[1].TotalBytes, j.Tasks[1].DoneBytes = got.NewBytes, got.NewBytes
		})
	}
	return c.name, nil
}

// checkRoots compares the roots that the client computed.
func (c *committer) checkRoots(maps []upload.Map) error {
	roots := c.r.RootDigests
	if len(roots) == 0 {
		return nil
	}
	if len(roots) != len(maps) {
		return invalidField("root_digests", "has %d digests; the upload has %d disks", len(roots), len(maps))
	}
	for i, m := range maps {
		want, err := block.DigestFromBytes(roots[i])
		if err != nil {
			return invalidField("root_digests", "%d: %v", i, err)
		}
		if want != m.Root {
			target := c.o.disks[i].Target
			return newError(pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID,
				"disk %q has the root digest %s, not %s as in root_digests; write its map again", target, m.Root, want).
				code(codes.FailedPrecondition).with("disk", target).
				with("root_digest", m.Root.String()).with("claimed_root_digest", want.String())
		}
	}
	return nil
}

// describe fills in the point's record.
func (c *committer) describe(maps []upload.Map, got upload.Received, it *pb.ProtectedItem, j *pb.Job) error {
	s, p, r := c.s, &c.point, c.r
	policy := c.o.vault.pointPolicy(it)
	p.Consistency = max(r.Consistency, pb.ConsistencyClass_CONSISTENCY_CLASS_CRASH_CONSISTENT)
	p.ScheduleTime = j.ScheduleTime
	if p.ScheduleTime == nil { // asked for
		p.RetainUntil = orDefault(j.RetainUntil, timestamppb.New(s.opts.Now().Add(defaultRetention)))
	}
	if j.Operation == pb.JobOperation_JOB_OPERATION_RESTORE { // a safety point: whatever can be had is good
		p.RetainUntil = timestamppb.New(s.opts.Now().Add(safetyRetention))
	} else if least, who := leastConsistency(policy, it); p.Consistency < least {
		return newError(pb.ErrorReason_ERROR_REASON_CONSISTENCY_TOO_LOW,
			"the backup is %s, and %s demands %s at least", className(p.Consistency), who, className(least)).
			with("protected_item", it.Name).with("policy", it.Policy).
			with("consistency", p.Consistency.String()).with("minimum_consistency", least.String())
	}
	snapshot := p.SnapshotTime.AsTime()
	id, err := newPointID(snapshot, s.opts.Rand)
	if err != nil {
		return err
	}
	uid, err := uuid.NewRandomFromReader(s.opts.Rand)
	if err != nil {
		return fmt.Errorf("make a uid: %w", err)
	}
	c.name = PointName{c.o.item, id}
	p.Name, p.Uid = c.name.String(), uid.String()
	p.CreateTime = timestamppb.New(s.opts.Now())
	p.ExcludedDisks = it.ExcludedDisks
	p.Job, p.Machine = j.Name, it.Machine
	p.MachineTitle, p.GuestOs = r.MachineTitle, r.GuestOs
	p.NewBytes, p.StoredBytes = got.NewBytes, got.StoredBytes
	p.Warnings = r.Warnings
	p.MachineDefinition, p.MachineDefinitionType = r.MachineDefinition, r.MachineDefinitionType
	p.Checkpoint = r.Checkpoint
	for i, m := range maps {
		u := c.o.disks[i]
		d := &pb.RecoveryPointDisk{
			Target: u.Target, Size: m.Size, DataBytes: m.Data, BlockSize: int32(m.BlockSize),
			RootDigest: m.Root[:], SourceFormat: u.SourceFormat, Kind: u.Kind, Path: u.Path,
		}
		if isDisk(u.Kind) {
			d.Kind = pb.DiskKind_DISK_KIND_DISK
			p.Disks = append(p.Disks, d)
		} else {
			p.StateFiles = append(p.StateFiles, d)
		}
	}
	return nil
}

// className is a consistency class in a sentence.
func className(c pb.ConsistencyClass) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(c.String(), "CONSISTENCY_CLASS_")), "_", " ")
}

// store writes the point and the item's record at once. A restore's safety point
// may come when protection is stopped, and does not count as a backup.
func (c *committer) store(ctx context.Context, maps []upload.Map, store upload.StoreFunc, op pb.JobOperation) error {
	meta, err := encodePoint(&c.point)
	if err != nil {
		return err
	}
	sp := blockstore.Point{ID: c.name.storeID(), Meta: meta}
	data := int64(0)
	for i, m := range maps {
		sp.Disks = append(sp.Disks, blockstore.Disk{Name: c.o.disks[i].Target, Map: m.Map})
		if d := c.o.disks[i]; isDisk(d.Kind) && !slices.Contains(c.point.ExcludedDisks, d.Target) {
			data += m.Data
		}
	}
	it, err := c.o.vault.changeItem(ctx, c.o.item, func(it *pb.ProtectedItem) error {
		if it.Uid != c.o.uid { // another item, which has the name now
			return errItemNotFound(c.o.item)
		}
		if op == pb.JobOperation_JOB_OPERATION_BACKUP {
			if err := mayBackUp(it); err != nil {
				return err
			}
			it.ProtectedBytes = data
		}
		if it.LatestRecoveryPoint < c.point.Name { // ids sort by time
			it.LatestRecoveryPoint = c.point.Name
		}
		it.RecoveryPointCount++
		return nil
	}, func(m blockstore.Mutation) error { return store(sp, m) })
	if err != nil {
		return err
	}
	stored, err := decodePoint(c.name, meta)
	if err != nil {
		return err
	}
	c.point.Etag = stored.Etag
	c.s.keeping(c.o.vault, it).fill(&c.point)
	c.s.poke(choreRetention) // the one before is the newest no more
	return nil
}

// stats is what the server's own job tells at its end.
func (c *committer) stats(maps []upload.Map, got upload.Received) *pb.JobStats {
	st := &pb.JobStats{NewBytes: got.NewBytes, NewBlocks: got.NewBlocks, SentBytes: got.StoredBytes}
	for i, m := range maps {
		st.ChangedBlocks += m.Changed
		if isDisk(c.o.disks[i].Kind) {
			st.DiskBytes += m.Size
			st.AllocatedBytes += m.Data
		}
	}
	return st
}

// pointPolicy is the policy by which an item's points are kept; nil if it is
// gone.
func (v *Vault) pointPolicy(it *pb.ProtectedItem) *pb.Policy {
	ids, ok := splitName(it.Policy, policyPattern, false)
	if !ok {
		return nil
	}
	p, err := v.policy(PolicyName{v.Name, ids[2]})
	if err != nil {
		return nil
	}
	return p
}
