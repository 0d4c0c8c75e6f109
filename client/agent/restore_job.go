package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// undoFor is how long it may take to undo a restore that failed, and to start
// the machine again.
const undoFor = 2 * time.Minute

// restore is a RESTORE job under way.
type restore struct {
	j     *job
	w     *cairnv1.RestoreWork
	point *cairnv1.RecoveryPoint
	r     *client.Reader
	disks []*cairnv1.RecoveryPointDisk // that are restored
	pr    *progress
}

// restore runs a RESTORE job.
func (j *job) restore(ctx context.Context, w *cairnv1.RestoreWork) error {
	p, err := j.point(ctx, w.GetRecoveryPoint())
	switch {
	case err != nil:
		return fmt.Errorf("read the point: %w", err)
	case p == nil:
		return reasonError{cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND, "Restore another point.",
			fmt.Errorf("recovery point %s does not exist any more", w.GetRecoveryPoint())}
	}
	var release func()
	if err := patiently(ctx, func() (err error) {
		release, err = j.a.c.HoldPoint(ctx, p.GetName(), client.Holder("restore"))
		return err
	}); err != nil {
		return fmt.Errorf("hold the point: %w", err)
	}
	defer release()
	r := &restore{j: j, w: w, point: p, r: j.a.c.Reader(p.GetName()), disks: p.GetDisks(), pr: &progress{}}
	r.r.RetryFor = patience
	switch t := w.GetTarget().(type) {
	case *cairnv1.RestoreWork_Disks:
		return r.disksOnly(ctx, t.Disks)
	case *cairnv1.RestoreWork_NewMachine:
		return r.newMachine(ctx, t.NewMachine)
	case *cairnv1.RestoreWork_InPlace:
		return r.inPlace(ctx, t.InPlace)
	}
	return fmt.Errorf("this agent does not know this kind of restore: upgrade it")
}

// measure says how much there is to do.
func (r *restore) measure() {
	var size, data int64
	for _, d := range r.disks {
		size += d.GetSize()
		data += d.GetDataBytes()
	}
	r.pr.total.Store(data)
	r.j.task(taskRestore, func(t *cairnv1.JobTask) { t.TotalBytes = data })
	r.j.update(func(q *cairnv1.ReportJobRequest) { q.Stats.DiskBytes, q.Stats.AllocatedBytes = size, data })
}

func (r *restore) outcome(format string, args ...any) {
	text := clip(fmt.Sprintf(format, args...))
	r.j.update(func(q *cairnv1.ReportJobRequest) { q.Outcome = text })
}

// write restores all disks, one after the other, each to the writer that open
// gives.
func (r *restore) write(ctx context.Context, open func(ctx context.Context, d *cairnv1.RecoveryPointDisk) (source.DiskWriter, error)) error {
	stop := r.j.showProgress(ctx, taskRestore, r.pr, true)
	defer stop()
	for _, d := range r.disks {
		r.pr.detail.Store(d.GetTarget())
		if err := r.writeDisk(ctx, d, open); err != nil {
			return fmt.Errorf("restore disk %s: %w", d.GetTarget(), err)
		}
	}
	return nil
}

func (r *restore) writeDisk(ctx context.Context, d *cairnv1.RecoveryPointDisk, open func(ctx context.Context, d *cairnv1.RecoveryPointDisk) (source.DiskWriter, error)) error {
	m, err := client.Map(d)
	if err != nil {
		return err
	}
	w, err := open(ctx, d)
	if err != nil {
		return err
	}
	defer w.Abort()
	err = RestoreDisk(ctx, r.r, m, w, func(n int64) {
		r.pr.done.Add(n)
		r.pr.read.Add(n)
	})
	if err != nil {
		return err
	}
	return w.Commit(ctx)
}

// disksOnly writes disks to files of a directory and over volumes. Files that
// were complete when something failed are removed again: the job is retried as a
// whole.
func (r *restore) disksOnly(ctx context.Context, w *cairnv1.RestoreDisks) (err error) {
	r.j.plan(taskRestore)
	r.j.begin(taskRestore)
	format := w.GetFormat()
	create := source.CreateRaw
	switch format {
	case "", "raw":
		format = "raw"
	case "qcow2":
		create = source.CreateQCOW2
	default:
		return reasonError{cairnv1.ErrorReason_ERROR_REASON_INVALID_FIELD, "", fmt.Errorf("format %q: must be raw or qcow2", format)}
	}
	if err := r.pick(w); err != nil {
		return err
	}
	r.measure()
	if w.GetDirectory() != "" {
		if err := os.MkdirAll(w.GetDirectory(), 0o700); err != nil {
			return err
		}
	}
	var files, places []string
	defer func() {
		if err != nil {
			for _, f := range files {
				if e := os.Remove(f); e != nil && !errors.Is(e, os.ErrNotExist) {
					r.j.a.Log.Error("remove what a restore has written", "job", r.j.name, "err", e)
				}
			}
		}
	}()
	err = r.write(ctx, func(ctx context.Context, d *cairnv1.RecoveryPointDisk) (source.DiskWriter, error) {
		if v := w.GetVolumes()[d.GetTarget()]; v != "" {
			places = append(places, v)
			return source.OpenVolume(ctx, v, d.GetSize())
		}
		file := filepath.Join(w.GetDirectory(), d.GetTarget()+"."+format)
		dw, err := create(ctx, file, d.GetSize(), d.GetDataBytes())
		if err != nil {
			return nil, err
		}
		places = append(places, file)
		return &noting{dw, func() { files = append(files, file) }}, nil
	})
	if err != nil {
		return err
	}
	r.j.done(taskRestore)
	r.outcome("restored to %s", strings.Join(places, ", "))
	return nil
}

