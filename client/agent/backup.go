package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// transferFor is how long a transfer that made no progress, because the server
// is gone or the snapshot's connection broke, is tried again on the same
// snapshot.
const transferFor = patience

// keepFor is how long the source may take to make a checkpoint valid.
const keepFor = time.Minute

// moreSnapshots is how often a backup whose snapshot went away begins again.
const moreSnapshots = 2

// backup makes one recovery point: the work of a BACKUP job, or the safety point
// of a restore.
type backup struct {
	j *job
	w *cairnv1.BackupWork
	// The job's tasks that show it; they may be the same.
	snapshotTask, dataTask string
	// safety means that the job's stats are about something else.
	safety bool

	// These belong to one snapshot. base is the point to build on, fixed before
	// the snapshot was taken: what the source says has changed has changed since
	// that point and no other. nil if there is none, or none any more.
	base     *cairnv1.RecoveryPoint
	snap     source.Snapshot
	info     source.SnapshotInfo
	pr       *progress
	measured bool   // pr.total is right
	proven   bool   // samples have been taken
	token    string // of the open upload, or ""
	// committing is set once a commit was sent: it may have succeeded though no
	// answer came.
	committing bool
}

// backup runs a BACKUP job.
func (j *job) backup(ctx context.Context, w *cairnv1.BackupWork) error {
	j.plan(taskSnapshot, taskTransfer)
	b := &backup{j: j, w: w, snapshotTask: taskSnapshot, dataTask: taskTransfer}
	point, err := b.run(ctx)
	if err == nil {
		j.a.Log.Info("recovery point made", "job", j.name, "point", point.GetName())
	}
	return err
}

// run makes the point, and begins again with a new snapshot when the one it had
// went away: the machine was stopped, or started.
func (b *backup) run(ctx context.Context) (*cairnv1.RecoveryPoint, error) {
	var kept []*cairnv1.Warning
	b.j.update(func(r *cairnv1.ReportJobRequest) { kept = slices.Clone(r.Warnings) })
	for again := 0; ; again++ {
		point, err := b.once(ctx)
		if err == nil || !errors.Is(err, source.ErrSnapshotLost) || again == moreSnapshots || ctx.Err() != nil {
			return point, err
		}
		b.j.a.Log.Warn("snapshot is lost; taking another", "job", b.j.name, "err", err)
		// What the lost snapshot warned of is not true of the next.
		b.j.update(func(r *cairnv1.ReportJobRequest) { r.Warnings = slices.Clone(kept) })
		b.j.warn(cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_LOST, fmt.Errorf("the backup began again with a new snapshot: %w", err))
		b.j.update(func(r *cairnv1.ReportJobRequest) { kept = slices.Clone(r.Warnings) })
	}
}

// stats changes the job's stats if they are about this.
func (b *backup) stats(f func(*cairnv1.JobStats)) {
	if !b.safety {
		b.j.update(func(r *cairnv1.ReportJobRequest) { f(r.Stats) })
	}
}

// once makes the point from one snapshot.
func (b *backup) once(ctx context.Context) (*cairnv1.RecoveryPoint, error) {
	j, w := b.j, b.w
	*b = backup{j: j, w: w, snapshotTask: b.snapshotTask, dataTask: b.dataTask, safety: b.safety, pr: &progress{}}
	j.begin(b.snapshotTask)
	var err error
	if b.base, err = j.point(ctx, w.GetBaseRecoveryPoint()); err != nil {
		return nil, fmt.Errorf("read the last point: %w", err)
	}
	b.snap, err = j.a.Source.Snapshot(ctx, path.Base(w.GetMachine()), source.SnapshotOptions{
		Exclude: w.GetExcludedDisks(), Since: b.base.GetCheckpoint(), Continues: b.base != nil,
		Minimum: minimum(w.GetMinimumConsistency()),
	})
	if err != nil {
		return nil, snapshotError{err}
	}
	defer func() {
		if err := b.snap.Close(); err != nil {
			j.a.Log.Error("release snapshot", "job", j.name, "err", err)
		}
	}()
	b.info = b.snap.Info()
	if err := b.tooLow(); err != nil {
		return nil, snapshotError{err}
	}
	j.warnings(b.info.Warnings)
	b.stats(func(s *cairnv1.JobStats) { s.Frozen = durationpb.New(b.info.FrozenFor) })
	j.done(b.snapshotTask)
	j.begin(b.dataTask)
	b.compareLayout()
	b.distrustMisfits()
	point, err := b.transferUntilDone(ctx)
	if err != nil {
		return nil, err
	}
	// The point is there and good. A cancellation that comes now is too late.
	keepCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepFor)
	defer cancel()
	if err := b.snap.Keep(keepCtx); err != nil {
		j.warn(cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, fmt.Errorf("the next backup reads everything: %w", err))
	}
	b.stats(func(s *cairnv1.JobStats) { // what the disks hold, not what was read of them
		s.AllocatedBytes = 0
		for _, d := range point.GetDisks() {
			if k := d.GetKind(); k <= cairnv1.DiskKind_DISK_KIND_DISK {
				s.AllocatedBytes += d.GetDataBytes()
			}
		}
	})
	j.done(b.dataTask)
	return point, nil
}

