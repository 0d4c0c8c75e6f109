package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cairn/client/source/guest"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/live"
)

const (
	// closeLimit bounds the end of a snapshot, a restart of the daemon included.
	closeLimit = 90 * time.Second
	// reconnectLimit is how long a daemon that is away is waited for.
	reconnectLimit = 45 * time.Second
	// endLimit bounds the end of a backup job.
	endLimit = 30 * time.Second
	lookSoon = 20 * time.Millisecond
	lookLate = 500 * time.Millisecond
)

// connection waits for the daemon if it is away: it may be restarting.
func (s *Source) connection(ctx context.Context) (daemon, error) {
	ctx, cancel := context.WithTimeout(ctx, reconnectLimit)
	defer cancel()
	for pause := lookSoon; ; pause = min(2*pause, time.Second) {
		conn, err := s.work.get(ctx)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// endSession removes all that a session's snapshot has left: its job, its
// checkpoint or, if that is kept, the older ones, its files. The guest is not
// frozen any more. It can be repeated.
func (s *Source) endSession(ctx context.Context, session *live.Session, keep bool) error {
	for {
		conn, err := s.connection(ctx)
		if err != nil {
			return err
		}
		if err = s.endOnce(ctx, conn, session.Record(), session.Dir(), keep); err == nil {
			break
		}
		if !errors.Is(err, rpc.ErrDisconnected) || ctx.Err() != nil {
			return failure(err)
		}
	}
	if dir := session.Record().Extra[scratchKey]; dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove scratch files: %w", err)
		}
	}
	return session.Remove()
}

func (s *Source) endOnce(ctx context.Context, conn daemon, r live.Record, dir string, keep bool) error {
	uuid, err := rpc.ParseUUID(r.HypervisorID)
	if err != nil {
		return err
	}
	dom, err := conn.LookupByUUID(ctx, uuid)
	if gone(err) {
		return nil
	} else if err != nil {
		return err
	}
	socket := filepath.Join(dir, qemuDir, socketName)
	owns := func(text string) bool {
		x, err := parseBackup(text)
		return err == nil && x.Server.Socket == socket
	}
	if err := endJob(ctx, conn, dom, owns); err != nil {
		return err
	}
	if state, _, err := conn.DomainState(ctx, dom); err != nil || !active(state) {
		if gone(err) || err == nil {
			// The bitmaps can only be deleted while there is a QEMU: after a later
			// snapshot the checkpoint is one of the older ones.
			return nil
		}
		return err
	}
	if keep {
		if err := s.prune(ctx, conn, dom, r.Checkpoint); err != nil {
			if errors.Is(err, rpc.ErrDisconnected) {
				return err
			}
			s.o.Log.Warn("older checkpoints are left for the next snapshot", "domain", dom.Name, "error", err)
		}
		return nil
	}
	if r.Checkpoint == "" {
		return nil
	}
	cp, err := conn.LookupCheckpoint(ctx, dom, r.Checkpoint)
	switch {
	case errors.Is(err, rpc.ErrNoCheckpoint):
		return nil
	case err == nil:
		err = deleteCheckpoint(ctx, conn, cp)
	}
	if err != nil {
		return fmt.Errorf("delete checkpoint %s: %w", r.Checkpoint, err)
	}
	return nil
}

