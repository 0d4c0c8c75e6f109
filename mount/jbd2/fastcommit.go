package jbd2

import (
	"encoding/binary"
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// The fast-commit area holds what was synced since the last full transaction:
// not blocks but what happened to files, as records that the file system itself
// must apply. Replaying them is not implemented; a log that holds committed ones
// is refused, because without them files that the guest had synced would be
// missing or stale.
//
// The area begins one block behind the ring's last. Numbers are little-endian.
// A commit is a run of records, blocks are filled up with PAD:
//
//	 0     2        4
//	┌─────┬────────┬────────────────┐  tag 1 add range  2 del range  3 create
//	│ tag │ length │ length bytes … │      4 link  5 unlink  6 inode  7 PAD
//	└─────┴────────┴────────────────┘      8 TAIL  9 HEAD
//
//	HEAD  features(4) transaction(4)   begins the area, says behind which full
//	                                   transaction the records apply: its
//	                                   number plus one
//	TAIL  transaction(4) checksum(4)   ends a commit: crc32c, from zero and not
//	                                   inverted, of all records since the last
//	                                   TAIL up to the TAIL's own transaction
const (
	fcTagSize = 4
	fcTail    = 8
	fcHead    = 9
)

// refuseFastCommits returns an error if the fast-commit area holds a commit
// that belongs behind the last full transaction; next is that one's number plus
// one. What is not committed is no more part of the file system than a
// transaction without its commit record.
func (sb *superblock) refuseFastCommits(r io.ReaderAt, next uint32) error {
	le := binary.LittleEndian
	block := make([]byte, sb.blockSize)
	var crc uint32
	// One block between the ring and the area stays unused.
	for n := int64(sb.last) + 1; n < int64(sb.maxLen); n++ {
		if err := readFull(r, block, n*int64(sb.blockSize)); err != nil {
			return fmt.Errorf("read fast-commit block %d: %w", n, err)
		}
		if n == int64(sb.last)+1 && le.Uint16(block) != fcHead {
			return nil
		}
		for p := block; len(p) >= fcTagSize; {
			kind, size := le.Uint16(p), int(le.Uint16(p[2:]))
			if kind == 0 || kind > fcHead || size > len(p)-fcTagSize {
				return nil
			}
			value := p[fcTagSize : fcTagSize+size]
			switch kind {
			case fcHead:
				if size != 8 || le.Uint32(value[4:]) != next {
					return nil
				}
				if f := le.Uint32(value); f != 0 {
					return fmt.Errorf("fast_commit features %s: %w", bitNames(f), filesys.ErrUnsupported)
				}
			case fcTail:
				if size < 8 {
					return nil
				}
				crc = crc32c(crc, p[:fcTagSize+4])
				if le.Uint32(value) == next && le.Uint32(value[4:]) == crc {
					return fmt.Errorf("the journal holds fast_commit log records behind transaction %d: %w", next-1, filesys.ErrUnsupported)
				}
				return nil
			}
			crc = crc32c(crc, p[:fcTagSize+size])
			p = p[fcTagSize+size:]
		}
	}
	return nil
}
