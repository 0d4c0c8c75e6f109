package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cairn/client/source"
	"cairn/client/source/qmp"
)

// prepare does what can be done before the freeze.
func (snap *snapshot) prepare(w work) error {
	err := snap.conn.ask(snap.ctx, "nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": w.socket}}}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) && strings.Contains(refused.Desc, "already running") {
		return fmt.Errorf("%w: the NBD server of its QEMU is in use by another program (there is one per process); wait until that has ended, or stop it with nbd-server-stop", source.ErrMachineState)
	} else if err != nil {
		return err
	}
	snap.s.reached("server")
	for n, d := range snap.plan {
		if err := w.create(snap.ctx, n, d.Size, snap.conn); err != nil {
			return fmt.Errorf("disk %s: %w", d.Target, err)
		}
		err := snap.conn.ask(snap.ctx, "blockdev-add", args{
			"driver": "qcow2", "node-name": snap.point.scratch(n), "backing": d.node, "discard": "unmap",
			"cache": args{"no-flush": true}, // nothing in it outlives a crash
			"file":  args{"driver": "file", "filename": w.file(n), "cache": args{"no-flush": true}},
		}, nil)
		if err != nil {
			return fmt.Errorf("disk %s: scratch file: %w", d.Target, err)
		}
	}
	return nil
}

// take makes the point in time of all disks: one transaction.
func (snap *snapshot) take(ctx context.Context) error {
	snap.s.reached("take")
	var actions []args
	add := func(kind string, data args) { actions = append(actions, args{"type": kind, "data": data}) }
	for n, d := range snap.plan {
		add("block-dirty-bitmap-add", args{"node": d.node, "name": snap.point.bitmap(d.Size), "granularity": granularity, "persistent": d.persistent})
		if old := snap.bitmaps[n]; old != "" {
			add("block-dirty-bitmap-add", args{"node": d.node, "name": snap.point.changes(), "granularity": granularity, "disabled": true})
			add("block-dirty-bitmap-merge", args{"node": d.node, "target": snap.point.changes(), "bitmaps": []string{old}})
		}
	}
	for n, d := range snap.plan {
		add("blockdev-backup", args{"job-id": snap.point.scratch(n), "device": d.node, "target": snap.point.scratch(n),
			"sync": "none", "filter-node-name": snap.point.filter(n)})
	}
	err := snap.conn.ask(ctx, "transaction", args{"actions": actions}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: QEMU does not allow a snapshot now, perhaps because of another operation on its disks: %w", source.ErrMachineState, err)
	}
	return err
}
