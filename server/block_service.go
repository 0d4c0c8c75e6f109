package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
	"cairn/server/upload"
)

type blockService struct {
	pb.UnimplementedBlockServiceServer
	*Server
}

// maxDisks bounds the disks of one upload.
const maxDisks = 1024

// ownedUpload is what the server knows of an upload beside its session.
type ownedUpload struct {
	vault   *Vault
	item    ItemName
	uid     string // the item's
	machine string
	// job and leaseToken are of the agent that uploads; or run is the server's
	// own job, which ends with the upload.
	job        *pb.Job
	leaseToken string
	run        *job.Run
	disks      []*pb.UploadDisk
}

// CreateUpload begins an upload, or takes one up again.
func (s *blockService) CreateUpload(ctx context.Context, r *pb.CreateUploadRequest) (*pb.CreateUploadResponse, error) {
	var f fields
	item := f.item("parent", r.Parent)
	if r.ResumeToken != "" {
		f.text("resume_token", r.ResumeToken, maxToken)
		if err := f.err(); err != nil {
			return nil, err
		}
		return s.resumeUpload(item, r.ResumeToken)
	}
	lease := f.duration("lease_duration", r.LeaseDuration, upload.MinLease, upload.MaxLease, upload.DefaultLease)
	if r.Job != "" {
		f.job("job", r.Job)
		if r.LeaseToken == "" {
			f.add("lease_token", "must be given with a job: it comes with the job's assignment")
		}
	} else if r.LeaseToken != "" {
		f.add("job", "must be given with a lease_token")
	}
	f.text("lease_token", r.LeaseToken, maxToken)
	f.uploadDisks(r.Disks)
	var base PointName
	if r.BaseRecoveryPoint != "" {
		base = f.point("base_recovery_point", r.BaseRecoveryPoint)
		if base.Item != "" && base.ItemName != item {
			f.add("base_recovery_point", "is a point of another item than %s", quote(r.Parent))
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(item.VaultName)
	if err != nil {
		return nil, err
	}
	o := &ownedUpload{vault: v, item: item, leaseToken: r.LeaseToken, disks: r.Disks}
	spec := upload.Spec{Store: v.Store, Lease: lease, Owner: o, Ended: func(err error) {
		if o.run != nil {
			o.run.Finish(jobEnd(err))
		}
		release()
	}}
	sess, err := s.createUpload(ctx, o, r, base, &spec)
	if err != nil {
		if o.run != nil {
			o.run.Finish(jobEnd(err))
		}
		release()
		return nil, uploadError(err)
	}
	return s.uploadResponse(sess)
}

func (s *blockService) createUpload(ctx context.Context, o *ownedUpload, r *pb.CreateUploadRequest, base PointName, spec *upload.Spec) (*upload.Session, error) {
	it, err := o.vault.item(o.item)
	if err != nil {
		return nil, err
	}
	o.uid, o.machine = it.Uid, it.Machine
	if err := uploadBase(o, base, spec); err != nil {
		return nil, err
	}
	if r.Job != "" {
		if o.job, err = s.heldJob(o, r.Job); err != nil {
			return nil, err
		}
		spec.Key = r.Job
		return s.data.uploads.Create(ctx, *spec)
	}
	if err := mayBackUp(it); err != nil {
		return nil, err
	}
	if e := s.vaultProblem(o.vault); e != nil {
		return nil, e
	}
	o.run, err = s.jobs.Begin(job.Spec{
		Vault: o.item.VaultName.String(), Operation: pb.JobOperation_JOB_OPERATION_BACKUP,
		ProtectedItem: o.item.String(), Machine: it.Machine, Tasks: []string{"Take Snapshot", "Transfer data to vault"},
	})
	if err != nil {
		return nil, err
	}
	spec.Key = o.run.Name()
	now := timestamppb.New(s.opts.Now())
	o.run.Update(func(j *pb.Job) { // the client has its snapshot already
		j.Tasks[0].State, j.Tasks[0].StartTime, j.Tasks[0].EndTime = pb.JobState_JOB_STATE_COMPLETED, now, now
		j.Tasks[1].State, j.Tasks[1].StartTime = pb.JobState_JOB_STATE_IN_PROGRESS, now
	})
	sess, err := s.data.uploads.Create(ctx, *spec)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(o.run.Context(), func() {
		if context.Cause(o.run.Context()) == job.ErrStopping {
			sess.Abort(upload.ErrStopping)
		} else { // nothing happens if the job has ended because the upload has
			sess.Abort(upload.ErrCancelled)
		}
	})
	return sess, nil
}

// heldJob checks that the upload's lease token holds a job which backs the item
// up, be it for the safety point of a restore in place. Errors: JOB_NOT_FOUND,
// JOB_LEASE_LOST, CANCELLED.
func (s *Server) heldJob(o *ownedUpload, name string) (*pb.Job, error) {
	j, err := s.jobs.Check(name, o.leaseToken)
	if err != nil {
		return nil, err
	}
	backsUp := j.Operation == pb.JobOperation_JOB_OPERATION_BACKUP
	if j.Operation == pb.JobOperation_JOB_OPERATION_RESTORE {
		r, err := s.jobs.Restore(name)
		if err != nil {
			return nil, err
		}
		backsUp = r.GetInPlace() != nil
	}
	if !backsUp || j.ProtectedItem != o.item.String() {
		return nil, invalidField("job", "%s is no backup of %s, nor a restore in place of it", quote(name), quote(o.item.String()))
	}
	if j.State == pb.JobState_JOB_STATE_CANCELLING {
		return nil, upload.ErrCancelled
	}
	return j, nil
}

// jobEnd says with what the server's own job ends, when its upload has.
func jobEnd(why error) error {
	switch {
	case why == nil:
		return nil
	case errors.Is(why, upload.ErrCancelled), errors.Is(why, errAborted):
		return job.ErrCancelled
	case errors.Is(why, upload.ErrStopping):
		return job.ErrStopping
	}
	return uploadError(why)
}

// uploadBase fills in the disks, with those of the base.
func uploadBase(o *ownedUpload, base PointName, spec *upload.Spec) error {
	was := make(map[string]*upload.Map)
	if base.Point != "" {
		p, sp, err := o.vault.point(base)
		if err != nil {
			return err
		}
		data := make(map[string]int64)
		for _, d := range p.Disks {
			data[d.Target] = d.DataBytes
		}
		for _, d := range p.StateFiles {
			data[d.Target] = d.DataBytes
		}
		for _, d := range sp.Disks {
			was[d.Name] = &upload.Map{Map: d.Map, Data: data[d.Name]}
		}
		spec.Base = sp.ID
	}
	for _, d := range o.disks {
		spec.Disks = append(spec.Disks, upload.Disk{Name: d.Target, Size: d.Size, Base: was[d.Target]})
	}
	return nil
}

func (f *fields) uploadDisks(disks []*pb.UploadDisk) {
	switch {
	case len(disks) == 0:
		f.add("disks", "must name at least one disk")
	case len(disks) > maxDisks:
		f.add("disks", "has %d disks; at most %d are allowed", len(disks), maxDisks)
		return
	}
	seen := make(map[string]bool)
	real := 0
	for i, d := range disks {
		path := fmt.Sprintf("disks[%d]", i)
		if isDisk(d.GetKind()) {
			real++
		}
		enum(f, path+".kind", d.GetKind(), pb.DiskKind_name)
		f.text(path+".path", d.GetPath(), 4096)
		if d.GetTarget() == "" {
			f.add(path+".target", "must be given")
		} else if seen[d.Target] {
			f.add(path+".target", "%s is there twice", quote(d.Target))
		}
		seen[d.GetTarget()] = true
		f.text(path+".target", d.GetTarget(), 64)
		f.text(path+".source_format", d.GetSourceFormat(), 64)
		if d.GetSize() < 0 {
			f.add(path+".size", "is %d; it must not be negative", d.Size)
		}
	}
	if real == 0 && len(disks) > 0 {
		f.add("disks", "has only state files; it must name at least one disk")
	}
}

// isDisk tells disks from the state files of a machine.
func isDisk(k pb.DiskKind) bool {
	return k == pb.DiskKind_DISK_KIND_UNSPECIFIED || k == pb.DiskKind_DISK_KIND_DISK
}

// maxToken bounds the tokens of uploads and leases, in characters.
const maxToken = 128

func (f *fields) uploadToken(path, token string) {
	if token == "" {
		f.add(path, "must be given; CreateUpload gives it")
	}
	f.text(path, token, maxToken)
}

// session gives the open upload of a token.
func (s *Server) session(token string) (*upload.Session, error) {
	var f fields
	f.uploadToken("upload_token", token)
	if err := f.err(); err != nil {
		return nil, err
	}
	sess, err := s.data.uploads.Get(token)
	return sess, uploadError(err)
}

func (s *blockService) resumeUpload(item ItemName, token string) (*pb.CreateUploadResponse, error) {
	sess, err := s.session(token)
	if err != nil {
		return nil, err
	}
	if sess.Spec().Owner.(*ownedUpload).item != item {
		return nil, uploadError(upload.ErrNotFound)
	}
	return s.uploadResponse(sess)
}

func (s *blockService) uploadResponse(sess *upload.Session) (*pb.CreateUploadResponse, error) {
	expire, err := sess.Renew()
	if err != nil {
		return nil, uploadError(err)
	}
	return &pb.CreateUploadResponse{
		UploadToken: sess.Token(), LeaseExpireTime: timestamppb.New(expire),
		BlockSize: int32(sess.Spec().Store.Info().BlockSize), Job: sess.Spec().Key,
	}, nil
}

// RenewUpload extends the lease.
func (s *blockService) RenewUpload(_ context.Context, r *pb.RenewUploadRequest) (*pb.RenewUploadResponse, error) {
	sess, err := s.session(r.UploadToken)
	if err != nil {
		return nil, err
	}
	expire, err := sess.Renew()
	if err != nil {
		return nil, uploadError(err)
	}
	return &pb.RenewUploadResponse{LeaseExpireTime: timestamppb.New(expire)}, nil
}

var errAborted = fmt.Errorf("%w: it was aborted", upload.ErrNotFound)

// AbortUpload ends an upload without a point.
func (s *blockService) AbortUpload(_ context.Context, r *pb.AbortUploadRequest) (*pb.AbortUploadResponse, error) {
	sess, err := s.session(r.UploadToken)
	if err != nil {
		return nil, err
	}
	sess.Abort(errAborted)
	return &pb.AbortUploadResponse{}, nil
}

// FindMissing tells which blocks the vault lacks.
func (s *blockService) FindMissing(ctx context.Context, r *pb.FindMissingRequest) (*pb.FindMissingResponse, error) {
	ds, err := parseDigests(r.Digests)
	if err != nil {
		return nil, err
	}
	sess, err := s.session(r.UploadToken)
	if err != nil {
		return nil, err
	}
	missing, err := sess.FindMissing(ctx, ds)
	if err != nil {
		return nil, uploadError(err)
	}
	resp := &pb.FindMissingResponse{Missing: make([]uint32, len(missing))}
	for i, m := range missing {
		resp.Missing[i] = uint32(m)
	}
	return resp, nil
}

// parseDigests takes the digests of one message apart.
func parseDigests(b []byte) ([]block.Digest, error) {
	const size = len(block.Digest{})
	if len(b)%size != 0 {
		return nil, invalidField("digests", "has %d bytes; digests have %d bytes each, one after the other", len(b), size)
	}
	if n := len(b) / size; n > upload.MaxDigests {
		return nil, errTooLarge("digests", "digests", n, upload.MaxDigests)
	}
	ds := make([]block.Digest, len(b)/size)
	for i := range ds {
		if ds[i] = block.Digest(b[i*size:]); ds[i] == block.Zero {
			return nil, newError(pb.ErrorReason_ERROR_REASON_ZERO_BLOCK,
				"digest %d is the zero digest, which stands for a block of zeros: there is no such block", i)
		}
	}
	return ds, nil
}

// emptyMap is what a disk that a point does not have is compared with.
func emptyMap(st *blockstore.Store) diskmap.Map {
	return diskmap.Map{BlockSize: st.Info().BlockSize}
}