// endJob ends a domain's backup job if it is ours, and returns when it is gone:
// libvirt answers before QEMU has let go of the scratch files.
func endJob(ctx context.Context, conn daemon, dom rpc.Domain, owns func(text string) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endLimit, fmt.Errorf("libvirt's backup job has not ended after %s", endLimit))
	defer cancel()
	asked := false
	for pause := lookSoon; ; pause = min(2*pause, lookLate) {
		text, err := conn.BackupXMLDesc(ctx, dom)
		switch {
		case errors.Is(err, rpc.ErrNoBackup), errors.Is(err, rpc.ErrOperationInvalid), gone(err):
			return nil
		case err != nil:
			return err
		case !owns(text):
			return nil
		case !asked:
			if err := conn.AbortJob(ctx, dom); err != nil && !errors.Is(err, rpc.ErrOperationInvalid) {
				return err
			}
			asked = true
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// cleanUpDecided cleans up after snapshots of a domain that could not be ended
// when they were closed, because the daemon was away.
func (s *Source) cleanUpDecided(ctx context.Context, uuid string) error {
	left, err := live.Leftovers(s.state)
	if err != nil {
		s.o.Log.Warn("sessions of earlier snapshots", "error", err)
	}
	var errs []error
	for _, session := range left {
		r := session.Record()
		fate := r.Extra[fateKey]
		if r.HypervisorID != uuid || fate == "" {
			session.Release()
			continue
		}
		if err := s.endSession(ctx, session, fate == fateKeep); err != nil {
			session.Release()
			errs = append(errs, fmt.Errorf("end earlier snapshot: %w", err))
		}
	}
	return errors.Join(errs...)
}

// CleanUp implements source.Cleaner.
func (s *Source) CleanUp(ctx context.Context, committed func(ctx context.Context, machineID, checkpoint string) (bool, error)) error {
	left, err := live.Leftovers(s.state)
	errs := []error{err}
	// Guests first, all of them: they stand still.
	thawed := make([]error, len(left))
	for i, session := range left {
		if thawed[i] = s.thaw(ctx, session.Record()); thawed[i] != nil {
			errs = append(errs, fmt.Errorf("machine %s: %w", session.Record().Machine, thawed[i]))
		}
	}
	for i, session := range left {
		err := thawed[i]
		r := session.Record()
		keep := r.Extra[fateKey] == fateKeep
		if err == nil && r.Checkpoint != "" && r.Extra[fateKey] == "" {
			if keep, err = committed(ctx, r.Machine, r.Checkpoint); err != nil {
				errs = append(errs, fmt.Errorf("machine %s: was checkpoint %s committed: %w", r.Machine, r.Checkpoint, err))
			}
		}
		if err == nil {
			if err = s.endSession(ctx, session, keep); err != nil {
				errs = append(errs, fmt.Errorf("clean up after machine %s: %w", r.Machine, err))
			}
		}
		if err != nil {
			session.Release()
		}
	}
	errs = append(errs, s.cleanUpRestores(ctx))
	return errors.Join(errs...)
}

// thawLimit bounds the thaw of one guest, and the wait for its answer whether it
// is frozen.
const thawLimit = 20 * time.Second

// thaw thaws a guest that a killed process may have left frozen. A guest whose
// agent does not answer is nobody's to help: its guard has tried, too.
func (s *Source) thaw(ctx context.Context, r live.Record) error {
	if !r.Agent {
		return nil
	}
	conn, err := s.work.get(ctx)
	if err != nil {
		return err
	}
	uuid, err := rpc.ParseUUID(r.HypervisorID)
	if err != nil {
		return err
	}
	dom, err := conn.LookupByUUID(ctx, uuid)
	if gone(err) {
		return nil
	} else if err != nil {
		return failure(err)
	}
	if on, err := isActive(ctx, conn, dom); err != nil || !on {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, thawLimit)
	defer cancel()
	to := channel{s.guests, dom}
	frozen, err := guest.NewClient(to).FreezeStatus(ctx)
	switch {
	case err != nil:
		s.o.Log.Warn("guest agent does not say whether the guest is frozen", "domain", dom.Name, "error", err)
		return nil
	case !frozen:
		return nil
	}
	if _, err := to.Execute(ctx, `{"execute":"guest-fsfreeze-thaw"}`); err != nil {
		return fmt.Errorf("thaw the guest: %w", err)
	}
	s.o.Log.Info("a guest that a killed process had left frozen was thawed", "domain", dom.Name)
	return nil
}
