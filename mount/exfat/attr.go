package exfat

import (
	"fmt"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// Attr is what stat tells about an inode.
func (f *FS) Attr(ino uint64) (filesys.Attr, error) {
	a := filesys.Attr{Ino: ino, Mode: filesys.TypeDir | 0o755, Nlink: 1}
	if ino == rootIno {
		a.Size = f.rootSize
		a.Blocks = f.rootSize / 512
		return a, nil
	}
	e, err := f.load(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	switch {
	case e.isDir():
	case e.attr&attrReadOnly != 0:
		a.Mode = filesys.TypeRegular | 0o444
	default:
		a.Mode = filesys.TypeRegular | 0o644
	}
	a.Size = e.size
	// Space beyond what the volume has is a lie, which Open tells.
	a.Blocks = min(f.table.Count(e.size), int64(f.boot.clusters)) << (f.boot.clusterBits - 9)
	a.Atime, a.Mtime, a.Ctime, a.Btime = e.accessed, e.modified, e.modified, e.created
	return a, nil
}

// Open gives the content of a regular file, which is a filesys.Stored.
func (f *FS) Open(ino uint64) (filesys.File, error) {
	if ino == rootIno {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	}
	e, err := f.load(ino)
	if err != nil {
		return nil, err
	}
	if e.isDir() {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	}
	if f.table.Count(e.size) > int64(f.boot.clusters) {
		return nil, cluster.Corrupt("file %d of %d bytes in a volume of %d clusters", ino, e.size, f.boot.clusters)
	}
	if e.valid == 0 {
		return cluster.NewContent(nil, e.size, 0), nil
	}
	c, err := f.chain(e, e.valid)
	if err != nil {
		return nil, fmt.Errorf("file %d of %d bytes: %w", ino, e.size, err)
	}
	return cluster.NewContent(c, e.size, e.valid), nil
}

// exists is an inode's error, if it has one.
func (f *FS) exists(ino uint64) error {
	if ino == rootIno {
		return nil
	}
	_, err := f.load(ino)
	return err
}

// Readlink: exFAT has no symbolic links.
func (f *FS) Readlink(ino uint64) (string, error) {
	if err := f.exists(ino); err != nil {
		return "", err
	}
	return "", fmt.Errorf("target of inode %d: %w", ino, filesys.ErrInvalid)
}

// Xattrs: exFAT has no extended attributes.
func (f *FS) Xattrs(ino uint64) ([]string, error) { return nil, f.exists(ino) }

// Xattr gives none.
func (f *FS) Xattr(ino uint64, name string) ([]byte, error) {
	if err := f.exists(ino); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("attribute %q of inode %d: %w", name, ino, filesys.ErrNoXattr)
}
