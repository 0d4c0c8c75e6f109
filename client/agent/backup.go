package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// Tasks of a backup, in the words that users know.
const (
	taskSnapshot = iota
	taskTransfer
)

// transferFor is how long a transfer that made no progress, because the server
// is gone, is tried again on the same snapshot.
const transferFor = 5 * time.Minute

// backup runs a BACKUP job.
func (j *job) backup(ctx context.Context, w *cairnv1.BackupWork) error {
	j.update(func(r *cairnv1.ReportJobRequest) {
		r.Tasks = []*cairnv1.JobTask{
			{Title: "Take Snapshot", State: cairnv1.JobState_JOB_STATE_IN_PROGRESS, StartTime: timestamppb.Now()},
			{Title: "Transfer data to vault", State: cairnv1.JobState_JOB_STATE_QUEUED},
		}
	})
	snap, err := j.a.Source.Snapshot(ctx, path.Base(w.GetMachine()), source.SnapshotOptions{Exclude: w.GetExcludedDisks()})
	if err != nil {
		return snapshotError{err}
	}
	defer snap.Close()
	info := snap.Info()
	j.update(func(r *cairnv1.ReportJobRequest) {
		now := timestamppb.Now()
		t := r.Tasks[taskSnapshot]
		t.State, t.EndTime = cairnv1.JobState_JOB_STATE_COMPLETED, now
		t = r.Tasks[taskTransfer]
		t.State, t.StartTime = cairnv1.JobState_JOB_STATE_IN_PROGRESS, now
		r.Stats.Frozen = durationpb.New(info.FrozenFor)
		for _, w := range info.Warnings {
			r.Warnings = append(r.Warnings, &cairnv1.Warning{Reason: warningReason(w.Kind), Message: w.Text})
		}
	})
	pr, err := j.measure(ctx, snap)
	if err != nil {
		return err
	}
	point, err := j.transferUntilDone(ctx, w, snap, pr)
	if err != nil {
		return err
	}
	if err := snap.Keep(ctx); err != nil {
		// The point is there and good; only the next backup reads more.
		j.warn(cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, err)
	}
	j.update(func(r *cairnv1.ReportJobRequest) {
		t := r.Tasks[taskTransfer]
		t.State, t.EndTime = cairnv1.JobState_JOB_STATE_COMPLETED, timestamppb.Now()
		t.DoneBytes, t.Detail = t.TotalBytes, ""
	})
	j.a.Log.Info("recovery point made", "job", j.name, "point", point.GetName())
	return nil
}

