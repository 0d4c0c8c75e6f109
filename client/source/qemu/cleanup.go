package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn/client/source/guest"
	"cairn/client/source/live"
)

// CleanUp implements source.Cleaner.
func (s *Source) CleanUp(ctx context.Context, committed func(ctx context.Context, machineID, checkpoint string) (bool, error)) error {
	sessions, err := live.Leftovers(s.state)
	errs := []error{err}
	again := make([]bool, len(sessions))
	for n, session := range sessions { // nobody stays frozen while others are seen to
		if err := s.thaw(ctx, session.Record()); err != nil {
			again[n] = true
			errs = append(errs, err)
		}
	}
	for n, session := range sessions {
		r := session.Record()
		if r.Extra[extraKeep] == "" {
			yes, err := committed(ctx, r.Machine, r.Checkpoint)
			if err == nil {
				keep := keepNo
				if yes {
					keep = keepYes
				}
				err = decideKeep(session, keep)
			}
			if err != nil {
				session.Release()
				errs = append(errs, fmt.Errorf("clean up after machine %s: %w", r.Machine, err))
				continue
			}
		}
		errs = append(errs, s.finish(ctx, session, again[n]))
	}
	return errors.Join(errs...)
}

// thawWait is for how long after a snapshot began its guest may still have to be
// thawed although its agent does not answer. The guard has given up long before,
// and a guest whose agent is gone for good can't be helped.
const thawWait = 15 * time.Minute

// thaw thaws the guest of a session that its process may have left frozen.
func (s *Source) thaw(ctx context.Context, r live.Record) error {
	path := r.Extra[extraAgent]
	if !r.Agent || path == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	t, err := guest.DialSocket(ctx, path)
	if err != nil {
		return nil // QEMU is gone, and the guest with it
	}
	defer t.Close()
	err = live.Thaw(ctx, t)
	if err != nil && time.Since(r.Time) > thawWait {
		s.o.Log.Error("guest of a snapshot that was given up: it cannot be asked whether it is frozen", "machine", r.Machine, "err", err)
		return nil
	} else if err != nil {
		return fmt.Errorf("machine %s: %w", r.Machine, err)
	}
	return nil
}

// sweep ends the sessions of a machine that could not be ended when they were
// over. Those whose fate is not decided are CleanUp's, which can ask.
func (s *Source) sweep(ctx context.Context, c *shared, d *descriptor) error {
	sessions, err := live.Leftovers(s.state)
	if err != nil {
		s.o.Log.Warn("sessions of earlier snapshots", "err", err)
	}
	for _, session := range sessions {
		r := session.Record()
		if r.Extra[extraQMP] != d.QMP || r.Extra[extraKeep] == "" {
			session.Release()
			continue
		}
		if err := s.finish(ctx, session, false); err != nil {
			return err
		}
	}
	return nil
}
