package jbd2

import "iter"

// Where tells from where in the journal the overlay takes a block of the file
// system: the offset in bytes in the journal's content. logged is false for
// blocks that it does not replace. verbatim is false where the bytes in the log
// are not quite those of the block (an escaped magic number).
func (l *Log) Where(block uint64) (off int64, verbatim, logged bool) {
	i, ok := find(l.tags, block)
	if !ok {
		return 0, false, false
	}
	t := &l.tags[i]
	return int64(l.sb.logBlock(t.at)) * int64(l.sb.blockSize), !t.escaped, true
}

// Blocks gives the numbers of the blocks in first ≤ block < end that the
// overlay replaces, ascending.
func (l *Log) Blocks(first, end uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		i, _ := find(l.tags, first)
		for ; i < len(l.tags) && l.tags[i].block < end; i++ {
			if !yield(l.tags[i].block) {
				return
			}
		}
	}
}
