package volume

import "slices"

// markOverlaps gives a Problem to every partition that shares bytes with
// another. A logical partition lies inside its extended one, which is how it
// should be: only siblings are compared, and primaries with primaries.
func markOverlaps(vols []Volume) {
	groups := make(map[int][]int) // extended partition (0: the disk) → indexes
	for i := range vols {
		groups[vols[i].LogicalIn] = append(groups[vols[i].LogicalIn], i)
	}
	for _, idx := range groups {
		slices.SortStableFunc(idx, func(a, b int) int {
			switch va, vb := &vols[a], &vols[b]; {
			case va.Start != vb.Start:
				return compare(va.Start, vb.Start)
			default:
				return va.Number - vb.Number
			}
		})
		// furthest is the partition so far that reaches the furthest: whatever
		// starts before its end overlaps it.
		furthest, end := -1, int64(0)
		for _, i := range idx {
			v := &vols[i]
			if furthest >= 0 && v.Start < end && v.Length > 0 {
				v.addProblem("overlaps partition %d", vols[furthest].Number)
				// One neighbour is enough for the other side: a table with
				// thousands of overlaps must not grow thousands of sentences.
				if vols[furthest].Problem == "" {
					vols[furthest].addProblem("overlaps partition %d", v.Number)
				}
			}
			if e := saturatingAdd(v.Start, v.Length); e > end || furthest < 0 {
				furthest, end = i, e
			}
		}
	}
}

func compare(a, b int64) int {
	if a < b {
		return -1
	}
	return 1
}
