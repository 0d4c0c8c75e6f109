package ext4

import "math"

// run maps a row of a file's blocks: n of them, to the blocks of the volume
// from phys on, or to nothing (phys 0), which reads as zeros.
type run struct {
	phys uint64
	n    uint64
}

// forever is the length of a hole that nothing follows.
const forever = math.MaxUint32

// mapBlock says where the file's block lblk is and how many blocks behind it
// (itself included, at least one) go on the same way. A run may end early, at
// the border of a node of the tree.
func (f *FS) mapBlock(in *inode, lblk uint64) (run, error) {
	var r run
	var err error
	switch {
	case lblk >= math.MaxUint32:
		return run{n: forever}, nil
	case in.root != nil:
		r, err = f.mapExtent(in, lblk)
	default:
		r, err = f.mapIndirect(in, lblk)
	}
	if err != nil {
		return run{}, wrap(err, "inode %d, block %d", in.ino, lblk)
	}
	return r, nil
}

// mapMerged is mapBlock with the following runs joined for as long as they
// continue the first, up to limit blocks. The number of steps is bounded, so
// the result may still end early.
func (f *FS) mapMerged(in *inode, lblk, limit uint64) (run, error) {
	r, err := f.mapBlock(in, lblk)
	for steps := 0; err == nil && r.n < limit && steps < 1024; steps++ {
		next, nextErr := f.mapBlock(in, lblk+r.n)
		if nextErr != nil {
			break // the error is for whoever asks for those blocks
		}
		if (r.phys == 0) != (next.phys == 0) || r.phys != 0 && next.phys != r.phys+r.n {
			break
		}
		r.n += next.n
	}
	return r, err
}
