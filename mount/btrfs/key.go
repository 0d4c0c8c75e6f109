package btrfs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"cairn/mount/filesys"
)

var le = binary.LittleEndian

// Types of items, the middle part of a key.
const (
	typeInode       = 1
	typeInodeRef    = 12
	typeInodeExtref = 13
	typeXattr       = 24
	typeDirLogIndex = 72
	typeDirItem     = 84
	typeDirIndex    = 96
	typeExtentData  = 108
	typeExtentCsum  = 128
	typeRoot        = 132
	typeRootBackref = 144
	typeRootRef     = 156
	typeBlockGroup  = 192
	typeDevice      = 216
	typeChunk       = 228
)

// Object ids that mean something by themselves: trees, and the objects of trees
// that are not inodes.
const (
	rootTreeID       = 1
	extentTreeID     = 2
	chunkTreeID      = 3
	topLevelID       = 5 // the tree of the top level, which is always there
	csumTreeID       = 7
	freeSpaceTreeID  = 10
	blockGroupTreeID = 11
	firstFreeID      = 256 // of subvolumes, inodes and chunks
	devItemsID       = 1
	lastFreeID       = 1<<64 - 256
	csumObjectID     = 1<<64 - 10
	logTreeID        = 1<<64 - 6
	maxOffset        = 1<<64 - 1
)

// key is what items are sorted by.
type key struct {
	obj uint64
	typ uint8
	off uint64
}

const keySize = 17

func decodeKey(b []byte) key { return key{le.Uint64(b), b[8], le.Uint64(b[9:])} }

func (k key) cmp(o key) int {
	if c := cmp.Compare(k.obj, o.obj); c != 0 {
		return c
	}
	if c := cmp.Compare(k.typ, o.typ); c != 0 {
		return c
	}
	return cmp.Compare(k.off, o.off)
}

func (k key) String() string { return fmt.Sprintf("(%d %d %d)", k.obj, k.typ, k.off) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawCRC is CRC-32C without the inversions at start and end.
func rawCRC(seed uint32, name string) uint32 {
	return ^crc32.Update(^seed, castagnoli, []byte(name))
}

// nameHash is the offset of the directory and attribute items of a name.
func nameHash(name string) uint64 { return uint64(rawCRC(^uint32(1), name)) }

// extrefHash is the offset of the extended reference of a name in a directory.
func extrefHash(parent uint64, name string) uint64 { return uint64(rawCRC(uint32(parent), name)) }

// corrupt makes an error that says what contradicts the format.
func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrCorrupt)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrUnsupported)...)
}

func wrap(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// readFull fills p from off. A device that ends early contradicts the
// superblock, which promised those bytes.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corrupt("read %d bytes at %d: the device ends", len(p), off)
	}
	return wrap(err, "read %d bytes at %d", len(p), off)
}
