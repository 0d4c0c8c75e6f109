package ext4

import (
	"bytes"
	"fmt"
	"slices"

	"cairn/mount/filesys"
)

const (
	xattrMagic = 0xEA020000
	// xattrSystem is the index of "system.", under which inline data stands.
	xattrSystem = 7
	// xattrSizeMax is the longest value that Linux hands out.
	xattrSizeMax = 1 << 16
)

// xattrPrefixes turns the indexes of names into the prefixes that were left
// away. Attributes under any other index are the file system's own.
var xattrPrefixes = map[uint8]string{
	1: "user.", 2: aclAccess, 3: aclDefault, 4: "trusted.", 6: "security.", 10: "gnu.",
}

// xattr is one attribute. Its value refers to cached metadata, unless it is
// kept in inode inum.
type xattr struct {
	index uint8
	name  string // without its prefix
	inum  uint32
	size  uint32
	hash  uint32 // of name and value
	value []byte
}

// fullName is the name as getxattr knows it, empty for those it does not know.
func (x *xattr) fullName() string {
	prefix, ok := xattrPrefixes[x.index]
	// ACLs have no name of their own, all others must have one.
	if !ok || (x.name == "") != (x.index == 2 || x.index == 3) {
		return ""
	}
	return prefix + x.name
}

// parseXattrs decodes the entries that begin at first in b, with values at
// offsets from base.
//
//	length of the name, its index (8 bits each), offset of the value (16),
//	inode of the value, size of the value, hash (32 each), name
func (f *FS) parseXattrs(b []byte, first, base int) ([]xattr, error) {
	eaInodes := f.sb.incompat&incompatEAInode != 0
	var list []xattr
	var offsets []int
	pos := first
	for {
		if pos+4 > len(b) {
			return nil, corrupt("attribute names without an end")
		}
		if le.Uint32(b[pos:]) == 0 {
			break
		}
		if pos+16 > len(b) || pos+16+int(b[pos]) > len(b) {
			return nil, corrupt("attribute name of %d bytes at %d", b[pos], pos)
		}
		e := b[pos:]
		x := xattr{index: e[1], name: string(e[16 : 16+int(e[0])]), inum: le.Uint32(e[4:]),
			size: le.Uint32(e[8:]), hash: le.Uint32(e[12:])}
		if x.inum != 0 && !eaInodes {
			return nil, corrupt("attribute %q in inode %d on a volume without ea_inode", x.name, x.inum)
		}
		list = append(list, x)
		offsets = append(offsets, base+int(le.Uint16(e[2:])))
		pos += (16 + int(e[0]) + 3) &^ 3
	}
	for i := range list {
		x := &list[i]
		if x.inum != 0 || x.size == 0 {
			continue
		}
		off, size := offsets[i], uint64(x.size)
		if off < pos+4 || off > len(b) || (size+3)&^3 > uint64(len(b)-off) {
			return nil, corrupt("attribute %q of %d bytes at %d of %d", x.name, size, off, len(b))
		}
		x.value = b[off : off+int(size)]
	}
	return list, nil
}

// bodyXattrs are the attributes behind the fields of the inode itself.
func (f *FS) bodyXattrs(in *inode) ([]xattr, error) {
	start := 128 + int(in.extra)
	if len(in.raw) == 128 || in.fresh || start+8 > len(in.raw) || le.Uint32(in.raw[start:]) != xattrMagic {
		return nil, nil
	}
	return f.parseXattrs(in.raw, start+4, start+4)
}

// blockXattrs are the attributes in the inode's attribute block, which inodes
// with equal attributes share.
//
//	magic, references, blocks, hash, checksum (32 bits each), 12 bytes reserved
func (f *FS) blockXattrs(in *inode) ([]xattr, error) {
	if in.acl == 0 {
		return nil, nil
	}
	b, err := f.block(in.acl)
	if err != nil {
		return nil, wrap(err, "attributes of inode %d", in.ino)
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, corrupt("attributes of inode %d: no attribute block at %d", in.ino, in.acl)
	}
	if f.sb.metadataCsum() {
		c := crc32cLE(crc32cLE(f.sb.csumSeed, uint32(in.acl)), uint32(in.acl>>32))
		c = crc32cLE(crc32c(c, b[:16]), 0)
		if c = crc32c(c, b[20:]); c != le.Uint32(b[16:]) {
			return nil, corrupt("attribute block %d: checksum is %08x, stored %08x", in.acl, c, le.Uint32(b[16:]))
		}
	}
	list, err := f.parseXattrs(b, 32, 0)
	if err != nil {
		return nil, wrap(err, "attribute block %d", in.acl)
	}
	return list, nil
}

// xattrs are all attributes of an inode; of two with one name the first counts.
func (f *FS) xattrs(ino uint64) (*inode, []xattr, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, nil, err
	}
	body, err := f.bodyXattrs(in)
	if err != nil {
		return nil, nil, wrap(err, "inode %d", ino)
	}
	block, err := f.blockXattrs(in)
	if err != nil {
		return nil, nil, err
	}
	return in, append(body, block...), nil
}

// Xattrs lists the names of an inode's attributes.
func (f *FS) Xattrs(ino uint64) ([]string, error) {
	_, list, err := f.xattrs(ino)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list {
		if name := list[i].fullName(); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Xattr gives one value.
func (f *FS) Xattr(ino uint64, name string) ([]byte, error) {
	in, list, err := f.xattrs(ino)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(x xattr) bool { return x.fullName() == name })
	if i < 0 || name == "" {
		return nil, fmt.Errorf("%q of inode %d: %w", name, ino, filesys.ErrNoXattr)
	}
	x := list[i]
	value := bytes.Clone(x.value)
	if x.inum != 0 {
		if value, err = f.xattrInode(in, &x); err != nil {
			return nil, wrap(err, "%q of inode %d", name, ino)
		}
	}
	if name == aclAccess || name == aclDefault {
		if value, err = decodeACL(value); err != nil {
			return nil, wrap(err, "%q of inode %d", name, ino)
		}
	}
	if value == nil {
		value = []byte{}
	}
	return value, nil
}

// xattrInode reads a value that is kept in an inode of its own. The inode has
// the value's checksum in place of its access time. Those that Lustre wrote
// have none, and name their owner instead.
func (f *FS) xattrInode(owner *inode, x *xattr) ([]byte, error) {
	if x.size > xattrSizeMax {
		return nil, fmt.Errorf("value of %d bytes, more than Linux hands out: %w", x.size, filesys.ErrUnsupported)
	}
	in, err := f.anyInode(uint64(x.inum))
	if err != nil {
		return nil, required(err, "value")
	}
	if in.flags&flagEAInode == 0 || !in.isRegular() || in.size != int64(x.size) {
		return nil, corrupt("inode %d does not hold a value of %d bytes", x.inum, x.size)
	}
	value, err := f.readAll(in, xattrSizeMax)
	if err != nil {
		return nil, err
	}
	lustre := le.Uint32(in.raw[0x10:]) == owner.ino && in.gen == owner.gen
	if sum := crc32c(f.sb.csumSeed, value); sum != le.Uint32(in.raw[0x08:]) && !lustre {
		return nil, corrupt("value in inode %d: checksum is %08x, stored %08x", x.inum, sum, le.Uint32(in.raw[0x08:]))
	}
	return value, nil
}
