package ext4

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// Inode flags that change how an inode is read.
const (
	flagEncrypt    = 0x800
	flagIndex      = 0x1000 // directory with a hash tree
	flagHugeFile   = 0x40000
	flagExtents    = 0x80000
	flagEAInode    = 0x200000
	flagInlineData = 0x10000000
	flagCasefold   = 0x40000000
)

// inode is a decoded and checked inode. It refers to the cached block that it
// came from, and is never changed.
type inode struct {
	raw   []byte // inodeSize bytes
	ino   uint32
	mode  uint32
	flags uint32
	gen   uint32
	size  int64
	// extra is how much of the part behind the first 128 bytes holds fields.
	extra uint64
	// fresh: that part was never used, and cannot hold attributes.
	fresh bool
	// seed starts every checksum of metadata that this inode owns.
	seed uint32
	// acl is the block of extended attributes, 0 without one.
	acl uint64
	// root is the root of the extent tree, nil when blocks are mapped
	// otherwise or not at all.
	root *extentNode
	// tail is what follows the first 60 bytes of inline data.
	tail []byte
}

func wrap(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// inode reads an inode that a directory may name. Deleted and unused inodes are
// ErrNotExist, and so are those that are not files of the user: the reserved
// ones, and the holders of attributes.
func (f *FS) inode(ino uint64) (*inode, error) {
	if ino != rootIno && ino < uint64(f.sb.firstIno) || f.hidden(ino) {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	in, err := f.anyInode(ino)
	if err != nil {
		return nil, err
	}
	if in.flags&flagEAInode != 0 {
		return nil, fmt.Errorf("inode %d holds an attribute value and is not a file: %w", ino, filesys.ErrNotExist)
	}
	return in, nil
}

// required turns the error of an inode that the volume cannot do without: that
// it is not in use, or of another type, is a contradiction then.
func required(err error, what string) error {
	if errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir) {
		return corrupt("%s: %v", what, err)
	}
	return wrap(err, "%s", what)
}

// superInodes is where the superblock names inodes that hold the volume's own
// data.
var superInodes = [...]int{0x240, 0x244, 0x26C, 0x280}

// hidden are inodes with ordinary numbers that hold the volume's own data:
// quota files and the list of orphans.
func (f *FS) hidden(ino uint64) bool {
	for _, off := range superInodes {
		if n := f.sb.u32(off); n != 0 && ino == uint64(n) {
			return true
		}
	}
	return false
}

// anyInode reads any inode in use, the volume's own ones included.
func (f *FS) anyInode(ino uint64) (*inode, error) { return f.loadInode(ino, false) }

// loadInode reads an inode; unlinked ones that still have content only if asked
// for.
func (f *FS) loadInode(ino uint64, unlinked bool) (*inode, error) {
	if ino == 0 || ino > uint64(f.sb.inodes) {
		return nil, fmt.Errorf("inode %d of %d: %w", ino, f.sb.inodes, filesys.ErrNotExist)
	}
	group, index := (ino-1)/uint64(f.sb.inodesPer), (ino-1)%uint64(f.sb.inodesPer)
	desc, err := f.group(group)
	if err != nil {
		return nil, wrap(err, "inode %d", ino)
	}
	off := index * f.sb.inodeSize
	b, err := f.block(desc.inodeTable + off>>f.sb.blockBits)
	if err != nil {
		return nil, wrap(err, "inode %d", ino)
	}
	off &= f.sb.blockSize - 1
	in, err := f.decodeInode(uint32(ino), b[off:off+f.sb.inodeSize:off+f.sb.inodeSize], unlinked)
	if err != nil {
		// What was never used need not have been initialised, and may be
		// anything: behind the last one that was, and in blocks of the table
		// that none was in.
		if errors.Is(err, filesys.ErrCorrupt) && (index >= desc.usedInodes || f.inodeFree(desc, index)) {
			err = filesys.ErrNotExist
		}
		return nil, wrap(err, "inode %d", ino)
	}
	return in, nil
}

func (f *FS) decodeInode(ino uint32, raw []byte, unlinked bool) (*inode, error) {
	in := &inode{
		raw: raw, ino: ino,
		mode: uint32(le.Uint16(raw[0x00:])), flags: le.Uint32(raw[0x20:]), gen: le.Uint32(raw[0x64:]),
	}
	if len(raw) > 128 {
		in.extra = uint64(le.Uint16(raw[0x80:]))
		if in.extra > uint64(len(raw)-128) || in.extra%4 != 0 {
			return nil, corrupt("%d extra bytes in an inode of %d", in.extra, len(raw))
		}
		in.fresh = in.extra == 0
	}
	in.seed = crc32cLE(crc32cLE(f.sb.csumSeed, ino), in.gen)
	if err := f.checkInodeCsum(in); err != nil {
		return nil, err
	}
	if le.Uint16(raw[0x1A:]) == 0 && (!unlinked || in.mode == 0) {
		return nil, filesys.ErrNotExist // deleted, or never used
	}
	if in.fresh {
		in.extra = min(32, uint64(len(raw)-128))
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeSocket, filesys.TypeSymlink, filesys.TypeRegular, filesys.TypeBlock,
		filesys.TypeDir, filesys.TypeChar, filesys.TypeFIFO:
	default:
		return nil, corrupt("mode %o", in.mode)
	}
	if f.sb.incompat&incompat64Bit != 0 {
		in.acl = uint64(le.Uint16(raw[0x76:])) << 32
	}
	in.acl |= uint64(le.Uint32(raw[0x68:]))
	if in.acl != 0 && !f.sb.validBlock(in.acl) {
		return nil, corrupt("extended attributes in block %d", in.acl)
	}
	if err := f.decodeSize(in); err != nil {
		return nil, err
	}
	return in, f.decodeMapping(in)
}

func (f *FS) checkInodeCsum(in *inode) error {
	if !f.sb.metadataCsum() || f.sb.u32(0x48) != osLinux {
		return nil
	}
	raw := in.raw
	c := crc32c(in.seed, raw[:0x7C])
	c = crc32cBytes(c, 0, 2)
	c = crc32c(c, raw[0x7E:128])
	stored := uint32(le.Uint16(raw[0x7C:]))
	wide := false
	if len(raw) > 128 {
		c = crc32c(c, raw[128:0x82])
		if wide = in.extra >= 4; wide {
			c = crc32cBytes(c, 0, 2)
			c = crc32c(c, raw[0x84:])
			stored |= uint32(le.Uint16(raw[0x82:])) << 16
		} else {
			c = crc32c(c, raw[0x82:])
		}
	}
	if !wide {
		c &= 0xFFFF
	}
	if c != stored {
		return corrupt("checksum is %08x, stored %08x", c, stored)
	}
	return nil
}

// decodeSize takes the size and refuses one that no mapping could hold.
func (f *FS) decodeSize(in *inode) error {
	size := uint64(le.Uint32(in.raw[0x04:]))
	if in.mode&filesys.TypeMask == filesys.TypeRegular || f.sb.incompat&incompatLargeDir != 0 {
		size |= uint64(le.Uint32(in.raw[0x6C:])) << 32
	}
	// Logical blocks are numbered with 32 bits, and the last is not used.
	if size > math.MaxUint32<<f.sb.blockBits {
		return corrupt("size %d", size)
	}
	in.size = int64(size)
	return nil
}

// decodeMapping finds out where the content is.
func (f *FS) decodeMapping(in *inode) error {
	if in.flags&flagInlineData != 0 {
		if f.sb.incompat&incompatInlineData == 0 || in.flags&flagExtents != 0 {
			return corrupt("inline data flag on a volume or inode that cannot have it")
		}
		return f.decodeInline(in)
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeRegular, filesys.TypeDir, filesys.TypeSymlink:
	default:
		return nil
	}
	if in.flags&flagExtents != 0 && !f.fastSymlink(in) {
		root, err := f.decodeExtents(in, in.iblock(), -1)
		if err != nil {
			return wrap(err, "extent tree")
		}
		in.root = root
	}
	return nil
}

// iblock is the 60 bytes that say where the content is.
func (in *inode) iblock() []byte { return in.raw[0x28:0x64] }

func (in *inode) isDir() bool     { return in.mode&filesys.TypeMask == filesys.TypeDir }
func (in *inode) isRegular() bool { return in.mode&filesys.TypeMask == filesys.TypeRegular }
func (in *inode) isInline() bool  { return in.flags&flagInlineData != 0 }

// sectors is the space taken in units of 512 bytes, as the inode counts it.
func (f *FS) sectors(in *inode) int64 {
	n := int64(le.Uint32(in.raw[0x1C:]))
	if f.sb.ro&roHugeFile != 0 {
		n |= int64(le.Uint16(in.raw[0x74:])) << 32
		if in.flags&flagHugeFile != 0 {
			n <<= f.sb.blockBits - 9
		}
	}
	return n
}

// field says whether the n bytes at off, behind the first 128, hold a field.
func (in *inode) field(off, n uint64) bool { return off+n <= 128+in.extra }

// stamp decodes a time: 32 signed bits of seconds at off and, where the inode
// has them at extra, two more bits of seconds and 30 bits of nanoseconds.
func (in *inode) stamp(off, extra uint64) time.Time {
	sec := int64(int32(le.Uint32(in.raw[off:])))
	var nsec int64
	if in.field(extra, 4) {
		x := le.Uint32(in.raw[extra:])
		sec += int64(x&3) << 32
		nsec = int64(x >> 2)
	}
	return time.Unix(sec, nsec).UTC()
}

// attr is what stat tells about in.
func (f *FS) attr(in *inode) filesys.Attr {
	raw := in.raw
	a := filesys.Attr{
		Ino: uint64(in.ino), Mode: in.mode, Nlink: uint32(le.Uint16(raw[0x1A:])),
		UID: uint32(le.Uint16(raw[0x02:])), GID: uint32(le.Uint16(raw[0x18:])),
		Size: in.size, Blocks: f.sectors(in) - f.orphans[in.ino],
		Atime: in.stamp(0x08, 0x8C), Ctime: in.stamp(0x0C, 0x84), Mtime: in.stamp(0x10, 0x88),
	}
	const uid16 = 0x10 // default mount option: owners have 16 bits
	if f.sb.u32(0x100)&uid16 == 0 {
		a.UID |= uint32(le.Uint16(raw[0x78:])) << 16
		a.GID |= uint32(le.Uint16(raw[0x7A:])) << 16
	}
	if in.field(0x90, 4) {
		a.Btime = in.stamp(0x90, 0x94)
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeRegular:
		if in.isInline() {
			// Linux counts inline bytes, lest the file be taken for a hole.
			a.Blocks += (in.size + 511) >> 9
		}
	case filesys.TypeChar, filesys.TypeBlock:
		a.Rdev = in.rdev()
	}
	return a
}

// rdev decodes a device number from either of its two places: 8+8 bits in the
// first word, or 12+20 bits in the second.
func (in *inode) rdev() uint64 {
	if old := le.Uint32(in.iblock()); old != 0 {
		return unix.Mkdev(old>>8&0xFF, old&0xFF)
	}
	dev := le.Uint32(in.iblock()[4:])
	return unix.Mkdev(dev>>8&0xFFF, dev&0xFF|dev>>12&0xFFF00)
}
