package fat

import (
	"fmt"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// raw reads the entry that an inode number names.
func (f *FS) raw(ino uint64) ([]byte, error) {
	const none = "inode %d: %w"
	if ino >= uint64(f.boot.end)/cluster.SlotSize || ino >= uint64(f.volume.Size())/cluster.SlotSize {
		return nil, fmt.Errorf(none, ino, filesys.ErrNotExist)
	}
	off := int64(ino * cluster.SlotSize)
	if off < f.boot.rootOff || f.boot.width == 32 && off < f.boot.heap {
		return nil, fmt.Errorf(none, ino, filesys.ErrNotExist)
	}
	p, err := f.volume.Window().At(off, cluster.SlotSize)
	if err != nil {
		return nil, fmt.Errorf(none, ino, err)
	}
	if p[0] == 0 || p[0] == 0xE5 || p[11]&attrVolume != 0 {
		return nil, fmt.Errorf(none, ino, filesys.ErrNotExist)
	}
	return p, nil
}

// first is the number of an entry's first cluster. Before FAT32, its upper half
// was something else.
func (f *FS) first(raw []byte) uint32 {
	c := uint32(le.Uint16(raw[26:]))
	if f.boot.width == 32 {
		c |= uint32(le.Uint16(raw[20:])) << 16
	}
	return c
}

// Attr is what stat tells about an inode. The size of a directory is that of
// its clusters.
func (f *FS) Attr(ino uint64) (filesys.Attr, error) {
	a := filesys.Attr{Ino: ino, Mode: filesys.TypeDir | 0o755, Nlink: 1}
	if ino == rootIno {
		a.Size = f.root.size
		a.Blocks = f.blocks(a.Size)
		a.Atime, a.Mtime, a.Ctime = f.labelled, f.labelled, f.labelled
		return a, nil
	}
	raw, err := f.raw(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	switch {
	case raw[11]&attrDirectory != 0:
		d, err := f.openDir(ino, raw)
		if err != nil {
			return filesys.Attr{}, fmt.Errorf("directory %d: %w", ino, err)
		}
		a.Size = d.size
	case raw[11]&attrReadOnly != 0:
		a.Mode = filesys.TypeRegular | 0o444
	default:
		a.Mode = filesys.TypeRegular | 0o644
	}
	if raw[11]&attrDirectory == 0 {
		a.Size = int64(le.Uint32(raw[28:]))
	}
	a.Blocks = f.blocks(a.Size)
	a.Mtime = cluster.Stamp(le.Uint16(raw[24:]), le.Uint16(raw[22:]), 0)
	a.Ctime = a.Mtime
	a.Atime = cluster.Stamp(le.Uint16(raw[18:]), 0, 0)
	a.Btime = cluster.Stamp(le.Uint16(raw[16:]), le.Uint16(raw[14:]), raw[13])
	return a, nil
}

// blocks is the space that size bytes take, in units of 512 bytes.
func (f *FS) blocks(size int64) int64 { return f.table.Count(size) * f.boot.cluster / 512 }

// Open gives the content of a regular file, which is a filesys.Stored.
func (f *FS) Open(ino uint64) (filesys.File, error) {
	if ino == rootIno {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	}
	raw, err := f.raw(ino)
	if err != nil {
		return nil, err
	}
	if raw[11]&attrDirectory != 0 {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	}
	size := int64(le.Uint32(raw[28:]))
	if size == 0 {
		return cluster.NewContent(nil, 0, 0), nil
	}
	c, err := f.table.Chain(f.first(raw), f.table.Count(size))
	if err != nil {
		return nil, fmt.Errorf("file %d of %d bytes: %w", ino, size, err)
	}
	return cluster.NewContent(c, size, size), nil
}

// exists is an inode's error, if it has one.
func (f *FS) exists(ino uint64) error {
	if ino == rootIno {
		return nil
	}
	_, err := f.raw(ino)
	return err
}

// Readlink: FAT has no symbolic links.
func (f *FS) Readlink(ino uint64) (string, error) {
	if err := f.exists(ino); err != nil {
		return "", err
	}
	return "", fmt.Errorf("target of inode %d: %w", ino, filesys.ErrInvalid)
}

// Xattrs: FAT has no extended attributes.
func (f *FS) Xattrs(ino uint64) ([]string, error) { return nil, f.exists(ino) }

// Xattr gives none.
func (f *FS) Xattr(ino uint64, name string) ([]byte, error) {
	if err := f.exists(ino); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("attribute %q of inode %d: %w", name, ino, filesys.ErrNoXattr)
}
