package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/live"
)

// offSnapshot is the snapshot of a domain that is off: its images, which nobody
// is meant to write.
type offSnapshot struct {
	s     *Source
	dom   rpc.Domain
	info  source.SnapshotInfo
	disks []source.SnapshotDisk
}

var _ source.Snapshot = (*offSnapshot)(nil)

func (s *Source) snapshotOff(ctx context.Context, conn daemon, d *domain, o source.SnapshotOptions) (_ source.Snapshot, err error) {
	p := &offSnapshot{s: s, dom: d.Domain}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	definition, err := conn.XMLDesc(ctx, d.Domain, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		return nil, failure(err)
	}
	quiet, err := live.Quiesce(ctx, nil, live.QuiesceOptions{Minimum: o.Minimum, Off: true}, func(ctx context.Context) error {
		for _, k := range d.disks {
			if slices.Contains(o.Exclude, k.info.Target) {
				continue
			}
			disk, err := source.OpenImage(ctx, k.info)
			if err != nil {
				return fmt.Errorf("disk %s: %w", k.info.Target, err)
			}
			p.disks = append(p.disks, disk)
		}
		return nil
	}, func() {})
	if err != nil {
		if on, lost := p.started(ctx); on { // that is why, for all we know
			return nil, lost
		}
		return nil, err
	}
	p.info = source.SnapshotInfo{
		Machine: d.info, Time: quiet.Time, Consistency: quiet.Consistency, Warnings: quiet.Warnings,
		Definition: []byte(definition), DefinitionKind: definitionKind,
	}
	files, warnings := s.stateFiles(d.def, d.UUID.String())
	p.info.StateFiles, p.info.Warnings = files, append(p.info.Warnings, warnings...)
	if on, lost := p.started(ctx); on {
		return nil, lost
	}
	return p, nil
}

// started tells whether the domain runs now.
func (p *offSnapshot) started(ctx context.Context) (bool, error) {
	conn, err := p.s.work.get(ctx)
	if err != nil {
		return false, nil // the files tell
	}
	if state, _, err := conn.DomainState(ctx, p.dom); err != nil || !active(state) {
		return false, nil
	}
	return true, fmt.Errorf("%w: the VM was off and has been started while it was read", source.ErrSnapshotLost)
}

// Info implements source.Snapshot.
func (p *offSnapshot) Info() source.SnapshotInfo { return p.info }

// Disks implements source.Snapshot.
func (p *offSnapshot) Disks() []source.SnapshotDisk { return p.disks }

// Check implements source.Snapshot.
func (p *offSnapshot) Check(ctx context.Context) error {
	if on, err := p.started(ctx); on {
		return err
	}
	var changed, truncated []error
	for _, d := range p.disks {
		err := d.(source.ImageDisk).Check()
		switch {
		case err == nil:
		case errors.Is(err, source.ErrTruncated):
			truncated = append(truncated, fmt.Errorf("disk %s: %w", d.Info().Target, err))
		default:
			changed = append(changed, fmt.Errorf("%w: the VM was off, but disk %s: %v", source.ErrSnapshotLost, d.Info().Target, err))
		}
	}
	if truncated != nil {
		return errors.Join(truncated...)
	}
	return errors.Join(changed...)
}

// Keep implements source.Snapshot: there is no checkpoint to keep. An older one
// is deleted after the next snapshot of the running domain.
func (p *offSnapshot) Keep(ctx context.Context) error { return nil }

// Close implements source.Snapshot.
func (p *offSnapshot) Close() error {
	var errs []error
	for _, d := range p.disks {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