// loseBase goes on without a base that was deleted meanwhile.
func (b *backup) loseBase() {
	for _, d := range b.snap.Disks() {
		if d.Incremental() {
			b.j.warn(cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, fmt.Errorf(
				"disk %s: the point that the backup was to build on was deleted meanwhile: it is read in full", d.Info().Target), "disk", d.Info().Target)
			d.Distrust()
		}
	}
	b.base, b.measured = nil, false
}

// measure adds up what is going to be read.
func (b *backup) measure(ctx context.Context) error {
	if b.measured {
		return nil
	}
	var size, total, tracked int64
	for _, d := range b.snap.Disks() {
		size += d.Info().Size
		incremental := d.Incremental()
		err := d.Extents(ctx, func(e source.Extent) error {
			if incremental {
				tracked += e.Length
			}
			if !e.Zero {
				total += e.Length
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("disk %s: list extents: %w", d.Info().Target, err)
		}
	}
	b.pr.total.Store(total)
	b.j.task(b.dataTask, func(t *cairnv1.JobTask) { t.TotalBytes = total })
	b.stats(func(s *cairnv1.JobStats) { s.DiskBytes, s.TrackedBytes = size, tracked })
	b.measured = true
	return nil
}

// transferUntilDone makes the point, and begins again on the same snapshot when
// the server went away meanwhile, or the connection to the snapshot.
func (b *backup) transferUntilDone(ctx context.Context) (*cairnv1.RecoveryPoint, error) {
	stop := b.j.showProgress(ctx, b.dataTask, b.pr, !b.safety)
	defer stop()
	giveUp := time.Now().Add(transferFor)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		before := b.pr.read.Load()
		point, err := b.transferOnce(ctx)
		if err == nil {
			return point, nil
		}
		if ctx.Err() != nil {
			b.abandon()
			return nil, context.Cause(ctx)
		}
		transient := client.Transient(err) || errors.Is(err, source.ErrDisconnected)
		switch client.Reason(err) {
		case cairnv1.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND, cairnv1.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED:
			// The server restarted, or was gone for longer than the lease.
			b.token, transient = "", true
		}
		if !transient || errors.Is(err, source.ErrSnapshotLost) {
			b.abandon()
			return nil, err
		}
		if b.pr.read.Load() > before {
			giveUp, wait = time.Now().Add(transferFor), 100*time.Millisecond
		}
		if time.Now().After(giveUp) {
			b.abandon()
			return nil, err
		}
		b.j.a.Log.Warn("transfer broke; going on from the same snapshot", "job", b.j.name, "err", client.Message(err))
		pause(ctx, wait)
	}
}

// abandon ends an upload that leads nowhere, so that the vault need not wait
// for its lease. If that fails, the lease will do.
func (b *backup) abandon() {
	if b.token == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = b.j.a.c.Blocks.AbortUpload(ctx, &cairnv1.AbortUploadRequest{UploadToken: b.token})
	b.token = ""
}

// commit makes the point of an upload whose maps are written.
func (b *backup) commit(ctx context.Context, up *client.Upload) (*cairnv1.RecoveryPoint, error) {
	var warnings []*cairnv1.Warning
	b.j.update(func(r *cairnv1.ReportJobRequest) { warnings = slices.Clone(r.Warnings) })
	info := b.info
	req := &cairnv1.CommitUploadRequest{
		SnapshotTime:          timestamppb.New(info.Time),
		Consistency:           consistency(info.Consistency),
		MachineTitle:          info.Machine.Title,
		GuestOs:               info.Machine.GuestOS,
		MachineDefinition:     info.Definition,
		MachineDefinitionType: info.DefinitionKind,
		Warnings:              warnings,
		Checkpoint:            info.Checkpoint,
	}
	b.committing = true
	// Committing again answers the same, so an answer that was lost on the way
	// is asked for once more rather than the transfer begun anew.
	for attempt := 0; ; attempt++ {
		point, err := up.Commit(ctx, req)
		switch {
		case err == nil:
			return point, nil
		case attempt == 5 || !client.Transient(err):
			return nil, fmt.Errorf("commit: %w", err)
		}
		pause(ctx, 200*time.Millisecond<<attempt)
	}
}

// committed finds the point if an earlier commit has made it after all: a server
// that was restarted knows the point, but its upload no more.
func (b *backup) committed(ctx context.Context) (*cairnv1.RecoveryPoint, error) {
	if !b.committing {
		return nil, nil
	}
	resp, err := b.j.a.c.Points.ListRecoveryPoints(ctx, &cairnv1.ListRecoveryPointsRequest{Parent: b.w.GetProtectedItem(), PageSize: 10})
	if err != nil {
		return nil, err
	}
	for _, p := range resp.GetRecoveryPoints() {
		if p.GetJob() == b.j.name {
			return p, nil
		}
	}
	return nil, nil
}
