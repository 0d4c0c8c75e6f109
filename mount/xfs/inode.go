package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

const inodeMagic = 0x494E // "IN"

// Forms of a fork, as di_format and di_aformat tell them.
const (
	formDevice  = 0
	formLocal   = 1
	formExtents = 2
	formBtree   = 3
)

const (
	flagRealtime = 0x1 // di_flags: content is on the real-time device

	flag2Reflink  = 0x02 // di_flags2: blocks may be shared
	flag2BigTime  = 0x08
	flag2Nrext64  = 0x10
	flag2Metadata = 0x20
)

// inode is a decoded and checked inode. It refers to the cached block that it
// came from, and is never changed.
type inode struct {
	raw     []byte // inodeSize bytes
	ino     uint64
	mode    uint32
	nlink   uint32
	version uint8
	flags   uint16
	flags2  uint64
	size    int64
	data    fork
	attr    fork // its form is formExtents with no extents when there is none
}

// inode reads an inode that a directory may name. Unused and unlinked inodes are
// ErrNotExist, and so are those that hold the volume's own data.
func (f *FS) inode(ino uint64) (*inode, error) {
	if !f.sb.validInode(ino) || f.hidden(ino) || !f.inUse(ino) {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	in, err := f.anyInode(ino)
	if err != nil {
		return nil, err
	}
	if in.nlink == 0 || f.sb.incompat&incompatMetadir != 0 && in.flags2&flag2Metadata != 0 {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	return in, nil
}

// anyInode reads the inode at the place of that number.
func (f *FS) anyInode(ino uint64) (*inode, error) {
	ag, bno, index := f.sb.inodePlace(ino)
	b, err := f.block(kindInodes, ag*f.sb.agBlocks+bno, 0, nil)
	if err != nil {
		return nil, wrap(err, "inode %d", ino)
	}
	off := index << f.sb.inodeBits
	in, err := f.decodeInode(ino, b[off:off+f.sb.inodeSize:off+f.sb.inodeSize])
	if err != nil {
		return nil, wrap(err, "inode %d", ino)
	}
	return in, nil
}

func (f *FS) decodeInode(ino uint64, raw []byte) (*inode, error) {
	in := &inode{raw: raw, ino: ino, mode: uint32(be.Uint16(raw[2:])), version: raw[4],
		flags: be.Uint16(raw[90:]), nlink: be.Uint32(raw[16:])}
	if got := be.Uint16(raw); got != inodeMagic {
		return nil, corrupt("it begins with %04x", got)
	}
	core := uint64(100)
	switch {
	case f.sb.v5 && in.version == 3:
		core = 176
		if err := f.verifyInode(in); err != nil {
			return nil, err
		}
		in.flags2 = be.Uint64(raw[120:])
	case !f.sb.v5 && in.version == 2:
	case !f.sb.v5 && in.version == 1:
		in.nlink = uint32(be.Uint16(raw[6:]))
	default:
		return nil, corrupt("inode version %d", in.version)
	}
	if in.mode == 0 {
		return nil, filesys.ErrNotExist // free
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeSocket, filesys.TypeSymlink, filesys.TypeRegular, filesys.TypeBlock,
		filesys.TypeDir, filesys.TypeChar, filesys.TypeFIFO:
	default:
		return nil, corrupt("mode %o", in.mode)
	}
	if in.size = int64(be.Uint64(raw[56:])); in.size < 0 {
		return nil, corrupt("size %d", uint64(in.size))
	}
	// What a file takes cannot be more than there is, on both devices, unless it
	// has the same blocks in many places.
	limit := f.sb.blocks + min(be.Uint64(f.sb.raw[16:]), 1<<52)
	if in.flags2&flag2Reflink != 0 {
		limit = maxOffset
	}
	if n := be.Uint64(raw[64:]); n > limit {
		return nil, corrupt("%d blocks", n)
	}
	if err := f.decodeForks(in, raw[core:]); err != nil {
		return nil, err
	}
	return in, nil
}

func (f *FS) verifyInode(in *inode) error {
	if got, want := checksum(in.raw, 100), le.Uint32(in.raw[100:]); got != want {
		return corrupt("checksum is %08x, stored %08x", got, want)
	}
	if got := be.Uint64(in.raw[152:]); got != in.ino {
		return corrupt("it says that it is inode %d", got)
	}
	if !bytes.Equal(in.raw[160:176], f.sb.uuid[:]) {
		return corrupt("it belongs to the volume %x", in.raw[160:176])
	}
	return nil
}

// decodeForks finds the two forks in what follows the core.
func (f *FS) decodeForks(in *inode, rest []byte) error {
	raw := in.raw
	extents, attrExtents := uint64(be.Uint32(raw[76:])), uint64(be.Uint16(raw[80:]))
	if in.flags2&flag2Nrext64 != 0 {
		if f.sb.incompat&incompatNrext64 == 0 {
			return corrupt("64-bit extent counters on a volume that has none")
		}
		extents, attrExtents = be.Uint64(raw[24:]), uint64(be.Uint32(raw[76:]))
	}
	in.data = fork{in: in, form: raw[5], root: rest, extents: extents}
	in.attr = fork{in: in, form: formExtents, isAttr: true}
	if at := int(raw[82]) * 8; at > 0 {
		if at >= len(rest) {
			return corrupt("attributes %d bytes into %d", at, len(rest))
		}
		in.data.root = rest[:at:at]
		in.attr = fork{in: in, form: raw[83], root: rest[at:], extents: attrExtents, isAttr: true}
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeRegular, filesys.TypeDir, filesys.TypeSymlink:
		if in.data.form < formLocal || in.data.form > formBtree || in.data.form == formLocal && in.isRegular() {
			return corrupt("content in form %d of mode %o", in.data.form, in.mode)
		}
		if in.data.form == formLocal && in.size > int64(len(in.data.root)) {
			return corrupt("%d bytes where %d fit", in.size, len(in.data.root))
		}
	default:
		if in.data.form != formDevice {
			return corrupt("content in form %d of mode %o", in.data.form, in.mode)
		}
	}
	if a := in.attr.form; a < formLocal || a > formBtree {
		return corrupt("attributes in form %d", a)
	}
	for _, fk := range []*fork{&in.data, &in.attr} {
		if err := fk.check(); err != nil {
			return err
		}
	}
	return nil
}

func (in *inode) isDir() bool     { return in.mode&filesys.TypeMask == filesys.TypeDir }
func (in *inode) isRegular() bool { return in.mode&filesys.TypeMask == filesys.TypeRegular }

// time decodes the stamp at off: seconds and nanoseconds of 32 bits each or,
// with big times, nanoseconds since December 1901.
func (in *inode) time(off int) time.Time {
	if in.flags2&flag2BigTime != 0 {
		ns := be.Uint64(in.raw[off:])
		return time.Unix(int64(ns/1e9)-1<<31, int64(ns%1e9)).UTC()
	}
	return time.Unix(int64(int32(be.Uint32(in.raw[off:]))), int64(be.Uint32(in.raw[off+4:]))).UTC()
}

// attributes is what stat tells about in.
func (f *FS) attributes(in *inode) filesys.Attr {
	raw := in.raw
	a := filesys.Attr{
		Ino: in.ino, Mode: in.mode, Nlink: in.nlink,
		UID: be.Uint32(raw[8:]), GID: be.Uint32(raw[12:]),
		Size: in.size, Blocks: int64(be.Uint64(raw[64:]) << (f.sb.blockBits - daddrBits)),
		Atime: in.time(32), Mtime: in.time(40), Ctime: in.time(48),
	}
	if in.version == 3 {
		a.Btime = in.time(144)
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeChar, filesys.TypeBlock:
		// The encoding of System V: 14 bits and 18.
		if dev := be.Uint32(in.data.root); len(in.data.root) >= 4 {
			a.Rdev = unix.Mkdev(dev>>18, dev&(1<<18-1))
		}
	}
	return a
}

// required turns the error of an inode that the volume cannot do without: that
// it is not in use, or of another type, is a contradiction then.
func required(err error, what string) error {
	if errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir) {
		return corrupt("%s: %v", what, err)
	}
	return wrap(err, "%s", what)
}
