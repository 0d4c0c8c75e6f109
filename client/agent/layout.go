package agent

import (
	"fmt"

	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// What a snapshot is, against what was asked for and what the last point has.

// tooLow is an error if the snapshot is less consistent than it must be: a source
// of image files takes it all the same.
func (b *backup) tooLow() error {
	e := &source.ConsistencyError{Reached: b.info.Consistency, Wanted: minimum(b.w.GetMinimumConsistency())}
	if e.Reached >= e.Wanted {
		return nil
	}
	for _, w := range b.info.Warnings {
		if w.Kind != source.WarnTracking && w.Kind != source.WarnSnapshot {
			e.Causes = append(e.Causes, w)
		}
	}
	return e
}

// baseDisk is the base's disk of a name, or nil.
func (b *backup) baseDisk(target string) *cairnv1.RecoveryPointDisk {
	for _, d := range b.base.GetDisks() {
		if d.GetTarget() == target {
			return d
		}
	}
	return nil
}

// distrustMisfits makes full disks of incremental ones whose changes cannot be
// applied to the base.
func (b *backup) distrustMisfits() {
	for _, d := range b.snap.Disks() {
		if !d.Incremental() {
			continue
		}
		info := d.Info()
		switch was := b.baseDisk(info.Target); {
		case was == nil: // it was excluded, or is new: that it is read in full is no news
			d.Distrust()
		case was.GetSize() != info.Size:
			b.j.warn(cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, fmt.Errorf(
				"disk %s has another size than in the last point, %d bytes instead of %d: it is read in full", info.Target, info.Size, was.GetSize()),
				"disk", info.Target)
			d.Distrust()
		}
	}
}

// compareLayout warns of disks that the newest point has and the machine has
// not, or has smaller: an image that was cut short looks just like a disk that
// somebody shrank. What was excluded since was somebody's wish.
func (b *backup) compareLayout() {
	now := map[string]int64{}
	for _, d := range b.info.Machine.Disks {
		now[d.Target] = d.Size
	}
	for _, d := range b.base.GetDisks() {
		if size, there := now[d.GetTarget()]; !there {
			b.j.warn(cairnv1.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED, fmt.Errorf("disk %s, which the last point has, is gone", d.GetTarget()), "disk", d.GetTarget())
		} else if size < d.GetSize() {
			b.j.warn(cairnv1.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED,
				fmt.Errorf("disk %s is smaller than in the last point: %d bytes, it had %d; was its image cut short?", d.GetTarget(), size, d.GetSize()), "disk", d.GetTarget())
		}
	}
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

func minimum(c cairnv1.ConsistencyClass) source.Consistency {
	switch c {
	case cairnv1.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT:
		return source.FileSystemConsistent
	case cairnv1.ConsistencyClass_CONSISTENCY_CLASS_APPLICATION_CONSISTENT:
		return source.ApplicationConsistent
	}
	return source.CrashConsistent
}
