package qemu

import (
	"context"
	"encoding/json"
	"fmt"

	"cairn/client/source"
	"cairn/client/source/live"
)

// mind watches over a snapshot that was taken: when it can't be read any more,
// snap.ctx ends with the reason. snap.stop ends the watch.
func (snap *snapshot) mind(w work) {
	l := snap.conn.Listen("JOB_STATUS_CHANGE", "BLOCK_IO_ERROR")
	snap.minder.Go(func() {
		defer l.Close()
		for {
			e, err := l.Next(snap.ctx)
			if snap.ctx.Err() != nil {
				return
			} else if err != nil {
				snap.cancel(fmt.Errorf("%w: QEMU is gone: %w", source.ErrSnapshotLost, err))
				return
			}
			var data struct {
				ID      string
				Status  string
				NoSpace bool   `json:"nospace"`
				Action  string `json:"action"`
			}
			json.Unmarshal(e.Data, &data) // what is not understood is not ours
			switch {
			case e.Name == "JOB_STATUS_CHANGE" && snap.point.owns(data.ID) && !alive[data.Status] && data.Status != "created":
				snap.cancel(fmt.Errorf("%w: QEMU's job of it ended: somebody cancelled it, or the machine is being stopped", source.ErrSnapshotLost))
				return
			case e.Name == "BLOCK_IO_ERROR" && data.NoSpace:
				snap.outOfSpace("QEMU has no space for what the guest writes", data.Action == "stop")
				return
			}
		}
	})
	snap.stop = live.WatchSpace(snap.ctx, w.scratch, snap.s.o.Reserve, func(free int64) {
		snap.outOfSpace(fmt.Sprintf("%s has %d bytes left for what the guest overwrites, and %d are kept in reserve: make room there, or choose another scratch directory", w.scratch, free, snap.s.o.Reserve), false)
	})
}

// outOfSpace ends the snapshot for the guest's sake. A guest that was stopped
// goes on: the write that failed is then repeated.
func (snap *snapshot) outOfSpace(why string, stopped bool) {
	snap.cancel(fmt.Errorf("%w: %s", source.ErrSnapshotSpace, why))
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	if err := snap.end(ctx); err != nil {
		snap.s.o.Log.Error("snapshot out of space: it cannot be removed yet", "machine", snap.id, "err", err)
		return
	}
	var now struct{ Status string }
	if !stopped || snap.conn.ask(ctx, "query-status", nil, &now) != nil || now.Status != "io-error" {
		return
	}
	if err := snap.conn.ask(ctx, "cont", nil, nil); err != nil {
		snap.s.o.Log.Error("machine stopped for lack of space: it does not go on", "machine", snap.id, "err", err)
	}
}

// alive are the states of a job that guards a snapshot.
var alive = map[string]bool{"running": true, "paused": true, "ready": true, "standby": true, "created": true}

// Check implements source.Snapshot: it asks whether the jobs that keep the
// picture are still there. It is also what disks ask when reading fails.
//
// Errors: source.ErrSnapshotLost, source.ErrSnapshotSpace, ctx's.
func (snap *snapshot) Check(ctx context.Context) error {
	if err := context.Cause(snap.ctx); err != nil {
		return err
	}
	var jobs []job
	c, release, err := snap.s.monitor(snap.session.Record().Extra[extraQMP]).connect(ctx)
	if err == nil {
		defer release()
		err = c.ask(ctx, "query-jobs", nil, &jobs)
	}
	switch {
	case context.Cause(snap.ctx) != nil:
		return context.Cause(snap.ctx)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%w: %w", source.ErrSnapshotLost, err)
	}
	n := 0
	for _, j := range jobs {
		if snap.point.owns(j.ID) && alive[j.Status] {
			n++
		}
	}
	if n != len(snap.plan) {
		return fmt.Errorf("%w: %d of its %d jobs are there in QEMU", source.ErrSnapshotLost, n, len(snap.plan))
	}
	return nil
}
