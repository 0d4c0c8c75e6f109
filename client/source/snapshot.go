package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// imageSnapshot is a Snapshot of image files.
type imageSnapshot struct {
	info  SnapshotInfo
	disks []SnapshotDisk
}

var _ Snapshot = (*imageSnapshot)(nil)

// checkedDisk is what the disks of an imageSnapshot are.
type checkedDisk interface {
	SnapshotDisk
	check() error
}

var (
	_ checkedDisk = (*rawDisk)(nil)
	_ checkedDisk = (*qemuDisk)(nil)
)

// Snapshot implements Source. Images track no changes: Since is not honoured.
func (s *Images) Snapshot(ctx context.Context, machineID string, o SnapshotOptions) (_ Snapshot, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("machine %s: %w", machineID, err)
		}
	}()
	list, err := s.list()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(m *machine) bool { return m.id == machineID })
	if i < 0 {
		return nil, fmt.Errorf("%w in %s", ErrMachineNotFound, s.dir)
	}
	m := list[i]
	if m.problem != nil {
		return nil, m.problem
	}
	if err := s.probeImages(ctx, m.images); err != nil {
		return nil, err
	}
	snap := &imageSnapshot{info: SnapshotInfo{Machine: m.public(), Time: s.now(), Consistency: CrashConsistent}}
	defer func() {
		if err != nil {
			snap.Close()
		}
	}()
	for i, im := range m.images {
		if slices.Contains(o.Exclude, im.target) {
			continue
		}
		d, err := snap.open(ctx, snap.info.Machine.Disks[i], im)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", im.target, err)
		}
		snap.disks = append(snap.disks, d)
	}
	if len(snap.disks) == 0 {
		return nil, unusable("no disk is left to back up: it has %d, and those are excluded", len(m.images))
	}
	return snap, nil
}

func (snap *imageSnapshot) open(ctx context.Context, d Disk, im *image) (SnapshotDisk, error) {
	switch {
	case im.problem != nil:
		return nil, im.problem
	case im.chain.format != "raw" && im.running:
		return nil, inUse(im.path)
	case im.chain.format != "raw":
		return openQEMU(ctx, d, im.chain)
	case im.running:
		snap.info.Warnings = append(snap.info.Warnings, Warning{WarnSnapshot, fmt.Sprintf(
			"disk %s: a running VM has %s open for writing, so the copy may mix moments; a raw image is only read safely while its VM is off", d.Target, d.Path)})
	}
	return openRaw(ctx, d, im.path)
}

func (snap *imageSnapshot) Info() SnapshotInfo             { return snap.info }
func (snap *imageSnapshot) Disks() []SnapshotDisk          { return snap.disks }
func (snap *imageSnapshot) Keep(ctx context.Context) error { return nil }

// Check implements Snapshot.
func (snap *imageSnapshot) Check(ctx context.Context) error {
	var errs []error
	for _, d := range snap.disks {
		if err := d.(checkedDisk).check(); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.Info().Target, err))
		}
	}
	return worst(errs)
}

// worst joins errors of checks. If anything was truncated, that is all that is
// told: a caller that goes on in spite of ErrChanged must not do so then.
func worst(errs []error) error {
	var truncated []error
	for _, err := range errs {
		if errors.Is(err, ErrTruncated) {
			truncated = append(truncated, err)
		}
	}
	if truncated != nil {
		errs = truncated
	}
	return errors.Join(errs...)
}

// Close implements Snapshot.
func (snap *imageSnapshot) Close() error {
	var errs []error
	for _, d := range snap.disks {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
