package agent

import (
	"context"
	"errors"
	"fmt"
	"path"

	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// inPlace restores the point over the machine itself: it is stopped if that is
// asked for, a safety point is made of what its disks hold, and only when all
// new disks are complete they take the place of the old. Whatever fails before
// that, the machine keeps its disks, and runs again if it ran.
func (r *restore) inPlace(ctx context.Context, w *cairnv1.RestoreInPlace) (err error) {
	id := path.Base(r.w.GetMachine())
	r.j.plan(taskSafety, taskRestore)
	r.measure()
	rs, err := r.restorer()
	if err != nil {
		return err
	}
	state, exists, err := r.machine(ctx, id)
	if err != nil {
		return err
	}
	ran := exists && state != source.StateStopped && state != source.StateUnknown
	if ran && !w.GetStopMachine() {
		return reasonError{cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE, "Shut the machine down, or ask for it to be stopped, and retry.",
			fmt.Errorf("%w: machine %s is %s; its disks can only be replaced while it is off", source.ErrMachineState, id, state)}
	}
	r.planInPlace(ran, exists, ran || w.GetStart())
	if ran {
		r.j.begin(taskStop)
		if ran, err = rs.StopMachine(ctx, id); err != nil && !errors.Is(err, source.ErrMachineNotFound) {
			// It may be off by now, or half way there.
			defer r.startAgain(ctx, rs, id, &err)
			return fmt.Errorf("stop machine %s: %w", id, err)
		}
		exists = err == nil
		r.j.done(taskStop)
		if ran {
			defer r.startAgain(ctx, rs, id, &err)
		}
	}
	if err := r.safetyPoint(ctx, id, exists); err != nil {
		return fmt.Errorf("safety point: %w", err)
	}
	spec, err := r.spec(ctx)
	if err != nil {
		return err
	}
	spec.MachineID = id
	re, err := rs.PrepareRestore(ctx, spec)
	if err != nil {
		return err
	}
	defer r.abortOn(ctx, &err, re)
	r.j.warnings(re.Warnings())
	start := ran || w.GetStart()
	if err := r.fill(ctx, re, start); err != nil {
		return err
	}
	what := "has the disks of the point"
	if !exists {
		what = "is defined anew"
	}
	if start {
		what += " and runs"
	}
	r.outcome("machine %s %s", id, what)
	return nil
}

// planInPlace lists the tasks that are going to be done.
func (r *restore) planInPlace(stop, safety, start bool) {
	var titles []string
	for _, t := range []struct {
		title string
		does  bool
	}{{taskStop, stop}, {taskSafety, safety}, {taskRestore, true}, {taskStart, start}} {
		if t.does {
			titles = append(titles, t.title)
		}
	}
	r.j.plan(titles...)
	r.measure()
}

// machine looks a machine up. Its state is worth nothing if it does not exist.
func (r *restore) machine(ctx context.Context, id string) (s source.State, exists bool, err error) {
	ms, err := r.j.a.Source.Machines(ctx)
	if err != nil {
		return s, false, fmt.Errorf("discover machines: %w", err)
	}
	for _, m := range ms {
		if m.ID == id {
			return m.State, true, nil
		}
	}
	return s, false, nil
}

// startAgain starts a machine that was stopped for a restore which failed.
func (r *restore) startAgain(ctx context.Context, rs source.Restorer, id string, err *error) {
	if *err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoFor)
	defer cancel()
	if e := rs.StartMachine(ctx, id); e != nil {
		r.j.a.Log.Error("start machine again", "job", r.j.name, "machine", id, "err", e)
		r.j.warn(cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE, fmt.Errorf("machine %s ran before the restore and could not be started again: %w", id, e))
		r.outcome("machine %s has its old disks and is off", id)
		return
	}
	r.outcome("machine %s has its old disks and runs again", id)
}

// safetyPoint backs the machine up as it is before its disks are replaced. The
// machine is off, so the server asks for no consistency beyond that of its disks.
func (r *restore) safetyPoint(ctx context.Context, id string, exists bool) error {
	if !exists {
		r.j.warn(cairnv1.ErrorReason_ERROR_REASON_MACHINE_GONE, fmt.Errorf("machine %s does not exist any more, so there is no safety point of it", id))
		return nil
	}
	if r.w.GetSafetyBackup() == nil {
		return reasonError{cairnv1.ErrorReason_ERROR_REASON_INTERNAL, "Upgrade the server.", errors.New("the server did not say how to make it")}
	}
	b := &backup{j: r.j, w: r.w.GetSafetyBackup(), snapshotTask: taskSafety, dataTask: taskSafety, safety: true}
	p, err := b.run(ctx)
	if err == nil {
		r.j.a.Log.Info("safety point made", "job", r.j.name, "point", p.GetName())
	}
	return err
}
