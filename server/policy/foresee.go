package policy

import (
	"slices"
	"time"

	pb "cairn/proto/cairn/v1"
)

// Fate is what becomes of a point.
type Fate struct {
	Point
	// Have is the point's index among those that exist; -1 if a run makes it.
	Have int
	// Until is when it may be pruned, zero if no end is in sight: the rule is NEWEST
	// then. With an end, NEWEST is the rule of a point that is kept only until the
	// next one is there.
	Kept
	// KeptAtEnd says whether it is there at the end of the time looked at.
	KeptAtEnd bool
}

// Foresee says what becomes of an item's points until end, the ones that it has
// and those that runs will make, if all runs succeed, at once, and nobody else
// makes or deletes points. have is in order of time; a run that one of them was
// made for makes no other.
func Foresee(p *pb.Policy, have []Point, runs []time.Time, end time.Time) []Fate {
	fates := make([]Fate, 0, len(have)+len(runs))
	made := map[int64]bool{}
	for i, pt := range have {
		fates = append(fates, Fate{Point: pt, Have: i})
		if !pt.Slot.IsZero() {
			made[pt.Slot.UnixNano()] = true
		}
	}
	for _, t := range runs {
		if !made[t.UnixNano()] {
			fates = append(fates, Fate{Point: Point{Snapshot: t, Slot: t}, Have: -1})
		}
	}
	slices.SortStableFunc(fates, func(a, b Fate) int { return a.Snapshot.Compare(b.Snapshot) })
	k := newKeeper(p)
	for i := range fates {
		f := &fates[i]
		f.Kept = k.keep(f.Point)
		if i+1 < len(fates) {
			if next := fates[i+1].Snapshot; f.Until.Before(next) {
				f.Kept = Kept{next, pb.RetentionRule_RETENTION_RULE_NEWEST}
			}
			f.KeptAtEnd = f.Until.After(end)
			continue
		}
		f.KeptAtEnd = true
		if !f.Until.After(end) {
			f.Kept = Kept{Rule: pb.RetentionRule_RETENTION_RULE_NEWEST}
		}
	}
	return fates
}
