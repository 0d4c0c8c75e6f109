package jbd2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"cairn/mount/filesys"
)

const (
	magic          = 0xC03B3998
	headerSize     = 12
	superblockSize = 1024

	typeDescriptor   = 1
	typeCommit       = 2
	typeSuperblockV1 = 3
	typeSuperblockV2 = 4
	typeRevoke       = 5

	compatChecksum = 0x1

	incompatRevoke      = 0x01
	incompat64Bit       = 0x02
	incompatAsyncCommit = 0x04
	incompatCsumV2      = 0x08
	incompatCsumV3      = 0x10
	incompatFastCommit  = 0x20
	incompatKnown       = 0x3f

	checksumCRC32  = 1 // in a commit block
	checksumCRC32C = 4 // in the superblock

	defaultFastCommitBlocks = 256  // when s_num_fc_blks is 0
	minRingBlocks           = 1024 // what must remain without the fast-commit area

	// maxBlocks is the largest journal that mke2fs makes. It bounds what a
	// forged size can cost.
	maxBlocks = 10_240_000
)

var be = binary.BigEndian

// superblock is what the walk needs of the journal's superblock.
type superblock struct {
	version   int // 1 or 2
	blockSize int // bytes, 1024 … 65536
	first     uint32
	last      uint32 // first block behind the ring
	maxLen    uint32 // blocks in all, the fast-commit area included
	sequence  uint32 // of the transaction at start
	start     uint32 // 0: nothing to replay
	errno     int32  // negative errno with which the guest aborted the journal
	compat    uint32
	incompat  uint32
	seed      uint32 // crc32c of the UUID
}

// csum23 says whether records, not transactions, carry checksums.
func (sb *superblock) csum23() bool {
	return sb.incompat&(incompatCsumV2|incompatCsumV3) != 0
}

// checksumVersion is 0 for a log without checksums.
func (sb *superblock) checksumVersion() int {
	switch {
	case sb.incompat&incompatCsumV3 != 0:
		return 3
	case sb.incompat&incompatCsumV2 != 0:
		return 2
	case sb.compat&compatChecksum != 0:
		return 1
	}
	return 0
}

func (sb *superblock) is64() bool { return sb.incompat&incompat64Bit != 0 }

// ring is the number of blocks that records can stand in.
func (sb *superblock) ring() uint32 { return sb.last - sb.first }

// logBlock is the block of the journal that a walk from the log's start reaches
// after i blocks, i < ring.
func (sb *superblock) logBlock(i uint32) uint32 {
	n := uint64(sb.start) + uint64(i)
	if n >= uint64(sb.last) {
		n -= uint64(sb.ring())
	}
	return uint32(n)
}

// readSuperblock reads and checks block 0 of a journal of size bytes.
func readSuperblock(r io.ReaderAt, size int64) (*superblock, error) {
	if size < superblockSize {
		return nil, fmt.Errorf("journal of %d bytes has no superblock: %w", size, filesys.ErrCorrupt)
	}
	raw := make([]byte, superblockSize)
	if err := readFull(r, raw, 0); err != nil {
		return nil, fmt.Errorf("read journal superblock: %w", err)
	}
	if m := be.Uint32(raw); m != magic {
		return nil, fmt.Errorf("journal superblock has magic %#x: %w", m, filesys.ErrCorrupt)
	}
	sb := &superblock{
		blockSize: int(be.Uint32(raw[12:])),
		maxLen:    be.Uint32(raw[16:]),
		first:     be.Uint32(raw[20:]),
		sequence:  be.Uint32(raw[24:]),
		start:     be.Uint32(raw[28:]),
		errno:     int32(be.Uint32(raw[32:])),
	}
	switch t := be.Uint32(raw[4:]); t {
	case typeSuperblockV1:
		sb.version = 1
	case typeSuperblockV2:
		sb.version = 2
		if err := sb.readFeatures(raw); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("journal superblock has record type %d: %w", t, filesys.ErrCorrupt)
	}
	sb.last = sb.maxLen
	if err := sb.checkGeometry(size); err != nil {
		return nil, err
	}
	if sb.incompat&incompatFastCommit != 0 {
		n := be.Uint32(raw[84:])
		if n == 0 {
			n = defaultFastCommitBlocks
		}
		if n > sb.maxLen || sb.maxLen-n < minRingBlocks || sb.maxLen-n <= sb.first {
			return nil, fmt.Errorf("fast-commit area of %d blocks in a journal of %d: %w", n, sb.maxLen, filesys.ErrCorrupt)
		}
		sb.last = sb.maxLen - n
	}
	if sb.start != 0 && (sb.start < sb.first || sb.start >= sb.last) {
		return nil, fmt.Errorf("log starts at block %d, outside of %d to %d: %w", sb.start, sb.first, sb.last-1, filesys.ErrCorrupt)
	}
	return sb, nil
}

