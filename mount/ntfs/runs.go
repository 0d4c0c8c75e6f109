package ntfs

import "sort"

// hole is the cluster number of a run that has no clusters.
const hole = -1

// run is a stretch of an attribute that is contiguous on the volume, or a hole.
type run struct {
	vcn uint64 // first cluster, counted in the attribute
	n   uint64 // clusters, never 0
	lcn int64  // first cluster on the volume, or hole
}

// decodeRuns decodes the mapping pairs of the clusters [low, next) of an
// attribute on a volume of so many clusters. Each pair is a byte with the
// lengths of two little-endian signed numbers (length in the low half), the
// length of the run, and the distance of its first cluster from the one before,
// which a hole lacks. NTFS before 3.0 writes holes as cluster -1.
func decodeRuns(pairs []byte, low, next, clusters uint64) ([]run, error) {
	var runs []run
	vcn, lcn := low, int64(0)
	for len(pairs) > 0 && pairs[0] != 0 {
		lenBytes, offBytes := int(pairs[0]&15), int(pairs[0]>>4)
		if lenBytes == 0 || lenBytes > 8 || offBytes > 8 || len(pairs) < 1+lenBytes+offBytes {
			return nil, corrupt("mapping pair %#x", pairs[0])
		}
		n := signed(pairs[1 : 1+lenBytes])
		if n <= 0 || uint64(n) > next-vcn {
			return nil, corrupt("a run of %d clusters at %d, where %d are left", n, vcn, next-vcn)
		}
		r := run{vcn: vcn, n: uint64(n), lcn: hole}
		if offBytes > 0 {
			lcn += signed(pairs[1+lenBytes : 1+lenBytes+offBytes])
			if r.lcn = lcn; lcn < hole || lcn >= 0 && (uint64(lcn) >= clusters || r.n > clusters-uint64(lcn)) {
				return nil, corrupt("a run of %d clusters at %d of %d", n, lcn, clusters)
			}
		}
		if last := len(runs) - 1; last >= 0 && follows(runs[last], r) {
			runs[last].n += r.n
		} else {
			runs = append(runs, r)
		}
		vcn += r.n
		pairs = pairs[1+lenBytes+offBytes:]
	}
	if vcn != next {
		return nil, corrupt("mapping pairs end at cluster %d instead of %d", vcn, next)
	}
	return runs, nil
}

// follows says whether b continues a.
func follows(a, b run) bool {
	if a.lcn == hole {
		return b.lcn == hole
	}
	return b.lcn == a.lcn+int64(a.n)
}

// signed decodes a little-endian number of 1 to 8 bytes in two's complement.
func signed(p []byte) int64 {
	v := int64(int8(p[len(p)-1]))
	for i := len(p) - 2; i >= 0; i-- {
		v = v<<8 | int64(p[i])
	}
	return v
}

// findRun gives the rest of the run with cluster vcn, which runs contain.
func findRun(runs []run, vcn uint64) (run, bool) {
	i := sort.Search(len(runs), func(i int) bool { return runs[i].vcn+runs[i].n > vcn })
	if i == len(runs) || runs[i].vcn > vcn {
		return run{}, false
	}
	r := runs[i]
	skip := vcn - r.vcn
	r.vcn, r.n = vcn, r.n-skip
	if r.lcn != hole {
		r.lcn += int64(skip)
	}
	return r, true
}
