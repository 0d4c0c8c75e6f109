package btrfs

import (
	"bytes"
	"fmt"

	"cairn/mount/filesys"
)

// maxXattrs bounds the names that are listed: Linux lists 64 KiB of them.
const maxXattrs = 1 << 16

// Xattrs lists the names, which stand there whole.
func (f *FS) Xattrs(ino uint64) (list []string, err error) {
	if f.isDead(ino) {
		return nil, nil
	}
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	size := 0
	c, err := in.t.seek(key{in.obj, typeXattr, 0})
	for ; err == nil && c.at(in.obj, typeXattr); err = c.next() {
		for e, err := range dirEntries(c.data) {
			if err == nil && (len(e.name) == 0 || bytes.IndexByte(e.name, 0) >= 0) {
				err = corrupt("name %q", e.name)
			}
			if size += len(e.name) + 1; err == nil && size > 16*maxXattrs {
				err = corrupt("more than %d bytes of names", 16*maxXattrs)
			}
			if err != nil {
				return nil, wrap(err, "attributes of inode %d", ino)
			}
			list = append(list, string(e.name))
		}
	}
	if err != nil {
		return nil, wrap(err, "attributes of inode %d", ino)
	}
	return list, nil
}

// Xattr gives one value. Access control lists are stored as Linux shows them.
func (f *FS) Xattr(ino uint64, name string) ([]byte, error) {
	if f.isDead(ino) {
		return nil, fmt.Errorf("%q of inode %d: %w", name, ino, filesys.ErrNoXattr)
	}
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	b, ok, err := in.t.get(key{in.obj, typeXattr, nameHash(name)})
	if err != nil {
		return nil, wrap(err, "%q of inode %d", name, ino)
	}
	if ok {
		for e, err := range dirEntries(b) {
			if err != nil {
				return nil, wrap(err, "%q of inode %d", name, ino)
			}
			if string(e.name) == name {
				return bytes.Clone(e.data), nil
			}
		}
	}
	return nil, fmt.Errorf("%q of inode %d: %w", name, ino, filesys.ErrNoXattr)
}