func (sb *superblock) readFeatures(raw []byte) error {
	sb.compat = be.Uint32(raw[36:])
	sb.incompat = be.Uint32(raw[40:])
	if unknown := sb.incompat &^ incompatKnown; unknown != 0 {
		return fmt.Errorf("journal has incompatible features %s: %w", bitNames(unknown), filesys.ErrUnsupported)
	}
	if roCompat := be.Uint32(raw[44:]); roCompat != 0 {
		return fmt.Errorf("journal has read-only compatible features %s: %w", bitNames(roCompat), filesys.ErrUnsupported)
	}
	if !sb.csum23() {
		return nil
	}
	if sb.incompat&incompatCsumV2 != 0 && sb.incompat&incompatCsumV3 != 0 || sb.compat&compatChecksum != 0 {
		return fmt.Errorf("journal claims several checksum versions (compat %#x, incompat %#x): %w", sb.compat, sb.incompat, filesys.ErrCorrupt)
	}
	if t := raw[80]; t != checksumCRC32C {
		return fmt.Errorf("journal checksum type %d: %w", t, filesys.ErrUnsupported)
	}
	if got, want := be.Uint32(raw[252:]), crc32cZeroed(^uint32(0), raw, 252); got != want {
		return fmt.Errorf("journal superblock has checksum %#x, want %#x: %w", got, want, filesys.ErrCorrupt)
	}
	sb.seed = crc32c(^uint32(0), raw[48:64])
	return nil
}

func (sb *superblock) checkGeometry(size int64) error {
	bs := sb.blockSize
	if bs < 1024 || bs > 65536 || bs&(bs-1) != 0 {
		return fmt.Errorf("journal block size %d: %w", bs, filesys.ErrCorrupt)
	}
	if int64(sb.maxLen)*int64(bs) > size {
		return fmt.Errorf("journal of %d blocks of %d in a file of %d bytes: %w", sb.maxLen, bs, size, filesys.ErrCorrupt)
	}
	if sb.maxLen > maxBlocks {
		return fmt.Errorf("journal of %d blocks, more than %d: %w", sb.maxLen, maxBlocks, filesys.ErrUnsupported)
	}
	if sb.first == 0 || sb.first >= sb.maxLen {
		return fmt.Errorf("log's first block is %d of %d: %w", sb.first, sb.maxLen, filesys.ErrCorrupt)
	}
	return nil
}

// bitNames names features that have no name here by their bits.
func bitNames(mask uint32) string {
	var names []string
	for ; mask != 0; mask &= mask - 1 {
		names = append(names, fmt.Sprintf("%#x", uint32(1)<<bits.TrailingZeros32(mask)))
	}
	return strings.Join(names, ", ")
}

// readFull fills p from r. A reader that ends early is a journal that is shorter
// than it says.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("journal ends at %d: %w", off+int64(n), filesys.ErrCorrupt)
	}
	return err
}
