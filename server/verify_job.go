package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// Verify starts a job, in the server, that reads, decodes and re-hashes every
// block of a point.
func (s *recoveryPointService) Verify(_ context.Context, r *pb.VerifyRequest) (*pb.VerifyResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	return once(s.Server, n.Subscription, r.RequestId, pb.RecoveryPointService_Verify_FullMethodName, r, v, new(pb.VerifyResponse),
		func(k keep) (*pb.VerifyResponse, error) {
			p, sp, err := v.point(n)
			if err != nil {
				return nil, err
			}
			release, err := v.use() // the job's own
			if err != nil {
				return nil, err
			}
			resp := new(pb.VerifyResponse)
			resp.Job, err = s.jobs.Start(job.Spec{
				Vault: n.VaultName.String(), Operation: pb.JobOperation_JOB_OPERATION_VERIFY,
				ProtectedItem: n.ItemName.String(), Machine: p.Machine, RecoveryPoint: p.Name, Tasks: []string{"Verify data"},
				Also: func(tx *catalog.Tx, j *pb.Job) error {
					return k.inCatalog(tx, &pb.VerifyResponse{Job: j})
				},
			}, func(run *job.Run) error {
				defer release()
				return s.verifyPoint(run, v, n, p, sp.ID)
			})
			if err != nil {
				release()
				return nil, err
			}
			return resp, nil
		})
}

// verifyPoint is the job. It holds a lease meanwhile, like any other reader.
func (s *Server) verifyPoint(run *job.Run, v *Vault, n PointName, p *pb.RecoveryPoint, id string) error {
	lease, _, err := s.data.leases.take(n, "", "verification "+run.Name(), maxPointLease)
	if err != nil {
		return err
	}
	defer func() { _ = s.data.leases.release(n, lease) }() // it may have run out
	total := int64(0)
	for _, d := range append(slices.Clone(p.Disks), p.StateFiles...) {
		total += d.DataBytes
	}
	show := func(j *pb.Job, done int64) {
		j.Tasks[0].TotalBytes, j.Tasks[0].DoneBytes, j.Stats.ReadBytes = max(total, done), done, done
	}
	now := timestamppb.New(s.opts.Now())
	run.Update(func(j *pb.Job) {
		j.Tasks[0].State, j.Tasks[0].StartTime = pb.JobState_JOB_STATE_IN_PROGRESS, now
		show(j, 0)
	})
	var next atomic.Int64 // when to show progress again
	report, err := v.Store.VerifyPoint(run.Context(), id, func(p blockstore.VerifyProgress) {
		now, due := time.Now(), next.Load()
		if now.UnixMilli() < due || !next.CompareAndSwap(due, now.Add(time.Second/2).UnixMilli()) {
			return
		}
		run.Update(func(j *pb.Job) { show(j, int64(p.Bytes)) })
		_, _, _ = s.data.leases.take(n, lease, "", maxPointLease) // nothing can be done if it ran out
	})
	run.Update(func(j *pb.Job) {
		done := int64(report.Bytes)
		show(j, done)
		if err == nil {
			j.Tasks[0].TotalBytes = done // blocks that occur twice are read once
		}
		j.Stats.BadBlocks = int64(report.BadCount)
	})
	switch {
	case errors.Is(err, context.Canceled) && run.Context().Err() != nil:
		return context.Cause(run.Context())
	case err != nil:
		return lostBlock(n, err)
	case report.BadCount > 0:
		return verifyError(n, report)
	}
	return nil
}

// verifyError names what a verification found.
func verifyError(n PointName, r blockstore.VerifyReport) error {
	const most = 10 // blocks named in the message
	var named []string
	for _, b := range r.Bad[:min(most, len(r.Bad))] {
		what := "block " + b.Digest.String()
		if b.Digest == block.Zero {
			what = "a block"
		}
		named = append(named, fmt.Sprintf("%s (id %d): %s", what, b.ID, firstLine(b.Err)))
	}
	if more := r.BadCount - uint64(len(named)); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	var points []string
	for _, id := range r.Damaged {
		points = append(points, n.pointOfStore(id).String())
	}
	e := errCorrupt(n, block.Zero).with("bad_blocks", strconv.FormatUint(r.BadCount, 10)).with("recovery_points", strings.Join(points, ","))
	if len(r.Bad) > 0 {
		_ = e.with("digest", r.Bad[0].Digest.String()).with("block_id", strconv.FormatUint(r.Bad[0].ID, 10))
	}
	e.Message = fmt.Sprintf("recovery point %q is damaged: %s", n, strings.Join(named, "; "))
	return e
}
