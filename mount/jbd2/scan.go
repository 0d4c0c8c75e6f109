package jbd2

import (
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// maxTags bounds the memory that a log can cost, to about 50 MiB. It is what
// 8 GiB of blocks of 4 KiB need, all of them written and none of them
// checkpointed; the largest log that mke2fs makes by itself has 1 GiB.
const maxTags = 2 << 20

// scanner walks the log once, from its start to its end, and remembers what the
// committed transactions hold.
type scanner struct {
	*superblock
	r     io.ReaderAt
	block []byte // the record under the cursor
	limit int    // of tags

	at  uint32 // steps from the log's start
	tid uint32 // the transaction expected there

	tags    []tag          // of the committed transactions and of the current one
	revokes []revokeRecord // likewise
	// What of them is committed, and the transaction behind the last committed
	// one.
	committedTags, committedRevokes int
	committed                       uint32

	// suspect: a record of this transaction failed its checksum. The commit
	// record tells whether it is left over from an older log in the same blocks
	// or was damaged.
	suspect    bool
	commitTime uint64 // seconds, of the newest committed transaction
	crc        uint32 // of this transaction so far, checksum version 1
	// broken: with asynchronous commit, a commit record may reach the disk before
	// what it commits. The transaction then fails its checksum and is the end
	// of the log, unless another one was committed after it.
	broken bool
}

type revokeRecord struct{ at, tid uint32 }

// scan walks to the end of the log and says in words why it is the end.
func (s *scanner) scan() (end string, err error) {
	end, err = s.walk()
	if s.broken {
		end = fmt.Sprintf("transaction %d fails its checksum", s.committed)
	}
	return end, err
}

func (s *scanner) walk() (end string, err error) {
	s.tid, s.committed, s.crc = s.sequence, s.sequence, ^uint32(0)
	for s.at < s.ring() {
		at := s.at
		if err := s.read(at); err != nil {
			return "", err
		}
		s.at++
		if be.Uint32(s.block) != magic {
			return fmt.Sprintf("no record in log block %d", s.logBlock(at)), nil
		}
		kind, tid := be.Uint32(s.block[4:]), be.Uint32(s.block[8:])
		if tid != s.tid {
			return fmt.Sprintf("log block %d is of transaction %d, not %d", s.logBlock(at), tid, s.tid), nil
		}
		switch kind {
		case typeDescriptor:
			err = s.descriptor(at)
		case typeRevoke:
			s.suspect = s.suspect || !s.tailOK(s.block)
			s.revokes = append(s.revokes, revokeRecord{at, tid})
		case typeCommit:
			end, err = s.commit()
		default:
			end = fmt.Sprintf("log block %d has record type %d", s.logBlock(at), kind)
		}
		if end != "" || err != nil {
			return end, err
		}
	}
	return "the log meets its own start", nil
}

// read fills s.block with the block that is at steps from the log's start.
func (s *scanner) read(at uint32) error {
	n := s.logBlock(at)
	if err := readFull(s.r, s.block, int64(n)*int64(s.blockSize)); err != nil {
		return fmt.Errorf("read log block %d: %w", n, err)
	}
	return nil
}

func (s *scanner) descriptor(at uint32) error {
	s.suspect = s.suspect || !s.tailOK(s.block)
	had := len(s.tags)
	s.tags = s.superblock.tags(s.tags, s.block, at, s.tid)
	n := uint32(len(s.tags) - had)
	if s.suspect || s.broken {
		// Nothing of this transaction will be used.
		s.tags = s.tags[:had]
	}
	if len(s.tags) > s.limit {
		return fmt.Errorf("log holds more than %d blocks: %w", s.limit, filesys.ErrUnsupported)
	}
	if s.compat&compatChecksum != 0 && !s.broken {
		s.crc = crc32BE(s.crc, s.block)
		for i := s.at; i < s.at+n && i < s.ring(); i++ {
			if err := s.read(i); err != nil {
				return err
			}
			s.crc = crc32BE(s.crc, s.block)
		}
	}
	s.at += n
	return nil
}

// commit ends the current transaction or, when its record does not hold, the
// log.
func (s *scanner) commit() (end string, err error) {
	time := be.Uint64(s.block[commitTime:])
	switch good := !s.broken && s.verifyCommit(); {
	case s.broken:
		return "", fmt.Errorf("transaction %d fails its checksum and %d was committed after it: %w", s.tid-1, s.tid, filesys.ErrCorrupt)
	case good && !s.suspect:
		s.committedTags, s.committedRevokes = len(s.tags), len(s.revokes)
		s.commitTime, s.crc = time, ^uint32(0)
		s.tid++
		s.committed = s.tid
		return "", nil
	case time < s.commitTime:
		return fmt.Sprintf("transaction %d fails its checksum and is older than the one before it", s.tid), nil
	case s.suspect || s.incompat&incompatAsyncCommit == 0:
		return "", fmt.Errorf("committed transaction %d fails its checksum: %w", s.tid, filesys.ErrCorrupt)
	case s.csum23():
		return fmt.Sprintf("transaction %d fails its checksum", s.tid), nil
	}
	s.broken = true
	s.tid++
	return "", nil
}

// verifyCommit checks the commit record in s.block and, with checksum version
// 1, the transaction that it ends.
func (s *scanner) verifyCommit() bool {
	if s.compat&compatChecksum == 0 {
		return s.commitOK(s.block)
	}
	kind, size, sum := s.block[12], s.block[13], be.Uint32(s.block[commitChecksum:])
	return kind == checksumCRC32 && size == 4 && sum == s.crc ||
		kind == 0 && size == 0 && sum == 0
}