// noting is a DiskWriter that tells when it was committed.
type noting struct {
	source.DiskWriter
	committed func()
}

func (n *noting) Commit(ctx context.Context) error {
	err := n.DiskWriter.Commit(ctx)
	if err == nil {
		n.committed()
	}
	return err
}

// pick chooses the disks that are asked for.
func (r *restore) pick(w *cairnv1.RestoreDisks) error {
	var have []string
	for _, d := range r.point.GetDisks() {
		have = append(have, d.GetTarget())
	}
	wanted := slices.Clone(w.GetTargets())
	if len(wanted) == 0 {
		wanted = have
	}
	for t := range w.GetVolumes() {
		wanted = append(wanted, t)
	}
	for _, t := range wanted {
		if !slices.Contains(have, t) {
			return reasonError{cairnv1.ErrorReason_ERROR_REASON_DISK_NOT_FOUND, "Name disks that the point has.",
				fmt.Errorf("the point has no disk %q: its disks are %v", t, have)}
		}
	}
	r.disks = nil
	for _, d := range r.point.GetDisks() {
		if !slices.Contains(wanted, d.GetTarget()) {
			continue
		}
		if w.GetDirectory() == "" && w.GetVolumes()[d.GetTarget()] == "" {
			return reasonError{cairnv1.ErrorReason_ERROR_REASON_INVALID_FIELD, "Give a directory, or a volume for every disk.",
				fmt.Errorf("disk %s has neither a directory nor a volume to go to", d.GetTarget())}
		}
		r.disks = append(r.disks, d)
	}
	return nil
}

// restorer is the source's side of restoring machines.
func (r *restore) restorer() (source.Restorer, error) {
	rs, ok := r.j.a.Source.(source.Restorer)
	if !ok {
		return nil, fmt.Errorf("host %s: %w: its agent serves %s, which defines no machines", r.j.a.Host, source.ErrRestoreUnsupported, r.j.a.SourceKind)
	}
	if len(r.point.GetMachineDefinition()) == 0 {
		return nil, fmt.Errorf("%w: the point holds no definition of the machine", source.ErrRestoreUnsupported)
	}
	return rs, nil
}

// spec describes the restore to the source.
func (r *restore) spec(ctx context.Context) (source.RestoreSpec, error) {
	files, err := readStateFiles(ctx, r.r, r.point.GetStateFiles())
	s := source.RestoreSpec{
		ID: path.Base(r.j.name), Definition: r.point.GetMachineDefinition(), DefinitionKind: r.point.GetMachineDefinitionType(), StateFiles: files,
	}
	for _, d := range r.disks {
		s.Disks = append(s.Disks, source.RestoreDisk{Target: d.GetTarget(), Path: d.GetPath(), Format: d.GetSourceFormat(), Size: d.GetSize(), Data: d.GetDataBytes()})
	}
	return s, err
}

// newMachine restores the point as a machine beside the old one.
func (r *restore) newMachine(ctx context.Context, w *cairnv1.RestoreNewMachine) (err error) {
	switch {
	case w.GetInstant():
		r.j.plan(taskStart, taskRestore)
	case w.GetStart():
		r.j.plan(taskRestore, taskStart)
	default:
		r.j.plan(taskRestore)
	}
	r.measure()
	rs, err := r.restorer()
	if err != nil {
		return err
	}
	spec, err := r.spec(ctx)
	if err != nil {
		return err
	}
	spec.New = &source.NewMachine{Title: w.GetTitle(), Directory: w.GetDirectory()}
	re, err := rs.PrepareRestore(ctx, spec)
	if err != nil {
		return err
	}
	defer r.abortOn(ctx, &err, re)
	r.j.warnings(re.Warnings())
	if w.GetInstant() {
		return r.instant(ctx, re, w.GetTitle())
	}
	if err := r.fill(ctx, re, w.GetStart()); err != nil {
		return err
	}
	state := "defined"
	if w.GetStart() {
		state = "defined and started"
	}
	r.outcome("machine %s is %s", w.GetTitle(), state)
	return nil
}

// abortOn undoes a restore that failed or was cancelled. An instant machine that
// somebody may be working with is only taken away if that was asked for: it
// outlives a server that is gone and an agent that is stopped, and a retry goes
// on with it.
func (r *restore) abortOn(ctx context.Context, err *error, re source.Restore) {
	if *err == nil {
		return
	}
	undo := re.Abort
	if k, ok := re.(source.Releaser); ok && !errors.Is(context.Cause(ctx), errCancelled) {
		undo = k.Release
	}
	if e := undo(); e != nil {
		r.j.a.Log.Error("undo a restore", "job", r.j.name, "err", e)
		r.j.warn(cairnv1.ErrorReason_ERROR_REASON_INTERNAL, fmt.Errorf("not everything that the restore had made could be removed: %w", e))
	}
}

// fill writes the disks of a machine and puts them in their places.
func (r *restore) fill(ctx context.Context, re source.Restore, start bool) error {
	r.j.begin(taskRestore)
	err := r.write(ctx, func(ctx context.Context, d *cairnv1.RecoveryPointDisk) (source.DiskWriter, error) {
		return re.Disk(ctx, d.GetTarget())
	})
	if err != nil {
		return err
	}
	r.j.done(taskRestore)
	if start {
		r.j.begin(taskStart)
	}
	if err := re.Commit(ctx, start); err != nil {
		return fmt.Errorf("put the disks in place: %w", err)
	}
	r.j.warnings(re.Warnings())
	r.j.done(taskStart)
	return nil
}