// measure adds up what is going to be read.
func (j *job) measure(ctx context.Context, snap source.Snapshot) (*progress, error) {
	pr := &progress{}
	var size int64
	for _, d := range snap.Disks() {
		size += d.Info().Size
		err := d.Extents(ctx, func(e source.Extent) error {
			if !e.Zero {
				pr.total.Add(e.Length)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("disk %s: list extents: %w", d.Info().Target, err)
		}
	}
	j.update(func(r *cairnv1.ReportJobRequest) {
		r.Stats.DiskBytes = size
		r.Stats.AllocatedBytes = pr.total.Load()
		r.Tasks[taskTransfer].TotalBytes = pr.total.Load()
	})
	return pr, nil
}

// transferUntilDone makes the point, and begins again on the same snapshot when
// the server went away meanwhile.
func (j *job) transferUntilDone(ctx context.Context, w *cairnv1.BackupWork, snap source.Snapshot, pr *progress) (*cairnv1.RecoveryPoint, error) {
	stop := j.showProgress(ctx, pr)
	defer stop()
	token := ""
	giveUp := time.Now().Add(transferFor)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		before := pr.read.Load()
		point, err := j.transferOnce(ctx, w, snap, pr, &token)
		if err == nil {
			return point, nil
		}
		if ctx.Err() != nil {
			j.abandon(token)
			return nil, context.Cause(ctx)
		}
		switch client.Reason(err) {
		case cairnv1.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND, cairnv1.ErrorReason_ERROR_REASON_UPLOAD_EXPIRED:
			token = "" // the server restarted, or was gone for longer than the lease
		default:
			if !client.Transient(err) {
				j.abandon(token)
				return nil, err
			}
		}
		if pr.read.Load() > before {
			giveUp = time.Now().Add(transferFor)
		}
		if time.Now().After(giveUp) {
			return nil, err
		}
		j.a.Log.Warn("transfer broke; going on from the same snapshot", "job", j.name, "err", client.Message(err))
		pause(ctx, wait)
	}
}

// abandon ends an upload that leads nowhere, so that the vault need not wait
// for its lease. If that fails, the lease will do.
func (j *job) abandon(token string) {
	if token == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = j.a.c.Blocks.AbortUpload(ctx, &cairnv1.AbortUploadRequest{UploadToken: token})
}

// transferOnce makes the point over one upload: the one that token names, or,
// with none, a new one whose token it leaves there.
func (j *job) transferOnce(ctx context.Context, w *cairnv1.BackupWork, snap source.Snapshot, pr *progress, token *string) (*cairnv1.RecoveryPoint, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // streams that were left in the middle
	pr.done.Store(0)

	base, err := j.base(ctx, w.GetBaseRecoveryPoint())
	if err != nil {
		return nil, err
	}
	req := &cairnv1.CreateUploadRequest{
		Parent: w.GetProtectedItem(), Job: j.name, LeaseToken: j.token,
		BaseRecoveryPoint: base.GetName(), ResumeToken: *token,
	}
	for _, d := range snap.Disks() {
		i := d.Info()
		req.Disks = append(req.Disks, &cairnv1.UploadDisk{Target: i.Target, Size: i.Size, SourceFormat: i.Format})
	}
	up, err := j.a.c.StartUpload(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("start upload: %w", err)
	}
	*token = up.Token
	t := &transfer{up: up, compression: j.a.Compression, progress: pr, base: map[string]diskmap.Map{}}
	if base != nil {
		t.reader = j.a.c.Reader(base.GetName())
		for _, d := range base.GetDisks() {
			m, err := client.Map(d)
			if err != nil {
				return nil, fmt.Errorf("base %s: %w", base.GetName(), err)
			}
			t.base[d.GetTarget()] = m
		}
	}
	j.compareLayout(base, snap.Info())
	changed, sent, err := t.disks(ctx, snap)
	if err != nil {
		return nil, err
	}
	if err := snap.Check(ctx); errors.Is(err, source.ErrChanged) {
		j.warn(cairnv1.ErrorReason_ERROR_REASON_IMAGE_CHANGED, err)
	} else if err != nil {
		return nil, err
	}
	j.update(func(r *cairnv1.ReportJobRequest) {
		r.Stats.NewBlocks, r.Stats.NewBytes, r.Stats.SentBytes = sent.NewBlocks, sent.NewBytes, sent.StoredBytes
		r.Stats.ChangedBlocks, r.Stats.ReadBytes = changed, pr.read.Load()
	})
	info := snap.Info()
	commit := &cairnv1.CommitUploadRequest{
		SnapshotTime:          timestamppb.New(info.Time),
		Consistency:           consistency(info.Consistency),
		MachineTitle:          info.Machine.Title,
		GuestOs:               info.Machine.GuestOS,
		MachineDefinition:     info.Definition,
		MachineDefinitionType: info.DefinitionKind,
		Warnings:              j.report.GetWarnings(),
	}
	// Committing again answers the same, so an answer that was lost on the way
	// is asked for once more rather than the transfer begun anew.
	for attempt := 0; ; attempt++ {
		point, err := up.Commit(ctx, commit)
		switch {
		case err == nil:
			return point, nil
		case attempt == 5 || !client.Transient(err):
			return nil, fmt.Errorf("commit: %w", err)
		}
		pause(ctx, 200*time.Millisecond<<attempt)
	}
}

// compareLayout warns of disks that the newest point has and the machine has
// not, or has smaller: an image that was cut short looks just like a disk that
// somebody shrank. What was excluded since was somebody's wish.
func (j *job) compareLayout(base *cairnv1.RecoveryPoint, info source.SnapshotInfo) {
	now := map[string]int64{}
	for _, d := range info.Machine.Disks {
		now[d.Target] = d.Size
	}
	for _, d := range base.GetDisks() {
		if size, there := now[d.GetTarget()]; !there {
			j.warn(cairnv1.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED, fmt.Errorf("disk %s, which the last point has, is gone", d.GetTarget()))
		} else if size < d.GetSize() {
			j.warn(cairnv1.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED,
				fmt.Errorf("disk %s is smaller than in the last point: %d bytes, it had %d; was its image cut short?", d.GetTarget(), size, d.GetSize()))
		}
	}
}

// disks scans all disks, waits until what was sent is durable, and writes the maps.
func (t *transfer) disks(ctx context.Context, snap source.Snapshot) (changed int64, sent client.Sent, err error) {
	t.stream, err = t.up.SendBlocks(ctx)
	if err != nil {
		return 0, sent, fmt.Errorf("send blocks: %w", err)
	}
	defer t.stream.Cancel()
	var results []*diskResult
	defer func() {
		for _, r := range results {
			r.spool.close()
		}
	}()
	for _, d := range snap.Disks() {
		r, err := t.scan(ctx, d)
		if err != nil {
			return 0, sent, err
		}
		results = append(results, r)
	}
	if sent, err = t.stream.Close(); err != nil {
		return 0, sent, fmt.Errorf("send blocks: %w", err)
	}
	for _, r := range results {
		n, err := t.writeMap(ctx, r)
		if err != nil {
			return 0, sent, err
		}
		changed += n
	}
	return changed, sent, nil
}

// base is the point to build on; nil if there is none, or none any more.
func (j *job) base(ctx context.Context, name string) (*cairnv1.RecoveryPoint, error) {
	if name == "" {
		return nil, nil
	}
	resp, err := j.a.c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: name})
	if client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND {
		return nil, nil
	}
	return resp.GetRecoveryPoint(), err
}

// showProgress copies what a transfer counts to what is told about the job.
func (j *job) showProgress(ctx context.Context, pr *progress) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	show := func() {
		j.update(func(r *cairnv1.ReportJobRequest) {
			t := r.Tasks[taskTransfer]
			t.DoneBytes = min(pr.done.Load(), t.TotalBytes)
			t.Detail, _ = pr.disk.Load().(string)
			r.Stats.ReadBytes = pr.read.Load()
		})
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(reportEvery / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (j *job) warn(reason cairnv1.ErrorReason, err error) {
	j.update(func(r *cairnv1.ReportJobRequest) {
		for _, w := range r.Warnings {
			if w.Reason == reason && w.Message == err.Error() {
				return // a transfer that began again says it again
			}
		}
		r.Warnings = append(r.Warnings, &cairnv1.Warning{Reason: reason, Message: err.Error()})
	})
}

func consistency(c source.Consistency) cairnv1.ConsistencyClass {
	switch c {
	case source.FileSystemConsistent:
		return cairnv1.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT
	case source.ApplicationConsistent:
		return cairnv1.ConsistencyClass_CONSISTENCY_CLASS_APPLICATION_CONSISTENT
	}
	return cairnv1.ConsistencyClass_CONSISTENCY_CLASS_CRASH_CONSISTENT
}
