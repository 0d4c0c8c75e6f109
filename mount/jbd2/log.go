package jbd2

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"

	"cairn/mount/filesys"
)

// Log is a journal that has been read. It is immutable.
type Log struct {
	sb      *superblock
	journal io.ReaderAt
	tags    []tag // by block, one for each block, none revoked
	report  Report
}

// Report says what Load found.
type Report struct {
	// Clean: the journal says that it holds nothing to replay.
	Clean bool
	// BlockSize in bytes. The kernel does not mount a file system whose block
	// size is another one; that is for the caller to compare.
	BlockSize int
	// Checksum is the version of the log's checksums, 0 (none) to 3.
	Checksum int
	// Transactions that were committed, First to Last. First and Last are zero
	// when there is none; the numbers wrap around at 2³².
	Transactions int
	First, Last  uint32
	// Blocks is the number of different blocks that the overlay replaces,
	// Revoked that of the logged blocks which a revoke record cancelled.
	Blocks, Revoked int
	// End says for a person why the log ends where it does; empty when Clean.
	End string
	// Errno is the negative errno with which the guest's kernel aborted this
	// journal, 0 if it never did.
	Errno int32
}

// String is one sentence for a person.
func (r Report) String() string {
	switch {
	case r.Clean:
		return "the journal is clean"
	case r.Transactions == 0:
		return fmt.Sprintf("the journal holds no committed transaction (%s)", r.End)
	}
	return fmt.Sprintf("the journal was replayed in memory: transactions %d to %d, %d blocks, %d revoked (%s)",
		r.First, r.Last, r.Blocks, r.Revoked, r.End)
}

// Load reads the log held in journal, the content of a file system's journal
// inode as it stands on the volume, size in bytes. It reads one block for each
// record of the log (all of the log with checksum version 1) and remembers where
// each logged block is; the blocks themselves are read by Overlay, from
// journal, which must stay usable and be safe for concurrent use.
//
// Errors wrap filesys.ErrCorrupt, filesys.ErrUnsupported (naming the feature)
// or what journal returned.
func Load(journal io.ReaderAt, size int64) (*Log, error) {
	sb, err := readSuperblock(journal, size)
	if err != nil {
		return nil, err
	}
	l := &Log{sb: sb, journal: journal}
	l.report = Report{BlockSize: sb.blockSize, Checksum: sb.checksumVersion(), Errno: sb.errno}
	if sb.start == 0 {
		l.report.Clean = true
		return l, nil
	}
	s := &scanner{superblock: sb, r: journal, block: make([]byte, sb.blockSize), limit: maxTags}
	if l.report.End, err = s.scan(); err != nil {
		return nil, err
	}
	if n := s.committed - sb.sequence; n != 0 {
		l.report.Transactions = int(n)
		l.report.First, l.report.Last = sb.sequence, s.committed-1
	}
	if sb.incompat&incompatFastCommit != 0 {
		if err := sb.refuseFastCommits(journal, s.committed); err != nil {
			return nil, err
		}
	}
	if err := l.index(s); err != nil {
		return nil, err
	}
	return l, nil
}

// Report says what Load found.
func (l *Log) Report() Report { return l.report }

// index keeps of all committed tags the newest one for each block, unless it is
// revoked.
//
// One look at the newest is enough, because transaction numbers grow along the
// log: a revoke record that cancels the newest cancels those before it too, and
// one that does not has no say.
func (l *Log) index(s *scanner) error {
	tags := s.tags[:s.committedTags]
	slices.SortFunc(tags, func(a, b tag) int {
		return cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(b.at, a.at))
	})
	tags = slices.CompactFunc(tags, func(a, b tag) bool { return a.block == b.block })

	revoked := make([]bool, len(tags))
	for _, r := range s.revokes[:s.committedRevokes] {
		if err := s.read(r.at); err != nil {
			return err
		}
		err := s.superblock.revoked(s.block, func(block uint64) {
			i, ok := find(tags, block)
			// Numbers wrap: the difference decides.
			if ok && int32(tags[i].tid-r.tid) <= 0 {
				revoked[i] = true
			}
		})
		if err != nil {
			return fmt.Errorf("log block %d: %w", l.sb.logBlock(r.at), err)
		}
	}

	for i, t := range tags {
		switch {
		case revoked[i]:
			l.report.Revoked++
		case t.block > uint64(math.MaxInt64/l.sb.blockSize)-1:
			return fmt.Errorf("transaction %d logs block %d, which no volume has: %w", t.tid, t.block, filesys.ErrCorrupt)
		default:
			l.tags = append(l.tags, t)
		}
	}
	l.report.Blocks = len(l.tags)
	return nil
}

// find gives the position of block in tags, or where it would stand.
func find(tags []tag, block uint64) (int, bool) {
	return slices.BinarySearchFunc(tags, block, func(t tag, b uint64) int { return cmp.Compare(t.block, b) })
}
