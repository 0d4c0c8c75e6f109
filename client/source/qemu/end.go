package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"cairn/client/source"
	"cairn/client/source/live"
	"cairn/client/source/qmp"
)

// endLimit is how long the removal of a snapshot may take in all.
const endLimit = 60 * time.Second

type job struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// Keep implements source.Snapshot: the earlier checkpoint will go and this one
// stay, also if this process dies before Close.
func (snap *snapshot) Keep(ctx context.Context) error {
	snap.ending.Lock()
	defer snap.ending.Unlock()
	if snap.ended {
		return fmt.Errorf("%w: its checkpoint is gone, too", source.ErrSnapshotLost)
	}
	return decideKeep(snap.session, keepYes)
}

func decideKeep(s *live.Session, keep string) error {
	r := s.Record()
	r.Extra[extraKeep] = keep
	return s.Update(r)
}

// Close implements source.Snapshot.
func (snap *snapshot) Close() error {
	snap.once.Do(func() {
		snap.cancel(errors.New("the snapshot is closed"))
		snap.stop()
		snap.minder.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), endLimit)
		defer cancel()
		snap.err = snap.end(ctx)
		snap.release()
		snap.s.unclaim(snap.id)
	})
	return snap.err
}

// end removes the snapshot, if it is still there.
func (snap *snapshot) end(ctx context.Context) error {
	snap.ending.Lock()
	defer snap.ending.Unlock()
	for _, d := range snap.disks {
		d.Close()
	}
	if snap.session == nil || snap.ended {
		return nil
	}
	if snap.session.Record().Extra[extraKeep] == "" {
		if err := decideKeep(snap.session, keepNo); err != nil {
			snap.session.Release()
			return err
		}
	}
	snap.ended = true
	return snap.s.finish(ctx, snap.session, false)
}

// finish ends a session whose fate is decided: nothing is left of it. If QEMU is
// gone, or the session cannot be ended now, it is left to sweep and CleanUp; only
// the latter is an error. With again it is left to CleanUp in any case.
func (s *Source) finish(ctx context.Context, session *live.Session, again bool) error {
	r := session.Record()
	c, release, err := s.monitor(r.Extra[extraQMP]).connect(ctx)
	if err == nil {
		defer release()
		err = c.remove(ctx, session)
	}
	switch {
	case errors.Is(err, errGone):
		// Bitmaps may lie in qcow2 files. They are removed when there is a QEMU
		// that can.
		err = workOf(session).remove()
		if again || s.described(r.Extra[extraQMP]) {
			session.Release()
			return err
		}
	case err == nil:
		err = workOf(session).remove()
	}
	if err != nil {
		session.Release()
		return fmt.Errorf("end the snapshot of machine %s: %w", r.Machine, err)
	}
	if again {
		session.Release()
		return nil
	}
	return session.Remove()
}

// described tells whether a machine with that monitor may come back.
func (s *Source) described(path string) bool {
	list, err := descriptors(s.o.Dir)
	for _, d := range list {
		if d.QMP == path {
			return true
		}
	}
	return err != nil
}

// remove takes all that a session put there out of QEMU, and the bitmaps that
// are not needed any more.
func (c *shared) remove(ctx context.Context, session *live.Session) error {
	r := session.Record()
	point := checkpoint(r.Checkpoint)
	if point == "" || !strings.HasPrefix(r.Checkpoint, live.CheckpointPrefix) {
		return fmt.Errorf("its record names no checkpoint")
	}
	l := c.Listen("JOB_STATUS_CHANGE", "BLOCK_EXPORT_DELETED")
	defer l.Close()

	var exports, jobs []job
	err := c.until(ctx, l, func(first bool) (bool, error) {
		exports = nil // nothing of the last answer
		if err := c.ask(ctx, "query-block-exports", nil, &exports); err != nil {
			return false, err
		}
		return c.each(ctx, point, exports, first, "block-export-del", args{"mode": "hard"})
	})
	if err != nil {
		return err
	}
	err = c.until(ctx, l, func(first bool) (bool, error) {
		jobs = nil // nothing of the last answer
		if err := c.ask(ctx, "query-jobs", nil, &jobs); err != nil {
			return false, err
		}
		return c.each(ctx, point, jobs, first, "job-cancel", args{})
	})
	if err != nil {
		return err
	}
	var nodes []blockNode
	err = c.until(ctx, l, func(bool) (bool, error) {
		nodes = nil
		if err := c.ask(ctx, "query-named-block-nodes", args{"flat": true}, &nodes); err != nil {
			return false, err
		}
		done := true
		for _, n := range nodes {
			if point.owns(n.NodeName) {
				done = false
				// It may be in use for moments yet: this is repeated.
				if err := c.try(ctx, "blockdev-del", args{"node-name": n.NodeName}); err != nil {
					return false, err
				}
			}
		}
		return done, nil
	})
	if err != nil {
		return err
	}
	since := checkpoint(r.Extra[extraSince])
	keep := r.Extra[extraKeep] == keepYes
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			_, main := point.records(b.Name)
			_, old := since.records(b.Name)
			if point.owns(b.Name) && !(main && keep) || old && keep {
				if err := c.ask(ctx, "block-dirty-bitmap-remove", args{"node": n.NodeName, "name": b.Name}, nil); err != nil {
					return err
				}
			}
		}
	}
	// Last, see serves: by now QEMU has seen that our connections are closed.
	ours, err := c.serves(session)
	if err != nil {
		return err
	} else if ours {
		if err := c.try(ctx, "nbd-server-stop", nil); err != nil {
			return err
		}
	}
	return nil
}

// serves tells whether QEMU's NBD server is a session's. There is no query for it;
// but QEMU makes the socket's file when the server starts and removes it when it
// stops.
//
// It must not be tried by connecting: QEMU 7.2 hangs for good in nbd-server-stop,
// and the machine with it, while a client is in its handshake.
func (c *shared) serves(session *live.Session) (bool, error) {
	if _, err := os.Lstat(workOf(session).socket); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	process, err := processOf(c)
	return process == session.Record().Extra[extraProcess], err
}

// each runs a command on those of list that are the checkpoint's, and tells
// whether there are none left. They go in their own time; it is said only once.
func (c *shared) each(ctx context.Context, point checkpoint, list []job, say bool, command string, arguments args) (bool, error) {
	none := true
	for _, j := range list {
		if !point.owns(j.ID) {
			continue
		}
		none = false
		if say {
			arguments["id"] = j.ID
			if err := c.try(ctx, command, arguments); err != nil {
				return false, err
			}
		}
	}
	return none, nil
}

// try is ask, but a refusal does not matter: what is to go may have gone.
func (c *shared) try(ctx context.Context, command string, arguments any) error {
	err := c.ask(ctx, command, arguments, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// until calls look until it says that it is done: again after each event, and
// at least every now and then.
func (c *shared) until(ctx context.Context, l *qmp.Listener, look func(first bool) (done bool, err error)) error {
	for first := true; ; first = false {
		done, err := look(first)
		if done || err != nil {
			return err
		}
		timed, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err = l.Next(timed)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, qmp.ErrClosed):
			return fmt.Errorf("%w: %w", errGone, err)
		}
	}
}
